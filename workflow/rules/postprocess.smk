# prediction (and the image, where probabilities are refined) -> prediction, by the operations that are configured
rule postprocess:
    input:
        manifest=rules.ingest.output.manifest,
        predictions=PREDICTIONS.record,
        spec=spec_of,
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
