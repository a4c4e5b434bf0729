# raw files -> checked manifest and folds
for _name, _dataset in CONFIG.datasets.items():
    if _dataset.generate:

        rule:
            name:
                f"phantoms_{_name}"
            output:
                f"{CONFIG.data_root}/{_dataset.path}/phantoms.json",
            log:
                f"{RESULTS}/logs/{_name}/phantoms.log",
            benchmark:
                f"{RESULTS}/benchmarks/{_name}/phantoms.tsv"
            conda:
                "../../environment.yml"
            resources:
                mem_mb=1000,
                runtime=30,
            params:
                config=CONFIG_FILE,
                code=code_of("ingest"),
                depends=study.canonical_json(_dataset.generate.model_dump()),
                dataset=_name,
            shell:
                "medseg phantoms --config {params.config:q} --dataset {params.dataset:q} 2>&1 | tee {log:q}"


# Nodes of a cluster often have no way out; does nothing where the folder is there.
localrules:
    download,


rule download:
    output:
        record=f"{RESULTS}/{{dataset}}/download.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/download.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/download.tsv"
    conda:
        "../../environment.yml"
    params:
        config=CONFIG_FILE,
        depends=lambda w: study.download_slice(CONFIG, w.dataset),
    shell:
        "medseg download --config {params.config:q} --dataset {wildcards.dataset:q} --out {output.record:q}"
        " 2>&1 | tee {log:q}"


rule ingest:
    input:
        made,
    output:
        manifest=f"{RESULTS}/{{dataset}}/ingest/manifest.tsv",
        facts=f"{RESULTS}/{{dataset}}/ingest/dataset.json",
        splits=f"{RESULTS}/{{dataset}}/ingest/splits.json",
        # Read by no rule: only the command `medseg test` opens the test set.
        test=f"{RESULTS}/{{dataset}}/ingest/test.tsv",
        opening=f"{RESULTS}/{{dataset}}/ingest/test.json",
    log:
        f"{RESULTS}/logs/{{dataset}}/ingest.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{dataset}}/ingest.tsv"
    conda:
        "../../environment.yml"
    threads: CASE_WORKERS
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        config=CONFIG_FILE,
        code=code_of("ingest"),
        depends=lambda w: study.dataset_slice(CONFIG, w.dataset),
        out=lambda w, output: str(Path(output.manifest).parent),
    shell:
        "medseg ingest --config {params.config:q} --dataset {wildcards.dataset:q} --workers {threads}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
