# runs -> MLflow. The store is created once, before anything writes to it.
# Where jobs are submitted from: nodes of a cluster often have no way out, and machines cannot share a SQLite file.
localrules:
    tracking_init,
    track,


rule tracking_init:
    output:
        RESULTS.tracking.store,
    log:
        LOG("tracking_init"),
    # The first of all jobs that could begin.
    priority: 100
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        uri=CONFIG.tracking.uri or "",
        experiment=CONFIG.experiment,
    shell:
        "medseg track init --config {params.config:q} --out {output:q} 2>&1 | tee {log:q}"


rule track:
    input:
        store=rules.tracking_init.output,
        models=of_runs(described),
        settled=of_settled_runs(),
        quality=of_scored_runs(lambda key: RESULTS.model(key).quality),
        scores=of_scored_runs(RESULTS.scores),
        made_of_scores=if_scored(RESULTS.compare.summary, RESULTS.report.page),
    output:
        RESULTS.tracking.synced,
    log:
        LOG("track"),
    benchmark:
        BENCHMARK("track")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        results=RESULTS.root,
        code=code("track"),
    # A store that is away fails no study: the output says what is unsent, and the next run tries again.
    shell:
        "medseg track sync {params.results:q} --out {output:q} --defer 2>&1 | tee {log:q}"
