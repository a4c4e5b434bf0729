# case + plan's grid -> prepared case on disk; models that agree on the grid share one store
STORE = f"{RESULTS}/{{dataset}}/preprocess/{{grid}}"
# More than one job per store: each prepares its part of the cases, then `preprocess` gathers them.
SHARDS = range(CONFIG.shards) if CONFIG.shards > 1 else ()


rule preprocess_shard:
    input:
        manifest=rules.ingest.output.manifest,
        fingerprint=rules.fingerprint.output,
    output:
        done=f"{STORE}/shard-{{shard}}-of-{CONFIG.shards}.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/preprocess/{{grid}}-shard{{shard}}-of-{CONFIG.shards}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/preprocess/{{grid}}-shard{{shard}}-of-{CONFIG.shards}.tsv"
    conda:
        "../../environment.yml"
    threads: CASE_WORKERS
    resources:
        mem_mb=HOST_MB,
        runtime=240,
    params:
        config=CONFIG_FILE,
        code=code_of("preprocess"),
        model=lambda w: study.grid_model(CONFIG, w.grid),
        out=lambda w, output: str(Path(output.done).parent),
        shard=lambda w: f"{w.shard}/{CONFIG.shards}",
    shell:
        "medseg preprocess --config {params.config:q} --model {params.model:q} --manifest {input.manifest:q}"
        " --fingerprint {input.fingerprint:q} --code {params.code:q} --workers {threads} --shard {params.shard:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule preprocess:
    input:
        manifest=rules.ingest.output.manifest,
        fingerprint=rules.fingerprint.output,
        shards=[f"{STORE}/shard-{shard}-of-{CONFIG.shards}.json" for shard in SHARDS],
    output:
        index=f"{STORE}/index.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/preprocess/{{grid}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/preprocess/{{grid}}.tsv"
    conda:
        "../../environment.yml"
    threads: CASE_WORKERS
    resources:
        mem_mb=HOST_MB,
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
