# runs -> MLflow. The store is created once, before anything writes to it.
rule tracking_init:
    output:
        f"{RESULTS}/tracking/store.json",
    log:
        f"{RESULTS}/logs/tracking_init.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        config=CONFIG_FILE,
        uri=CONFIG.tracking.uri or "",
        experiment=CONFIG.experiment,
    shell:
        "medseg track init --config {params.config:q} --out {output:q} 2>&1 | tee {log:q}"


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
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=lambda w, output: str(Path(output[0]).parents[1]),
        code=study.closure_digest("medseg.tracking"),
    shell:
        "medseg track sync {params.results:q} --out {output:q} 2>&1 | tee {log:q}"
