"""Models in MLflow: stored without pickle, found again by run id or model name."""

from __future__ import annotations

import atexit
import datetime
import functools
import glob
import re
import shutil
import tempfile
import threading
import uuid
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.errors import CheckpointError, DataError, TrackingError
from medseg.files import digest_of, read_json, sha256_file
from medseg.results.folders import ModelFolder
from medseg.tracking.failures import StoreError
from medseg.tracking.finished import Trained
from medseg.tracking.library import load_mlflow, store_errors, why
from medseg.tracking.listed import KEY, children_of, models_of, models_of_all, require_run
from medseg.tracking.names import PREFIX, safe_text
from medseg.tracking.runs import SUPERSEDED
from medseg.tracking.store import Store, check_uri, connect, require_answer
from medseg.tracking.uploads import upload
from medseg.trained import read_trained

FORMAT = "medseg-model-1"
FILES = (ModelFolder(Path()).description.name, ModelFolder(Path()).weights.name)
# What MLflow runs to load a model; a copy of it is stored with each.
CODE = Path(__file__).with_name("pyfunc_model.py")
# Options of ``medseg predict`` that a stored model takes.
OPTIONS = (
    *("layout", "series", "spacing", "orientation", "fill", "allow", "axes", "channels"),
    *("device", "threads", "mirror", "max_gb", "references"),
)
ARTIFACTS = "artifacts"  # MLflow's name of the folder of FILES
# Tag of a stored model: digest of all that it was made from.
KEY_TAG = "medseg.model_digest"
RUN_ID = re.compile(r"[0-9a-f]{32}")

_forming = threading.Lock()


def log_model(
    client: Any,
    store: Store,
    run: Any,
    trained: Trained,
    scores: Collection[str] | None,
    stored: Iterable[Any],
) -> tuple[Any, bool]:
    """Store a training's model with its run, unless the same one is there: description, weights and code.

    Args:
        client: of the store.
        store: it.
        run: of the training.
        trained: the training.
        scores: MLflow's names of all scores that it has; a stored model that shows others is stored anew, since MLflow
            cannot take a score from it. None: what is shown stays.
        stored: the models that are there with this run.

    Returns:
        What MLflow knows of the model, and whether it is new.
    """
    from mlflow.entities import LoggedModelOutput

    weights, key = str(trained.facts["weights_sha256"]), model_key(trained)
    run_id = run.info.run_id
    for known in stored:
        shown = {metric.key for metric in known.metrics or [] if metric.key.startswith(f"{PREFIX}/")}
        right = scores is None or shown <= set(scores)
        if str(known.status) == "READY" and known.tags.get(KEY_TAG) == key and right:
            if known.tags.get(SUPERSEDED) != "false":
                client.set_logged_model_tags(known.model_id, {SUPERSEDED: "false"})
            return known, False
        client.delete_logged_model(known.model_id)  # left incomplete by a killed process, or outdated
    params = {k: safe_text(v) for k, v in trained.spec.child_params.items()}
    made = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(r"[^A-Za-z0-9_-]", "_", trained.spec.key.replace("/", "-").replace(" ", "-")),
        source_run_id=run_id,
        tags={"medseg.weights_sha256": weights, KEY_TAG: key, KEY: trained.spec.key, SUPERSEDED: "false"},
        params=params,
        model_type="segmentation",
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(trained.folder, folder)
        upload(store, made.artifact_location, folder)
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])
    client.finalize_logged_model(made.model_id, "READY")
    return made, True


def model_key(trained: Trained) -> str:
    """Digest of all that the stored form of a training's model is made from; weights alone may belong to two models."""
    description = sha256_file(ModelFolder(trained.folder).description)
    return digest_of([description, trained.facts["weights_sha256"], sha256_file(CODE)])


def write_model(trained: Path, folder: Path) -> None:
    """Write the MLflow form of a model folder; torch is not imported and no requirement is guessed."""
    import yaml

    files, described = _form(CODE)
    (folder / ARTIFACTS).mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in FILES:
        shutil.copyfile(trained / name, folder / ARTIFACTS / name)
    size = sum((folder / name).stat().st_size for name in (CODE.name, *(f"{ARTIFACTS}/{name}" for name in FILES)))
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    own = {"model_uuid": uuid.uuid4().hex, "model_size_bytes": size, "utc_time_created": str(now)}
    (folder / "MLmodel").write_text(yaml.safe_dump({**described, **own}, sort_keys=False))


@functools.cache
def _form(code: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What MLflow writes of every model alike: files beside the model's own, and the description of all of them.

    MLflow takes some 12 ms of a processor to write it, and changes the process's warnings meanwhile.
    """
    import mlflow
    import yaml

    with _forming, tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asks for an input example, which would mean running the network
        import mlflow.pyfunc

        folder = Path(temporary) / "model"
        for name in FILES:
            (Path(temporary) / name).touch()
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(code),
            artifacts={name: str(Path(temporary) / name) for name in FILES},
            # MLflow takes no key that is not stored with the model; null: as trained.
            model_config={"out": "predictions", **dict.fromkeys(OPTIONS)},
            pip_requirements=[f"medseg=={__version__}", f"mlflow=={mlflow.__version__}"],
        )
        facts = yaml.safe_load((folder / "MLmodel").read_text())
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "MLmodel"}
    # MLflow writes down where the files came from on this machine; nothing reads it.
    flavor = facts["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for name in FILES:
        flavor["artifacts"][name]["uri"] = name
    return files, facts


def resolve_model(reference: str, store_uri: str | None) -> Path:
    """The model folder that a user means; arguments and errors as for ``resolve_models``.

    Raises:
        CheckpointError: as ``resolve_models``, and if several trainings are meant.
    """
    found = resolve_models(reference, store_uri)
    if len(found) > 1:
        listed = "\n".join(f"  {folder}" for folder in found)
        raise CheckpointError(f"{reference}: stands for several trainings; name one of\n{listed}")
    return found[0]


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
    path = Path(reference)
    if path.is_file() and path.name in FILES:
        path = path.parent
    if path.exists():
        return _below(path)
    run_id = reference.removeprefix("runs:/").split("/")[0]
    in_store = reference.startswith("models:/") or RUN_ID.fullmatch(run_id)
    if not in_store and (matched := sorted(glob.glob(reference, recursive=True))):
        return [folder for match in matched for folder in _below(Path(match))]
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
        uris = [reference] if reference.startswith("models:/") else _uris_of_run(client, run_id)
        return [check_model_folder(_fetch(store.uri, uri), reference) for uri in uris]
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


def _uris_of_run(client: Any, run_id: str) -> list[str]:
    """The stored model of a training's run, or those of all trainings of a model's run."""
    run = require_run(client, run_id)
    experiment = run.info.experiment_id
    if ready := _ready(models_of(client, experiment, run_id)):
        return ready[:1]
    children = [
        child
        for child in children_of(client, experiment, run_id)
        if child.info.run_id != run_id and child.data.tags.get(SUPERSEDED) != "true"
    ]
    children.sort(key=lambda child: str(child.info.run_name))
    stored = models_of_all(client, experiment, [child.info.run_id for child in children])
    missing = [str(child.info.run_name) for child in children if not _ready(stored[child.info.run_id])]
    if missing or not children:
        whose = f"; nor do {', '.join(missing)}, of which it is the parent" if missing else ""
        raise TrackingError(
            f"run {run_id} ({run.info.run_name}) holds no model{whose}; after its training, `medseg track sync "
            "results/<experiment>` stores it"
        )
    return [_ready(stored[child.info.run_id])[0] for child in children]


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
