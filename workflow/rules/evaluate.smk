# prediction + reference -> score rows
rule evaluate:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=predictions_of,
    output:
        f"{RESULTS}/{{dataset}}/evaluate/{{model}}/fold{{fold}}-seed{{seed}}.parquet",
    log:
        f"{RESULTS}/logs/{{dataset}}/evaluate/{{model}}-fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/evaluate/{{model}}-fold{{fold}}-seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        config=CONFIG_FILE,
        code=code_of("evaluate"),
    shell:
        "medseg evaluate --config {params.config:q} --manifest {input.manifest:q}"
        " --predictions {input.predictions:q} --out {output:q} 2>&1 | tee {log:q}"
