# Configuration, names and digests. Everything here runs again in every remote job: keep it light.
import sys
from pathlib import Path

# The package beside this workflow, not one that happens to be installed elsewhere.
sys.path.insert(0, str(Path(workflow.basedir).parent))

from medseg import workflow as study
from medseg.provenance import code_digest as code_of

MEDSEG = study.prefer_this_environment()

CONFIG = study.read_config(
    [Path(f) for f in workflow.config_settings.configfiles]
    or [Path("config/config.yaml")],
    workflow.config_settings.config,
)
RESULTS = f"{CONFIG.results}/{CONFIG.experiment}"
CONFIG_FILE = f"{RESULTS}/config.json"
UI_URI = f" --uri {CONFIG.tracking.uri}" if CONFIG.tracking.uri else ""
# Work on cases goes over all cores: its results do not depend on how many there are.
CASE_WORKERS = workflow.cores or CONFIG.threads
# One machine's jobs share its memory; training is given what its budget says.
TRAIN_MB = int((CONFIG.budget.memory_gb or 4) * 1000)
HOST_MB = int((CONFIG.budget.host_gb or 4) * 1000)

# Only the process that will run jobs takes the folder: not dry-runs, reports, or the jobs themselves.
if workflow.is_main_process and not workflow.dryrun:
    study.hold_folder(Path.cwd())
    study.write_config(CONFIG, Path(CONFIG_FILE))


wildcard_constraints:
    dataset="|".join(CONFIG.datasets),
    model="|".join(CONFIG.models),
    grid=r"default|grid-[0-9a-f]{8}",
    fold=r"\d+",
    seed=r"\d+",
    shard=r"\d+",


def of_runs(pattern):
    """All trainings of the experiment, as paths."""
    dataset, model, fold, seed = zip(*CONFIG.runs())
    return expand(
        f"{RESULTS}/{pattern}",
        zip,
        dataset=dataset,
        model=model,
        fold=fold,
        seed=seed,
    )


def example_model():
    """A model folder to show in a command."""
    return of_runs("{dataset}/train/{model}/fold{fold}-seed{seed}")[0]


def start_of(wildcards):
    """The file of the model that a training starts from, if there is one to wait for; and how it is named."""
    return study.start_of(
        CONFIG, wildcards.dataset, wildcards.model, wildcards.fold, wildcards.seed
    )


def predictions_of(wildcards):
    """What is evaluated: post-processed predictions where the data set asks for it."""
    stage = (
        "postprocess" if study.has_postprocess(CONFIG, wildcards.dataset) else "predict"
    )
    return f"{RESULTS}/{wildcards.dataset}/{stage}/{wildcards.model}/fold{wildcards.fold}-seed{wildcards.seed}/predictions.json"


def made(wildcards):
    """The marker of a generated or downloaded data set; nothing for data that are there."""
    dataset = CONFIG.datasets[wildcards.dataset]
    if dataset.generate:
        return f"{CONFIG.data_root}/{dataset.path}/phantoms.json"
    return f"{RESULTS}/{wildcards.dataset}/download.json" if dataset.download else []
