"""Which training a result belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VALIDATION, TEST = "val", "test"
# In place of a fold's number: trained on all cases, so that there are none to validate on (nnU-Net's word).
ALL: Literal["all"] = "all"
Fold = int | Literal["all"]


def read_fold(text: str) -> Fold:
    """A fold as names of folders and options give it: its number, or ``all``.

    Raises:
        ValueError: if it is neither.
    """
    if text == ALL:
        return ALL
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"fold {text!r}: expected a number from 0 on, or {ALL}")
    return int(text)


def fold_order(fold: Fold) -> float:
    """What folds are sorted by: their numbers, then ``all``."""
    return float("inf") if fold == ALL else fold


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which training a result belongs to, and of which cases it is (``val``: of the validation fold, or ``test``)."""

    dataset: str
    model: str
    fold: Fold
    seed: int
    split: str = VALIDATION

    @property
    def validates(self) -> bool:
        """Whether the training has cases to be scored on."""
        return self.fold != ALL

    @property
    def run(self) -> str:
        """Fold and seed, as folders are called: ``fold0-seed0``, ``foldall-seed0``."""
        return f"fold{self.fold}-seed{self.seed}"

    @property
    def name(self) -> str:
        """Data set, model, fold and seed: ``cells/unet/fold0-seed0``."""
        return f"{self.dataset}/{self.model}/{self.run}"
