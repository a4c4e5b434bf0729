# everything -> one HTML folder
rule report:
    input:
        rules.compare.output,
        of_runs("{dataset}/train/{model}/fold{fold}-seed{seed}/model.json"),
    output:
        f"{RESULTS}/report/index.html",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        config=CONFIG_FILE,
        results=lambda w, output: str(Path(output[0]).parents[1]),
        code=code_of("report"),
        depends=study.report_slice(CONFIG, Path(RESULTS)),
        out=lambda w, output: str(Path(output[0]).parent),
    shell:
        "medseg report --results {params.results:q} --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"
