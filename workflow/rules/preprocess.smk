# case + plan's grid -> prepared case on disk; models that agree on the grid share one store
rule preprocess:
    input:
        manifest=rules.ingest.output.manifest,
        fingerprint=rules.fingerprint.output,
    output:
        index=f"{RESULTS}/{{dataset}}/preprocess/{{grid}}/index.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/preprocess/{{grid}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/preprocess/{{grid}}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=CONFIG_FILE,
        code=code_of("preprocess"),
        # The store's name says which overrides of the grid it has; any model that uses it will do.
        model=lambda w: study.grid_model(CONFIG, w.grid),
        out=lambda w, output: str(Path(output.index).parent),
    shell:
        "medseg preprocess --config {params.config:q} --model {params.model:q} --manifest {input.manifest:q}"
        " --fingerprint {input.fingerprint:q} --code {params.code:q} --workers {threads}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
