# runs -> MLflow. The store is created once, before anything writes to it.
rule tracking_init:
    output:
        f"{RESULTS}/tracking/store.json",
    log:
        f"{RESULTS}/logs/tracking_init.log",
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        uri=CONFIG.tracking.uri or "",
        experiment=CONFIG.experiment,
    shell:
        "medseg track init --config {CONFIG_FILE:q} --out {output:q} 2>&1 | tee {log:q}"


rule track:
    input:
        store=rules.tracking_init.output,
        models=of_runs("{dataset}/train/{model}/fold{fold}-seed{seed}/model.json"),
        scores=of_runs("{dataset}/evaluate/{model}/fold{fold}-seed{seed}.parquet"),
        summary=f"{RESULTS}/compare/summary.json",
        report=f"{RESULTS}/report/index.html",
    output:
        f"{RESULTS}/tracking/synced.txt",
    log:
        f"{RESULTS}/logs/track.log",
    benchmark:
        f"{RESULTS}/benchmarks/track.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=study.closure_digest("medseg.tracking"),
    shell:
        "medseg track sync {RESULTS:q} --out {output:q} 2>&1 | tee {log:q}"
