# prediction (and the image, where probabilities are refined) -> prediction, by the operations that are configured
rule postprocess:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=rules.predict.output,
    output:
        f"{RESULTS}/{{dataset}}/postprocess/{{model}}/fold{{fold}}-seed{{seed}}/predictions.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/postprocess/{{model}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/postprocess/{{model}}-fold{{fold}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=lambda w: (
            HOST_MB if study.wants_probabilities(CONFIG, w.dataset) else 2000
        ),
        runtime=120,
    params:
        config=CONFIG_FILE,
        code=code_of("postprocess"),
        depends=lambda w: study.postprocess_slice(CONFIG, w.dataset),
        out=lambda w, output: str(Path(output[0]).parent),
    shell:
        "medseg postprocess --config {params.config:q} --manifest {input.manifest:q}"
        " --predictions {input.predictions:q} --code {params.code:q} --out {params.out:q} 2>&1 | tee {log:q}"
