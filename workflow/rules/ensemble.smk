# trainings of a fold -> ensemble.json, which stands for them as model.json does for one; and their label maps together
PREDICT_TOGETHER = (
    "medseg predict --config {params.config:q} --manifest {input.manifest:q} --splits {input.splits:q}"
    " --fold {wildcards.fold} --model {params.model:q} --code {params.case_code:q} {params.part:q}"
    " --out {params.out:q} 2>&1 | tee {log:q}"
)


localrules:
    ensemble,


rule ensemble:
    input:
        specs=of_members(described),
        # Made by jobs that look whether their model is that of the present plan, data and code.
        predictions=of_members(lambda key: RESULTS.predict(key).record),
    output:
        RESULTS.model(ANY).members,
    log:
        LOG("ensemble"),
    benchmark:
        BENCHMARK("ensemble")
    wildcard_constraints:
        model=any_of(CONFIG.ensembles),
    conda:
        ENVIRONMENT
    params:
        config=RESULTS.config,
        members=lambda w: [
            f"--model={model_folder(key)}"
            for key in study.members_of(CONFIG, study.key_of(w))
        ],
        out=lambda w, output: Path(output[0]).parent,
    shell:
        "medseg ensemble --config {params.config:q} --dataset {wildcards.dataset:q} --name {wildcards.model:q}"
        " --fold {wildcards.fold} {params.members:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule predict_together_shard:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        spec=rules.ensemble.output,
        weights=of_members(lambda key: RESULTS.model(key).weights),
    output:
        PREDICTIONS.shard(SHARD),
    log:
        LOG("predict_shard"),
    benchmark:
        BENCHMARK("predict_shard")
    wildcard_constraints:
        model=any_of(CONFIG.ensembles),
    conda:
        ENVIRONMENT
    threads: CONFIG.threads
    resources:
        gpu=GPU,
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("ensemble"),
        case_code=code("ensemble_case"),
        depends=lambda w: slices.predict_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec[0]).parent,
        out=lambda w, output: Path(output[0]).parent,
        part=part_of,
    shell:
        PREDICT_TOGETHER


rule predict_together:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        spec=rules.ensemble.output,
        weights=of_members(lambda key: RESULTS.model(key).weights),
        shards=[PREDICTIONS.shard(shard) for shard in SHARDS],
    output:
        PREDICTIONS.record,
    log:
        LOG("predict"),
    benchmark:
        BENCHMARK("predict")
    wildcard_constraints:
        model=any_of(CONFIG.ensembles),
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
        code=code("ensemble"),
        case_code=code("ensemble_case"),
        depends=lambda w: slices.predict_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec[0]).parent,
        out=lambda w, output: Path(output[0]).parent,
        part=JOIN,
    shell:
        PREDICT_TOGETHER
