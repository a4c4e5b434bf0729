# everything -> one HTML folder
rule report:
    input:
        rules.compare.output,
        of_runs("{dataset}/train/{model}/fold{fold}-seed{seed}/model.json"),
    output:
        f"{RESULTS}/report/index.html",
    params:
        code=code_of("report"),
        out=lambda w, output: str(Path(output[0]).parent),
    resources:
        mem_mb=2000,
        runtime=60,
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    shell:
        "medseg report --results {RESULTS:q} --config {CONFIG_FILE:q} --out {params.out:q} 2>&1 | tee {log:q}"
