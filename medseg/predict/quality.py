"""``quality.json`` in a model folder: what a prediction's expected Dice says of its Dice, learnt on validation cases.

The estimate of a case needs no reference. It is an intercept and a slope for each class, on the expected Dice
(``predict.expected``), and for the mean over classes a conformal interval (Vovk et al. 2005; Barber et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.errors import CheckpointError, DataError
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import ModelFolder
from medseg.trained import Trained, read_trained

MAKER = "medseg evaluate"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The Dice that a case is predicted to have, mean over the classes that its prediction shows.

    Attributes:
        dice: the estimate.
        low, high: ends of its interval; None: there were too few cases to know.
        classes: class or region -> its own estimate.
    """

    dice: float
    low: float | None
    high: float | None
    classes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Quality:
    """How Dice is estimated for the predictions of a model, and how well that went on its validation cases.

    Attributes:
        method: ``offset`` (the expected Dice less its mean excess), ``line``, or ``mean`` (all cases get the mean).
        tells: whether on validation cases the estimate was better than the mean of all, by more than noise.
        lines: class or region -> intercept and slope on its expected Dice.
        half: half of the interval; None: too few cases.
        level: share of cases that the interval is to hold.
        mae: mean absolute error of the estimate, each subject estimated by the others.
        mae_of_mean: the same of the plain alternative: the mean of the others for every case.
        coverage: share of the cases within the interval that the others gave; None: too few.
        cases, subjects: how many.
    """

    method: str
    tells: bool
    lines: Mapping[str, tuple[float, float]]
    half: float | None
    level: float
    mae: float
    mae_of_mean: float
    coverage: float | None
    cases: int
    subjects: int

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Quality:
        """The inverse of ``asdict``."""
        lines = {str(name): (float(low), float(slope)) for name, (low, slope) in facts["lines"].items()}
        return cls(**{**facts, "lines": lines})

    def estimate(self, expected: Mapping[str, float]) -> Estimate | None:
        """The estimate of a case from the expected Dice of its classes; None: its prediction shows none of them."""
        classes = {
            name: min(1.0, max(0.0, self.lines[name][0] + self.lines[name][1] * value))
            for name, value in expected.items()
            if name in self.lines
        }
        if not classes:
            return None
        dice = sum(classes.values()) / len(classes)
        if self.half is None:
            return Estimate(dice, None, None, classes)
        return Estimate(dice, max(0.0, dice - self.half), min(1.0, dice + self.half), classes)


def write_quality(trained: Trained, quality: Quality | None, why: str = "") -> None:
    """Write how Dice is estimated for a training's predictions, or why it is not, into its model folder."""
    facts = None if quality is None else asdict(quality)
    about = {"fingerprint": trained.fingerprint, "weights_sha256": trained.weights_sha256}
    write_record(ModelFolder(trained.folder).quality, {**about, "quality": facts, "why": why})


def read_quality(model: Path) -> Quality | None:
    """How Dice is estimated for predictions of the model in a folder; None: it is not.

    Raises:
        CheckpointError: if the record is damaged, or of another training than the one in the folder.
    """
    path = ModelFolder(model).quality
    if not path.is_file():
        return None
    try:
        facts = read_record(path, MAKER)
        with as_written(path, MAKER):
            of_training = facts["fingerprint"], facts["weights_sha256"]
            quality = None if facts["quality"] is None else Quality.from_json(facts["quality"])
    except DataError as error:
        raise CheckpointError(str(error)) from None
    trained = read_trained(model)
    if of_training != (trained.fingerprint, trained.weights_sha256):
        raise CheckpointError(f"{path}: of another training than the one in this folder; run `{MAKER}` again")
    return quality
