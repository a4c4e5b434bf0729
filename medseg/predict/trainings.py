"""The trainings that predict together: one, or the members of an ensemble, which must be about the same things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import CheckpointError
from medseg.files import digest_of
from medseg.plan.plan import flat_values
from medseg.predict.predictor import is_mirrored
from medseg.train.checkpoint import Checkpoint, read_description

# Sums of so many probabilities fit into the integers of ``medseg.predict.ensemble``.
MOST = 255


@dataclass(frozen=True, slots=True)
class Training:
    """A training that predicts.

    Attributes:
        folder: its model folder.
        checkpoint: what ``model.json`` says.
        weights_sha256: digest of its weights.
    """

    folder: Path
    checkpoint: Checkpoint
    weights_sha256: str

    @property
    def name(self) -> str:
        """Data set, model, fold and seed, in words."""
        made = self.checkpoint
        return f"{made.dataset}/{made.plan.model} fold {made.fold} seed {made.seed}"

    def facts(self, mirror: bool | None) -> list[Any]:
        """All that its probabilities depend on besides image and code; ``mirror`` as wished (``is_mirrored``)."""
        # The plan says how the image is prepared and cut into windows, and on what the network runs; the label table of
        # the model says which values are written. Equal weights may come with others of both.
        made = self.checkpoint
        plan, labels, decoding = flat_values(made.plan.to_json()), made.labels.to_json(), made.decoding
        return [self.weights_sha256, plan, labels, decoding and decoding.to_json(), is_mirrored(made.plan, mirror)]


def read_trainings(folders: Sequence[Path]) -> tuple[Training, ...]:
    """The trainings in model folders, at least one; one that is named twice, or is a copy, counts once.

    Raises:
        CheckpointError: if a folder holds none, or two do not fit each other.
    """
    found: dict[str, Training] = {}
    for folder in folders:
        one = Training(folder, *read_description(folder))
        made = one.checkpoint
        found.setdefault(digest_of([one.facts(mirror=None), made.channels, made.reading.to_json(), made.accepts]), one)
    trainings = tuple(found.values())
    require_alike(trainings)
    return trainings


def facts_of(trainings: Sequence[Training], mirror: bool | None) -> list[Any]:
    """All that the probabilities of trainings together depend on, in whichever order they are named."""
    first, *more = trainings
    return sorted((one.facts(mirror) for one in trainings), key=digest_of) if more else first.facts(mirror)


def require_alike(trainings: Sequence[Training]) -> None:
    """Raise ``CheckpointError`` unless the maps of trainings mean the same, and images are the same to all of them."""
    if len(trainings) > MOST:
        raise CheckpointError(f"{len(trainings)} models at once; at most {MOST} can be averaged; name fewer")
    first, *others = trainings
    for other in others:
        for what, of, fix in _SAME:
            mine, theirs = of(first.checkpoint), of(other.checkpoint)
            if mine != theirs:
                raise CheckpointError(
                    f"{other.folder}: {what}: {theirs}; {first.folder} has {mine}; models that predict together "
                    f"must agree; {fix}"
                )


def _labels(made: Checkpoint) -> dict[str, Any]:
    return {name: value for name, value in made.labels.to_json().items() if value not in (False, [], None)}


def _maps(made: Checkpoint) -> str:
    """What maps of objects are: those of a head, and whether of slices or of volumes."""
    network = made.plan.network
    if not network.learns_objects:
        return network.head or "classes"
    sliced = "" if made.plan.grid.slice_axis is None else f", by slices along axis {made.plan.grid.slice_axis}"
    return f"{network.head} in {network.dims}-D{sliced}"


_APART = "predict with each alone"
_SAME = (
    ("dimensions of its images", lambda made: f"{made.plan.grid.dims}-D", _APART),
    ("label table", _labels, "take trainings on one data set, or on data sets whose `labels` are equal"),
    ("channels", lambda made: list(made.channels), "take trainings on the same channels in the same order"),
    ("unit of voxel sizes", lambda made: made.plan.grid.unit, "take trainings on images in the same unit"),
    ("head", _maps, f"take trainings with the same head, or {_APART}"),
)
