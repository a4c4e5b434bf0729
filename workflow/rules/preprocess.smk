# case + plan's grid -> prepared case on disk; models that agree on the grid share one store
# The command finds a model that uses the grid: named here, another one in its place would run all of this again.
STORE = RESULTS.store(DATASET, GRID)
PREPROCESS = (
    "medseg preprocess --config {params.config:q} --grid {wildcards.grid:q} --manifest {input.manifest:q}"
    " --fingerprint {input.fingerprint:q} --code {params.case_code:q} --workers {threads} {params.part:q}"
    " --out {params.out:q} 2>&1 | tee {log:q}"
)


rule preprocess_shard:
    input:
        manifest=rules.ingest.output.manifest,
        fingerprint=rules.fingerprint.output,
    output:
        STORE.shard(SHARD),
    log:
        LOG("preprocess_shard"),
    benchmark:
        BENCHMARK("preprocess_shard")
    conda:
        ENVIRONMENT
    threads: CASE_WORKERS
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("preprocess"),
        case_code=code("preprocess_case"),
        out=lambda w, output: Path(output[0]).parent,
        part=part_of,
    shell:
        PREPROCESS


rule preprocess:
    input:
        manifest=rules.ingest.output.manifest,
        fingerprint=rules.fingerprint.output,
        shards=[STORE.shard(shard) for shard in SHARDS],
    output:
        index=STORE.index,
    log:
        LOG("preprocess"),
    benchmark:
        BENCHMARK("preprocess")
    conda:
        ENVIRONMENT
    threads: CASE_WORKERS
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("preprocess"),
        case_code=code("preprocess_case"),
        out=lambda w, output: Path(output.index).parent,
        part=JOIN,
    shell:
        PREPROCESS
