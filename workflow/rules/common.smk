# Configuration, names and digests. Everything here runs again in every remote job: keep it light.
import os
import re
import sys
from pathlib import Path

# In a clone, the package beside this workflow, not one that happens to be installed elsewhere.
BESIDE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (BESIDE / "medseg" / "__init__.py").is_file():
    sys.path.insert(0, str(BESIDE))
# Of the package whose commands the rules call.
VERSION = "0.1.0"
try:
    from medseg import __version__

    if __version__ != VERSION:
        raise ImportError(f"medseg {__version__} is installed")
    from medseg import as_module, cluster, ending, slices, submission, whole
    from medseg import workflow as study
    from medseg.config.grids import grid_name
    from medseg.fence import VARIABLE
    from medseg.files import canonical_json
    from medseg.places import source_of
    from medseg.starts import start_digest, weights_file
    from medseg.results.paths import ANY, DATASET, GRID, MODEL, SHARD, Results
except ImportError as error:
    # Where the workflow came alone, from a repository.
    print(
        f"{error}; this workflow runs the commands of the package medseg, of its own version: install medseg {VERSION}"
        f" beside Snakemake ({sys.executable})",
        file=sys.stderr,
    )
    sys.exit(2)

# A log that cannot be written says so and fails no job, whose own status is the one that counts.
shell.prefix('set -euo pipefail; tee() {{ command tee "$@" || true; }}; ')

study.require_files(
    workflow.storage_settings and workflow.storage_settings.default_storage_provider
)
MEDSEG = study.prefer_this_environment()

# Another Snakefile may have this workflow as a module; then it is the one that hands the configuration on.
IMPORTED = not workflow.modifier.is_main_snakefile()
if IMPORTED:
    CONFIG = as_module.handed_config(config, workflow.config_settings.config)
    as_module.require_plain_paths(workflow.modifier.modify_path)
else:
    CONFIG = study.read_config(
        [Path(f) for f in workflow.config_settings.configfiles]
        or [Path("config/config.yaml")],
        workflow.config_settings.config,
    )
own_name = as_module.own_names(workflow.modifier.modify_rulename)
submission.require_container(CONFIG, workflow.deployment_settings.deployment_method)
if CONFIG.container:

    container: CONFIG.container


# Every path, of one job or as a pattern with wildcards.
RESULTS = Results.of(CONFIG)
LOG, BENCHMARK = RESULTS.log, RESULTS.benchmark
UI_URI = f" --uri {CONFIG.tracking.uri}" if CONFIG.tracking.uri else ""
# Relative to the files of the rules.
ENVIRONMENT = "../../environment.yml"
# With `--jobs` Snakemake has others run its jobs, on machines of which this one says nothing.
if workflow.is_main_process:
    submission.settle_device(CONFIG, submits=workflow.nodes is not None)
HERE = workflow.is_main_process and workflow.nodes is None
# Work on cases goes over all cores of one machine: its results do not depend on how many there are. For a cluster, the
# profile says it (`set-threads`).
CASE_WORKERS = workflow.cores if HERE else CONFIG.threads
GPU = submission.wants_gpu(CONFIG)
# What one machine has. Jobs of a cluster are bounded by what it gives, and by `jobs`.
if HERE and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", submission.gpus_here(CONFIG))
# More than one job for the cases of a stage: each works on a part of them, and a last one joins the parts.
SHARDS = whole.shards(CONFIG)
JOIN = ["--join", str(CONFIG.shards)] if SHARDS else []

# The process that the user started takes the folder (Snakemake locks it for a dry run, too), the jobs' own do not.
# It asks for what was deleted or changed after it was made, besides the targets: Snakemake does not look at such files.
LOST = []
if workflow.is_main_process:
    LOST = study.begin(CONFIG, workflow.config_settings.config)
else:
    study.join()

# Jobs inherit which run of the workflow they are of, and that a cluster runs them. The run is drawn when the first
# one begins.
os.environ.setdefault(VARIABLE, "")
os.environ.setdefault(cluster.VARIABLE, "")


envvars:
    VARIABLE,
    cluster.VARIABLE,


onstart:
    study.start(CONFIG, workflow, own_name)


def any_of(names):
    """The pattern of one of some names; of none, what matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    dataset="|".join(map(re.escape, CONFIG.datasets)),
    model=any_of([*CONFIG.models, *CONFIG.ensembles]),
    grid=r"default|grid-[0-9a-f]{8}",
    fold=r"\d+|all",
    seed=r"\d+",
    shard=r"\d+-of-\d+",


def code(stage):
    """The digest of the code that a stage's jobs execute: a change of it runs them again."""
    return lambda wildcards: study.code_of(CONFIG, stage, wildcards)


def asked(wildcards, threads, attempt, rulename):
    """Memory and time of a job, from the manifest and the plan as soon as they are there."""
    job = submission.job(CONFIG, own_name(rulename), wildcards, threads)
    return submission.memory_and_time(workflow, rulename, job, attempt)


def mem_mb(wildcards, threads, attempt, rulename):
    """Memory of a job."""
    return asked(wildcards, threads, attempt, rulename)[0]


def minutes(wildcards, threads, attempt, rulename):
    """Time limit of a job."""
    return asked(wildcards, threads, attempt, rulename)[1]


def of_runs(path):
    """A path of each training of the experiment."""
    return [path(key) for key in whole.keys(CONFIG)]


def of_settled_runs():
    """The post-processing of each training whose data set has any."""
    named = [*whole.keys(CONFIG), *whole.ensemble_keys(CONFIG)]
    asking = [k for k in named if study.has_postprocess(CONFIG, k.dataset)]
    return [RESULTS.model(key).postprocess for key in asking]


def of_scored_runs(path):
    """A path of each training or ensemble that has cases to be scored on; none if all are trained on all cases."""
    return [path(key) for key in whole.judged_keys(CONFIG)]


def if_scored(*paths):
    """Paths of what is made of scores, if there are any."""
    return list(paths) if whole.scored_keys(CONFIG) else []


def model_folder(key):
    """The folder of a trained model, or of what stands for one of an ensemble."""
    return RESULTS.model(key).folder


def described(key):
    """The file that says what is in that folder."""
    files = RESULTS.model(key)
    return files.members if key.model in CONFIG.ensembles else files.description


def spec_of(wildcards):
    """The same, of a job."""
    return described(study.key_of(wildcards))


def of_members(path):
    """A path of each training of an ensemble."""
    return lambda w: [path(key) for key in study.members_of(CONFIG, study.key_of(w))]


def predictions_of(wildcards):
    """What is evaluated: post-processed predictions where the data set asks for it."""
    post = study.has_postprocess(CONFIG, wildcards.dataset)
    folder_of = RESULTS.postprocess if post else RESULTS.predict
    return folder_of(study.key_of(wildcards)).record


def start_of(wildcards):
    """The file of the model that a training starts from, if there is one to wait for; and how it is named."""
    return study.start_of(CONFIG, study.key_of(wildcards))


def index_of(wildcards):
    """The index of the prepared cases that a model is trained on."""
    return RESULTS.store(wildcards.dataset, grid_name(CONFIG, wildcards.model)).index


def start_file(wildcards):
    """The file of the model that a training starts from, if there is one to wait for."""
    return start_of(wildcards)[0] or []


def encoder_file(wildcards):
    """The record of the encoder's weights, if a model has any."""
    return study.weights_of(CONFIG, wildcards.model) or []


def start_option(wildcards):
    """The option that says what a training starts from."""
    return ["--start", start_of(wildcards)[1]] if start_of(wildcards)[1] else []


def encoder_option(wildcards, input):
    """The option that names the record of the encoder's weights."""
    return [f"--weights={input.encoder}"] if input.encoder else []


def inner_predictions(wildcards):
    """Predictions that a model's post-processing is chosen on: of cases that its results are not about."""
    inner = study.inner_of(CONFIG, study.key_of(wildcards))
    return [RESULTS.predict(key).record for key in inner]


def part_of(wildcards):
    """The option that gives a job its part of the cases."""
    return ["--shard", wildcards.shard.replace("-of-", "/")]


def made(wildcards):
    """The marker of a generated or downloaded data set; nothing for data that are there.

    A data set can also be read from the folder that another one's download fills.
    """
    if CONFIG.datasets[wildcards.dataset].generate:
        return whole.phantoms_marker(CONFIG, wildcards.dataset)
    source = source_of(CONFIG, wildcards.dataset)
    return RESULTS.download(source) if source else []
