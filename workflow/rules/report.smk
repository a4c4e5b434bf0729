# everything -> one HTML folder
rule report:
    input:
        rules.compare.output,
        of_runs(described),
    output:
        RESULTS.report.page,
    log:
        LOG("report"),
    benchmark:
        BENCHMARK("report")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        results=RESULTS.root,
        code=code("report"),
        depends=slices.report_slice(CONFIG),
        out=RESULTS.report.folder,
    shell:
        "medseg report --results {params.results:q} --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"
