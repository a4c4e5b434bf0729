# score rows of all models -> statistics, ranking
rule compare:
    input:
        of_runs("{dataset}/evaluate/{model}/fold{fold}-seed{seed}.parquet"),
    output:
        scores=f"{RESULTS}/compare/scores.parquet",
        leaderboard=f"{RESULTS}/compare/leaderboard.csv",
        summary=f"{RESULTS}/compare/summary.json",
    log:
        f"{RESULTS}/logs/compare.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=code_of("compare"),
        out=lambda w, output: str(Path(output.summary).parent),
        margin=[f"--margin={CONFIG.compare.margin}"] if CONFIG.compare.margin else [],
    shell:
        "medseg compare {input:q} --out {params.out:q} {params.margin:q} 2>&1 | tee {log:q}"
