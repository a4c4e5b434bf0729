# score rows of all models -> statistics, ranking
rule compare:
    input:
        scores=of_scored_runs(RESULTS.scores),
        models=of_scored_runs(described),
    output:
        scores=RESULTS.compare.scores,
        leaderboard=RESULTS.compare.leaderboard,
        summary=RESULTS.compare.summary,
    log:
        LOG("compare"),
    benchmark:
        BENCHMARK("compare")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        code=code("compare"),
        models=[f"--model={folder}" for folder in of_scored_runs(model_folder)],
        out=RESULTS.compare.folder,
        margin=[f"--margin={CONFIG.compare.margin}"] if CONFIG.compare.margin else [],
    shell:
        "medseg compare {input.scores:q} {params.models:q} --out {params.out:q} {params.margin:q} 2>&1 | tee {log:q}"
