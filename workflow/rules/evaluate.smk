# prediction + reference -> score rows
SCORES = RESULTS.scores(ANY)
EVALUATE = (
    "medseg evaluate --config {params.config:q} --manifest {input.manifest:q} --predictions {input.predictions:q}"
    " --model {params.model:q} {params.part:q} --out {params.out:q} 2>&1 | tee {log:q}"
)


rule evaluate_shard:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=predictions_of,
        spec=spec_of,
    output:
        RESULTS.scores_shard(ANY, SHARD),
    log:
        LOG("evaluate_shard"),
    benchmark:
        BENCHMARK("evaluate_shard")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("evaluate"),
        depends=lambda w: slices.evaluate_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        out=lambda w: RESULTS.scores(study.key_of(w)),
        part=part_of,
    shell:
        EVALUATE


rule evaluate:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=predictions_of,
        spec=spec_of,
        shards=[RESULTS.scores_shard(ANY, shard) for shard in SHARDS],
    output:
        SCORES,
        RESULTS.model(ANY).quality,
    log:
        LOG("evaluate"),
    benchmark:
        BENCHMARK("evaluate")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("evaluate"),
        depends=lambda w: slices.evaluate_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        out=lambda w, output: output[0],
        part=JOIN,
    shell:
        EVALUATE
