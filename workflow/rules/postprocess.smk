# predictions of the other folds -> the operations that belong to a model; where nothing is to be chosen, the fixed ones
rule choose:
    input:
        manifest=rules.ingest.output.manifest,
        splits=rules.ingest.output.splits,
        spec=spec_of,
        predictions=inner_predictions,
    output:
        RESULTS.model(ANY).postprocess,
    log:
        LOG("choose"),
    benchmark:
        BENCHMARK("choose")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("choose"),
        depends=lambda w: slices.postprocess_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        given=lambda w, input: [f"--predictions={path}" for path in input.predictions],
    shell:
        "medseg choose --config {params.config:q} --manifest {input.manifest:q} --splits {input.splits:q}"
        " --model {params.model:q} {params.given:q} 2>&1 | tee {log:q}"


# prediction (and the image, where probabilities are refined) -> prediction, by the operations that are configured
rule postprocess:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=PREDICTIONS.record,
        spec=spec_of,
        settled=rules.choose.output,
    output:
        RESULTS.postprocess(ANY).record,
    log:
        LOG("postprocess"),
    benchmark:
        BENCHMARK("postprocess")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=mem_mb,
        runtime=minutes,
    params:
        config=RESULTS.config,
        code=code("postprocess"),
        depends=lambda w: slices.postprocess_slice(CONFIG, w.dataset),
        model=lambda w, input: Path(input.spec).parent,
        out=lambda w, output: Path(output[0]).parent,
    shell:
        "medseg postprocess --config {params.config:q} --manifest {input.manifest:q}"
        " --predictions {input.predictions:q} --code {params.code:q} --model {params.model:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
