"""``predictions.json``: whose predictions a folder holds, and the digest of each label map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.augment.tables import mirrors
from medseg.errors import DataError
from medseg.formats.read import open_content
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import ModelFolder, PredictionFolder
from medseg.results.key import RunKey
from medseg.trained import read_facts, read_trained, require_training, short

# The code of predicted cases reaches no configuration, so that another option predicts none again.
if TYPE_CHECKING:
    from medseg.config import Config

MAKER = "medseg predict"


@dataclass(frozen=True, slots=True)
class PredictedCase:
    """The prediction of one case.

    Attributes:
        file: its label map, in the folder of the record; empty where predicting failed.
        sha256: digest of the label map's content.
        failed: why there is none; empty where there is one.
        probabilities: file and digest of the probabilities, where they were kept.
        classes: file and digest of the class map, where the label map numbers objects of several classes.
        expected: class or region -> the Dice that the prediction expects of itself (``predict.expected``).
    """

    file: str = ""
    sha256: str = ""
    failed: str = ""
    probabilities: Mapping[str, str] | None = None
    classes: Mapping[str, str] | None = None
    expected: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        if self.failed:
            return {"failed": self.failed}
        beside = {"probabilities": self.probabilities, "classes": self.classes}
        more: dict[str, Any] = {name: dict(file) for name, file in beside.items() if file is not None}
        more |= {"expected": dict(self.expected)} if self.expected else {}
        return {"file": self.file, "sha256": self.sha256, **more}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PredictedCase:
        """The inverse of ``to_json``."""
        if "failed" in value:
            return cls(failed=str(value["failed"]))
        soft, classes = (_file_of(value[k]) if k in value else None for k in ("probabilities", "classes"))
        return cls(value["file"], value["sha256"], "", soft, classes, dict(value.get("expected", {})))


def _file_of(value: Mapping[str, Any]) -> dict[str, str]:
    """The file beside a label map that an entry names, and its digest."""
    return {name: str(value[name]) for name in ("file", "sha256")}


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of one training for the cases of one split.

    Attributes:
        folder: where the label maps lie.
        key: which training, which split.
        fingerprint: of that training, from its ``model.json``.
        weights_sha256: digest of its weights.
        mirror: whether predictions are means over mirror images; None: not recorded.
        cases: case id -> its prediction, or why there is none.
        postprocess: the operations that were applied; None before post-processing.
        members: of an ensemble, the trainings that predicted together -> the fingerprint of each.
    """

    folder: Path
    key: RunKey
    fingerprint: str
    weights_sha256: str
    mirror: bool | None
    cases: Mapping[str, PredictedCase]
    postprocess: Mapping[str, Any] | None = None
    members: Mapping[str, str] = field(default_factory=dict)

    def has(self, scored: Mapping[str, str]) -> bool:
        """Whether the label maps are these: case id -> digest."""
        return all(case in self.cases and self.cases[case].sha256 == digest for case, digest in scored.items())


def label_map_digest(path: Path) -> str:
    """SHA-256 (hex) of a label map's content: of all its files, where the format has several."""
    return open_content(path).sha256


def write_predictions(predictions: Predictions) -> None:
    """Write the record into the predictions' folder; to be called last, since its presence means complete."""
    key = predictions.key
    done: dict[str, Any] = {"members": dict(predictions.members)} if predictions.members else {}
    if predictions.postprocess is not None:
        done["postprocess"] = predictions.postprocess
    write_record(
        PredictionFolder(predictions.folder).record,
        {
            "dataset": key.dataset,
            "split": key.split,
            "model": key.model,
            "fold": key.fold,
            "seed": key.seed,
            "fingerprint": predictions.fingerprint,
            "weights_sha256": predictions.weights_sha256,
            "mirror": predictions.mirror,
            "cases": {case: entry.to_json() for case, entry in predictions.cases.items()},
            **done,
        },
    )


def read_predictions(path: Path) -> Predictions:
    """Read a ``predictions.json``.

    Raises:
        DataError: if it is missing, damaged or not as written by ``write_predictions``.
    """
    value = read_record(path, MAKER)
    with as_written(path, MAKER):
        return Predictions(
            path.parent,
            RunKey(value["dataset"], value["model"], value["fold"], value["seed"], value["split"]),
            value["fingerprint"],
            value["weights_sha256"],
            value["mirror"],
            {case: PredictedCase.from_json(entry) for case, entry in value["cases"].items()},
            value.get("postprocess"),
            value.get("members", {}),
        )


def require_predicted_by(model: Path, predictions: Predictions) -> None:
    """Raise ``DataError`` unless predictions are those of the training in a model folder."""
    found = PredictionFolder(predictions.folder).record
    makers = _makers(predictions)
    trained = require_training(model, predictions.key, predictions.fingerprint, found, makers)
    if trained.weights_sha256 != predictions.weights_sha256:
        raise DataError(
            f"{found}: made with weights {short(predictions.weights_sha256)}, and {model} has "
            f"{short(trained.weights_sha256)} now; delete {found.name} there and run {makers} again"
        )


def require_made_as(config: Config, predictions: Predictions, model: Path | None) -> None:
    """Raise ``DataError`` unless predictions were made as a configuration says: mirror images and post-processing.

    Args:
        config: the experiment.
        predictions: of one of its data sets.
        model: folder of the model that predicted; none: mirror images that follow from its training are not asked.
    """
    found = PredictionFolder(predictions.folder).record
    mirror = config.predict.mirror
    if mirror is None and model is not None:
        planned = {_mirrored(one.folder) for one in read_trained(model).members} or {_mirrored(model)}
        # Of an ensemble, some members may, others not.
        mirror = planned.pop() if len(planned) == 1 else None
    if mirror is not None and predictions.mirror not in (None, mirror):
        how = {True: "means over mirror images", False: "without mirror images"}
        raise DataError(
            f"{found}: {how[not mirror]}, and the configuration asks for predictions {how[mirror]} (predict.mirror); "
            f"run {_makers(predictions)} again"
        )
    section = config.dataset(predictions.key.dataset).postprocess.model_dump(mode="json")
    if section["choose"]:
        if model is None:
            return
        section = _chosen(model, section)
    wanted, applied = _asked(section), _asked(predictions.postprocess or {})
    if wanted != applied:
        again = (
            "`medseg postprocess` and evaluate its results" if wanted else "evaluate the results of `medseg predict`"
        )
        raise DataError(
            f"{found}: post-processing is {applied or 'none'}, and datasets.{predictions.key.dataset}.postprocess asks "
            f"for {wanted or 'none'}; {f'run {again}' if wanted else again}"
        )


def _mirrored(model: Path) -> bool:
    """Whether the predictions of a training are means over mirror images, where nobody says otherwise."""
    plan = read_facts(model)["plan"]
    with as_written(ModelFolder(model).description, "medseg train"):
        trained = plan["training"]["augment"], plan["grid"]["oriented"], plan["training"]["augmentation"]
    return mirrors(*trained)


def _chosen(model: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """The operations that were chosen for a model, by a configuration's section."""
    path, maker = ModelFolder(model).postprocess, "medseg choose"
    facts = read_record(path, maker)
    with as_written(path, maker):
        of_section, steps = dict(facts["section"]), dict(facts["steps"])
    if of_section != section:
        raise DataError(f"{path}: was chosen for another configuration of `postprocess`; run `{maker}` again")
    return steps


def _asked(section: Mapping[str, Any]) -> dict[str, Any]:
    """The operations of a section that do anything."""
    return {name: value for name, value in section.items() if value}


def _makers(predictions: Predictions) -> str:
    return "`medseg predict`" if predictions.postprocess is None else "`medseg predict` and `medseg postprocess`"


def find_scored(folders: list[PredictionFolder], scored: Mapping[str, str]) -> Predictions:
    """The predictions whose label maps were scored; other predictions of earlier configurations are ignored.

    Args:
        folders: of one training, the one to prefer first.
        scored: case id -> digest of the label map that was scored; cases that failed are not in it.

    Raises:
        DataError: if no folder holds them.
    """
    for folder in folders:
        if folder.record.is_file():
            found = read_predictions(folder.record)
            if found.has(scored):
                return found
    named = " or ".join(str(folder.folder) for folder in folders)
    raise DataError(
        f"{named}: no predictions there are those that were scored; run `medseg evaluate` and `medseg compare` again"
    )
