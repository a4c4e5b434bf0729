"""Which training a result belongs to."""

from __future__ import annotations

from dataclasses import dataclass

VALIDATION, TEST = "val", "test"


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which training a result belongs to, and of which cases it is (``val``: of the validation fold, or ``test``)."""

    dataset: str
    model: str
    fold: int
    seed: int
    split: str = VALIDATION

    @property
    def run(self) -> str:
        """Fold and seed, as folders are called: ``fold0-seed0``."""
        return f"fold{self.fold}-seed{self.seed}"

    @property
    def name(self) -> str:
        """Data set, model, fold and seed: ``cells/unet/fold0-seed0``."""
        return f"{self.dataset}/{self.model}/{self.run}"
