"""Models in MLflow, stored without pickle."""

from __future__ import annotations

import datetime
import functools
import re
import shutil
import tempfile
import threading
import uuid
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.files import digest_of, sha256_file
from medseg.results.folders import ModelFolder
from medseg.tracking.finished import Trained
from medseg.tracking.listed import KEY
from medseg.tracking.names import PREFIX, safe_text
from medseg.tracking.runs import SUPERSEDED
from medseg.tracking.store import Store
from medseg.tracking.uploads import upload

FORMAT = "medseg-model-1"
FILES = (ModelFolder(Path()).description.name, ModelFolder(Path()).weights.name)
# What a model may have besides.
BESIDE = (ModelFolder(Path()).postprocess.name, ModelFolder(Path()).quality.name)
# What MLflow runs to load a model; a copy of it is stored with each.
CODE = Path(__file__).with_name("pyfunc_model.py")
# Options of ``medseg predict`` that a stored model takes.
OPTIONS = (
    *("layout", "series", "spacing", "orientation", "fill", "allow", "axes", "channels"),
    *("device", "threads", "mirror", "runtime", "overlap", "max_gb", "references", "raw", "uncertainty"),
)
ARTIFACTS = "artifacts"  # MLflow's name of the folder of FILES
# Tag of a stored model: digest of all that it was made from.
KEY_TAG = "medseg.model_digest"

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
    beside = [sha256_file(trained.folder / name) for name in _beside(trained.folder)]
    return digest_of([description, trained.facts["weights_sha256"], sha256_file(CODE), *beside])


def _beside(folder: Path) -> list[str]:
    """Names of the files that a model folder has besides description and weights."""
    return [name for name in BESIDE if (folder / name).is_file()]


def write_model(trained: Path, folder: Path) -> None:
    """Write the MLflow form of a model folder; torch is not imported and no requirement is guessed."""
    import yaml

    files, described = _form(CODE)
    (folder / ARTIFACTS).mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    own_files = [*FILES, *_beside(trained)]
    for name in own_files:
        shutil.copyfile(trained / name, folder / ARTIFACTS / name)
    size = sum((folder / name).stat().st_size for name in (CODE.name, *(f"{ARTIFACTS}/{name}" for name in own_files)))
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
