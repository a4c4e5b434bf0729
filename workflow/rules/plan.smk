# manifest -> fingerprint -> plan
rule fingerprint:
    input:
        manifest=rules.ingest.output.manifest,
        facts=rules.ingest.output.facts,
    output:
        RESULTS.plan(DATASET).fingerprint,
    log:
        LOG("fingerprint"),
    benchmark:
        BENCHMARK("fingerprint")
    conda:
        ENVIRONMENT
    threads: CASE_WORKERS
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("fingerprint"),
    shell:
        "medseg fingerprint --config {params.config:q} --manifest {input.manifest:q} --workers {threads}"
        " --out {output:q} 2>&1 | tee {log:q}"


rule plan:
    input:
        fingerprint=rules.fingerprint.output,
    output:
        RESULTS.plan(DATASET).plan(MODEL),
    log:
        LOG("plan"),
    benchmark:
        BENCHMARK("plan")
    conda:
        ENVIRONMENT
    # A budget in minutes is measured: on one machine, nothing else may run beside it. On a cluster it asks for what
    # training asks for, since what it finds is what it plans for.
    threads: submission.planning_threads(CONFIG, workflow.cores if HERE else None)
    resources:
        gpu=GPU if CONFIG.budget.minutes or not HERE else 0,
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("plan"),
        depends=lambda w: slices.plan_slice(CONFIG, w.model),
    shell:
        "medseg plan --config {params.config:q} --model {wildcards.model:q} --fingerprint {input.fingerprint:q}"
        " --out {output:q} 2>&1 | tee {log:q}"
