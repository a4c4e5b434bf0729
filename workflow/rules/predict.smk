# checkpoint + the fold's validation images -> label maps on their own grids
rule predict:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        weights=rules.train.output.weights,
        spec=rules.train.output.spec,
    output:
        f"{RESULTS}/{{dataset}}/predict/{{model}}/fold{{fold}}-seed{{seed}}/predictions.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/predict/{{model}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/predict/{{model}}-fold{{fold}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        gpu=study.wants_gpu(CONFIG),
        mem_mb=4000,
        runtime=240,
    params:
        config=CONFIG_FILE,
        code=code_of("predict"),
        depends=lambda w: study.predict_slice(CONFIG, w.dataset),
        model=lambda w, input: str(Path(input.spec).parent),
        out=lambda w, output: str(Path(output[0]).parent),
    shell:
        "medseg predict --config {params.config:q} --manifest {input.manifest:q} --splits {input.splits:q}"
        " --fold {wildcards.fold} --model {params.model:q} --out {params.out:q} 2>&1 | tee {log:q}"
