# checkpoint + the fold's validation images -> label maps on their own grids
PREDICTIONS = RESULTS.predict(ANY)
PREDICT = (
    "medseg predict --config {params.config:q} --manifest {input.manifest:q} --splits {input.splits:q}"
    " --fold {wildcards.fold} --model {params.model:q} --code {params.case_code:q} {params.part:q}"
    # The training that the model must be.
    " --plan {input.plan:q} --index {input.index:q} --seed {wildcards.seed} --train-code {params.train_code:q}"
    " {params.start:q} {params.encoder:q}"
    " --out {params.out:q} 2>&1 | tee {log:q}"
)


rule predict_shard:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        weights=rules.train.output.weights,
        spec=rules.train.output.spec,
        plan=rules.plan.output,
        index=index_of,
        start=start_file,
        encoder=encoder_file,
    output:
        PREDICTIONS.shard(SHARD),
    log:
        LOG("predict_shard"),
    benchmark:
        BENCHMARK("predict_shard")
    wildcard_constraints:
        model=any_of(CONFIG.models),
    conda:
        ENVIRONMENT
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("predict"),
        case_code=code("predict_case"),
        train_code=code("train"),
        start=start_option,
        encoder=encoder_option,
        depends=lambda w: slices.predict_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        out=lambda w, output: Path(output[0]).parent,
        part=part_of,
    shell:
        PREDICT


rule predict:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        weights=rules.train.output.weights,
        spec=rules.train.output.spec,
        plan=rules.plan.output,
        index=index_of,
        start=start_file,
        encoder=encoder_file,
        shards=[PREDICTIONS.shard(shard) for shard in SHARDS],
    output:
        PREDICTIONS.record,
    log:
        LOG("predict"),
    benchmark:
        BENCHMARK("predict")
    wildcard_constraints:
        model=any_of(CONFIG.models),
    conda:
        ENVIRONMENT
    threads: 1 if SHARDS else CONFIG.threads
    resources:
        # Joining builds no network.
        gpu=0 if SHARDS else GPU,
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("predict"),
        case_code=code("predict_case"),
        train_code=code("train"),
        start=start_option,
        encoder=encoder_option,
        depends=lambda w: slices.predict_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        out=lambda w, output: Path(output[0]).parent,
        part=JOIN,
    shell:
        PREDICT
