# raw files -> checked manifest and folds
for _name, _dataset in CONFIG.datasets.items():
    if _dataset.generate:

        rule:
            name:
                f"phantoms_{_name}"
            output:
                whole.phantoms_marker(CONFIG, _name),
            log:
                LOG("phantoms", _name),
            benchmark:
                BENCHMARK("phantoms", _name)
            conda:
                ENVIRONMENT
            resources:
                mem_mb=mem_mb,
                runtime=minutes,
            params:
                config=RESULTS.config,
                code=code("phantoms"),
                depends=canonical_json(_dataset.generate.model_dump()),
                dataset=_name,
            shell:
                "medseg phantoms --config {params.config:q} --dataset {params.dataset:q} 2>&1 | tee {log:q}"


# Nodes of a cluster often have no way out; does nothing where the folder is there.
localrules:
    download,


rule download:
    output:
        record=RESULTS.download(DATASET),
    log:
        LOG("download"),
    benchmark:
        BENCHMARK("download")
    conda:
        ENVIRONMENT
    params:
        config=RESULTS.config,
        depends=lambda w: slices.download_slice(CONFIG, w.dataset),
    shell:
        "medseg download --config {params.config:q} --dataset {wildcards.dataset:q} --out {output.record:q}"
        " 2>&1 | tee {log:q}"


rule ingest:
    input:
        made,
    output:
        manifest=RESULTS.ingest(DATASET).manifest,
        facts=RESULTS.ingest(DATASET).dataset,
        splits=RESULTS.ingest(DATASET).splits,
        # Read by no rule: only the command `medseg test` opens the test set.
        test=RESULTS.ingest(DATASET).test_manifest,
        opening=RESULTS.ingest(DATASET).test_declaration,
    log:
        LOG("ingest"),
    benchmark:
        BENCHMARK("ingest")
    conda:
        ENVIRONMENT
    threads: CASE_WORKERS
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("ingest"),
        depends=lambda w: slices.dataset_slice(CONFIG, w.dataset),
        out=lambda w, output: Path(output.manifest).parent,
    shell:
        "medseg ingest --config {params.config:q} --dataset {wildcards.dataset:q} --workers {threads}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
