"""What the MLflow UI shows of an experiment: a description and two tables.

MLflow's own table opens without any metric or parameter and, since 3.17, among the tools for language models.
A table is a tag of the experiment that the UI's own "share" button would write; its address names it.
"""

from __future__ import annotations

from medseg.compare.quantity import MEAN, RANKED, SCORE
from medseg.files import canonical_json
from medseg.tracking.names import PREFIX, beside_mean, score_name

MODELS, TRAININGS = "models", "trainings"
# What models are ranked by: of objects from PQ, of other data from Dice.
PRIMARY = score_name(f"{SCORE}_subject", MEAN)
SCORES = (PRIMARY, *(score_name(f"{name}_subject", MEAN) for name in (RANKED, "iou")), "time/train_s")
# Columns of runs whose objects were scored; MLflow shows none that no run has.
OBJECT_SCORES = tuple(score_name(f"{name}_subject", MEAN) for name in ("pq", "ap50", "map"))
SETTINGS = ("dataset", "network", "head", "loss", "lr", "patch", "batch", "steps", "parameters")
# Name of a table -> metrics and parameters that are its columns; the UI sorts them by name.
VIEWS = {
    MODELS: ((*SCORES, *OBJECT_SCORES, *(beside_mean(f"{SCORE}_subject", end) for end in ("low", "high"))), SETTINGS),
    TRAININGS: ((*SCORES, *OBJECT_SCORES, f"{PREFIX}/n_missed", f"{PREFIX}/n_failed"), ("fold", "seed", *SETTINGS)),
}


def view_path(experiment: str, view: str) -> str:
    """Address of a table of an experiment, relative to the UI's."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def experiment_tags(experiment: str) -> dict[str, str]:
    """The tags of an experiment."""
    note = (
        f"A study made by medseg. [Models]({view_path(experiment, MODELS)}): one run per data set and model; "
        f"select two or more and press Compare. [Trainings]({view_path(experiment, TRAININGS)}): in each, "
        "one run per fold and seed, with curves, scores of every case, and the model."
    )
    return {
        "mlflow.note.content": note,
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": PRIMARY,
        **{f"mlflow.sharedViewState.{view}": _view(view) for view in VIEWS},
    }


def _view(view: str) -> str:
    metrics, params = VIEWS[view]
    return canonical_json(
        {
            "searchFilter": f"tags.`medseg.kind` = '{view}' and tags.`medseg.superseded` = 'false'",
            "orderByKey": f"metrics.`{PRIMARY}`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": [*(f"metrics.`{m}`" for m in metrics), *(f"params.`{p}`" for p in params)],
        }
    )
