# manifest -> fingerprint -> plan
rule fingerprint:
    input:
        manifest=rules.ingest.output.manifest,
        facts=rules.ingest.output.facts,
    output:
        f"{RESULTS}/{{dataset}}/plan/fingerprint.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/fingerprint.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/fingerprint.tsv"
    conda:
        "../../environment.yml"
    threads: CASE_WORKERS
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        config=CONFIG_FILE,
        code=study.closure_digest("medseg.plan.fingerprint"),
    shell:
        "medseg fingerprint --config {params.config:q} --manifest {input.manifest:q} --workers {threads}"
        " --out {output:q} 2>&1 | tee {log:q}"


rule plan:
    input:
        fingerprint=rules.fingerprint.output,
    output:
        f"{RESULTS}/{{dataset}}/plan/{{model}}.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/plan/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/plan/{{model}}.tsv"
    conda:
        "../../environment.yml"
    # A budget in minutes is measured: nothing else may run beside it.
    threads: (workflow.cores or CONFIG.threads) if CONFIG.budget.minutes else 1
    resources:
        gpu=study.wants_gpu(CONFIG) if CONFIG.budget.minutes else 0,
        mem_mb=TRAIN_MB if CONFIG.budget.minutes else 1000,
        runtime=30,
    params:
        config=CONFIG_FILE,
        code=code_of("plan"),
        depends=lambda w: study.plan_slice(CONFIG, w.model),
    shell:
        "medseg plan --config {params.config:q} --model {wildcards.model:q} --fingerprint {input.fingerprint:q}"
        " --out {output:q} 2>&1 | tee {log:q}"
