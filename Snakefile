# Entry for a plain `snakemake`. An included file never sets the default target, so the default rule stands here.
include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
