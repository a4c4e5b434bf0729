# prepared cases + plan + fold -> checkpoint
# Nodes of a cluster often have no way out. Fetching is no reason to train again, so that its code is no parameter
# (and no row of medseg/stages.py).
localrules:
    weights,


rule weights:
    input:
        lambda w: weights_file(CONFIG, w.model) or [],
    output:
        RESULTS.weights(MODEL),
    log:
        LOG("weights"),
    benchmark:
        BENCHMARK("weights")
    conda:
        ENVIRONMENT
    params:
        config=RESULTS.config,
        depends=lambda w: slices.weights_slice(CONFIG, w.model),
    shell:
        "medseg weights --config {params.config:q} --model {wildcards.model:q} --out {output:q} 2>&1 | tee {log:q}"


rule train:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        plan=rules.plan.output,
        index=index_of,
        start=start_file,
        encoder=encoder_file,
    output:
        weights=RESULTS.model(ANY).weights,
        spec=RESULTS.model(ANY).description,
        history=RESULTS.model(ANY).history,
        timing=RESULTS.model(ANY).timing,
    log:
        LOG("train"),
    benchmark:
        BENCHMARK("train")
    conda:
        ENVIRONMENT
    threads: CONFIG.threads
    resources:
        gpu=submission.training_gpus(CONFIG),
        # Resources, since no bit of a result depends on them: a change trains nothing again.
        readers=submission.reading_workers(CONFIG),
        reading_s=submission.reading_seconds(CONFIG),
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        code=code("train"),
        out=lambda w, output: Path(output.weights).parent,
        # None, or two words; quoted one by one below.
        start=start_option,
        # Instead of an input: what lies outside the study may go away, and its model stays.
        started=lambda w: start_digest(CONFIG, study.key_of(w)),
        encoder=encoder_option,
        allow=lambda w: [f"--allow={name}" for name in CONFIG.models[w.model].allow],
        # Where curves are mirrored to is no reason to train again, and no input: Snakemake looks at nothing below an
        # `ancient` input whose job runs. A training that begins before the store is there tries again.
        store=RESULTS.tracking.store,
        # Not an output: Snakemake deletes the outputs of a failed job, and from this it resumes.
        state=lambda w: RESULTS.state(study.key_of(w)),
    shell:
        "medseg train --manifest {input.manifest:q} --plan {input.plan:q} --index {input.index:q}"
        " --splits {input.splits:q} --fold {wildcards.fold} --seed {wildcards.seed} --code {params.code:q}"
        " --workers {resources.readers:q} --worker-timeout {resources.reading_s:q}"
        " --state {params.state:q} {params.start:q} {params.encoder:q} {params.allow:q} --track {params.store:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
