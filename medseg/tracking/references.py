"""What users name as models: folders of trainings, patterns of them, and what MLflow holds."""

from __future__ import annotations

import atexit
import glob
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import CheckpointError, DataError, TrackingError
from medseg.files import read_json, sha256_file
from medseg.results.folders import ModelFolder
from medseg.tracking.failures import StoreError
from medseg.tracking.finished import BETWEEN, MEMBERS
from medseg.tracking.library import load_mlflow, store_errors, why
from medseg.tracking.listed import children_of, models_of, models_of_all, require_run, runs_of
from medseg.tracking.models import ARTIFACTS, FILES, FORMAT
from medseg.tracking.runs import SUPERSEDED
from medseg.tracking.store import Store, check_uri, connect, require_answer
from medseg.trained import read_trained

RUN_ID = re.compile(r"[0-9a-f]{32}")


def resolve_model(reference: str, store_uri: str | None) -> Path:
    """The model folder that a user means; arguments and errors as for ``resolve_models``.

    Raises:
        CheckpointError: as ``resolve_models``, and if several trainings are meant.
    """
    found = _resolved(reference, store_uri)
    if len(found) > 1:
        listed = "\n".join(f"  {name}" for name in found)
        raise CheckpointError(f"{reference}: stands for several trainings; name one of\n{listed}")
    return next(iter(found.values()))


def resolve_models(reference: str, store_uri: str | None) -> list[Path]:
    """The model folders that a user means, in the order of their names.

    Args:
        reference: a folder with ``model.json``, or with such folders in it; a pattern of folders (``fold*-seed0``); a
            run id, ``runs:/<run id>``, ``models:/<model id>``, ``models:/<name>/<version>`` or
            ``models:/<name>@<alias>``. The run of a model stands for all its trainings.
        store_uri: the tracking store; None: ``mlflow.db`` in the working folder.

    Raises:
        CheckpointError: if there is no such folder, or what MLflow holds is not a model of medseg.
        TrackingError: if the store cannot be reached or has no such run or model.
    """
    return list(_resolved(reference, store_uri).values())


def _resolved(reference: str, store_uri: str | None) -> dict[str, Path]:
    """What a user would name each model by (a folder, or a run and its name) -> its folder."""
    path = Path(reference)
    if path.is_file() and path.name in FILES:
        path = path.parent
    if path.exists():
        return {str(folder): folder for folder in _below(path)}
    run_id = reference.removeprefix("runs:/").split("/")[0]
    in_store = reference.startswith("models:/") or RUN_ID.fullmatch(run_id)
    if not in_store and (matched := sorted(glob.glob(reference, recursive=True))):
        return {str(folder): folder for match in matched for folder in _below(Path(match))}
    if not in_store:
        raise CheckpointError(
            f"{reference}: no such folder; expected a model folder, a run id (32 digits), runs:/ or models:/…"
        )
    mlflow = load_mlflow()
    store = Store(check_uri(store_uri), "", Path())
    mlflow.set_tracking_uri(store.uri)  # models:/ is looked up there, whatever store a call is given
    mlflow.set_registry_uri(store.uri)
    try:
        require_answer(store)
        client = connect(store)
        uris = {reference: reference} if reference.startswith("models:/") else _uris_of_run(client, run_id)
        return {name: check_model_folder(_fetch(store.uri, uri), reference) for name, uri in uris.items()}
    except StoreError as error:
        raise TrackingError(f"{reference}: {error}; or name the folder of the model") from error
    except store_errors() as error:
        raise TrackingError(f"{reference}: not found in {store.uri}: {why(error)}") from error


def _below(path: Path) -> list[Path]:
    """A model folder, or those in a folder of trainings; states of trainings lie in hidden folders."""
    if ModelFolder(path).description.is_file():
        return [path]
    if ModelFolder(path).members.is_file():
        return [member.folder for member in read_trained(path).members]
    found = sorted(file.parent for file in path.rglob(ModelFolder(path).description.name))
    found = [folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(path).parts)]
    if not found:
        raise CheckpointError(
            f"{path}: no model folder, and none in it; expected one with model.json and model.safetensors, as in "
            "results/<experiment>/<data set>/train/<model>/<run>"
        )
    return found


def _uris_of_run(client: Any, run_id: str) -> dict[str, str]:
    """The stored model of a training's run, or those of all trainings of a model's run, by run id and name."""
    run = require_run(client, run_id)
    experiment = run.info.experiment_id
    if ready := _ready(models_of(client, experiment, run_id)):
        return {_named(run): ready[0]}
    children = _members_of(client, run, [run, *_current(children_of(client, experiment, run_id))])
    stored = models_of_all(client, experiment, [child.info.run_id for child in children])
    missing = [str(child.info.run_name) for child in children if not _ready(stored[child.info.run_id])]
    if missing or not children:
        whose = f"; nor do {', '.join(missing)}, of which it is the parent" if missing else ""
        raise TrackingError(
            f"run {run_id} ({run.info.run_name}) holds no model{whose}; after its training, `medseg track sync "
            "results/<experiment>` stores it"
        )
    return {_named(child): _ready(stored[child.info.run_id])[0] for child in children}


def _named(run: Any) -> str:
    return f"{run.info.run_id}  {run.info.run_name}"


def _members_of(client: Any, run: Any, found: Sequence[Any]) -> list[Any]:
    """The runs of the trainings that a run stands for, by name: its children; of an ensemble, its members.

    Args:
        client: of the store.
        run: the run that a user names.
        found: it, and its current children.
    """
    lines = [line for one in found for line in one.data.tags.get(MEMBERS, "").splitlines()]
    runs = [child for child in found if child is not run]
    if lines:
        keys = [line.partition(BETWEEN)[0] for line in lines]
        runs = [one for key in keys for one in _current(runs_of(client, run.info.experiment_id, key))]
    return sorted({one.info.run_id: one for one in runs}.values(), key=lambda one: str(one.info.run_name))


def _current(runs: Iterable[Any]) -> list[Any]:
    return [run for run in runs if run.data.tags.get(SUPERSEDED) != "true"]


def _ready(models: Iterable[Any]) -> list[str]:
    return [f"models:/{model.model_id}" for model in models if str(model.status) == "READY"]


def _fetch(store_uri: str, model_uri: str) -> Path:
    """A folder with the artifacts of a model: the store's own if it is on this disk, else a copy until we exit."""
    from mlflow.artifacts import download_artifacts

    target: str | None = None
    if not store_uri.startswith("sqlite:"):
        target = tempfile.mkdtemp(prefix="medseg-model-")
        atexit.register(shutil.rmtree, target, ignore_errors=True)
    return Path(download_artifacts(artifact_uri=model_uri, dst_path=target)) / ARTIFACTS


def check_model_folder(folder: Path, reference: str) -> Path:
    """The folder, if it holds a model of medseg with the weights whose digest it records."""
    try:
        facts: Mapping[str, Any] = read_json(ModelFolder(folder).description)
        found, sha256 = facts.get("format"), facts.get("weights_sha256")
    except (DataError, AttributeError):
        raise CheckpointError(f"{reference}: found a model that medseg did not write; expected {FORMAT}") from None
    if found != FORMAT:
        raise CheckpointError(f"{reference}: found format {found!r}; expected {FORMAT!r}")
    weights = ModelFolder(folder).weights
    if not weights.is_file() or sha256_file(weights) != sha256:
        raise CheckpointError(f"{reference}: its weights are missing or damaged (SHA-256 differs)")
    return folder
