# score rows of all models -> statistics, ranking
rule compare:
    input:
        of_runs(RESULTS.scores),
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
        again=again(RESULTS.compare.summary),
        code=code("compare"),
        out=RESULTS.compare.folder,
        margin=[f"--margin={CONFIG.compare.margin}"] if CONFIG.compare.margin else [],
    shell:
        "medseg compare {input:q} --out {params.out:q} {params.margin:q} 2>&1 | tee {log:q}"
