"""The section of cross-validation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg import limits
from medseg.bounds import shortened
from medseg.config.section import Section, Seed
from medseg.errors import ConfigError
from medseg.results.key import ALL

Number = Annotated[int, Field(ge=0, lt=limits.MAX_FOLDS)]


def _first() -> list[int | Literal["all"]]:
    return [0]


class FoldsConfig(Section):
    """Cross-validation."""

    scheme: Literal["balanced", "nnunet", "site"] = Field(
        default="balanced",
        description="balanced: whole subjects, equal shares of classes and sites; nnunet: that program's own split of "
        "cases; site: one fold per site, validated on it",
    )
    count: int = Field(
        default=5,
        ge=1,
        le=limits.MAX_FOLDS,
        description="number of folds, 2 or more; the scheme site and files, which may have one, have their own",
    )
    run: list[Number | Literal["all"]] = Field(
        default_factory=_first,
        description="folds to train; all: one more training, on all cases, which nothing is left to validate on",
    )
    group: Literal["subject"] = Field(default="subject", description="what stays together: a subject's cases")
    seed: Seed = Field(default=0, description="seed of the shuffle")
    file: str | None = Field(
        default=None,
        description="folds of your own: splits.json, nnU-Net's splits_final.json, or a table with columns case and "
        "fold; in the data set's folder or the working folder",
    )

    @model_validator(mode="after")
    def _file_or_scheme(self) -> FoldsConfig:
        if self.file is not None and self.scheme != "balanced":
            raise ValueError(f"file: the folds of {self.file} and scheme {self.scheme} exclude each other; give one")
        return self

    @model_validator(mode="after")
    def _folds_exist(self) -> FoldsConfig:
        # The number of folds that sites and files give is known only when they are read.
        highest = max(self.validated, default=0)
        last = self.count - 1 if self.scheme != "site" and self.file is None else highest
        if not self.run or highest > last or len(set(self.run)) != len(self.run):
            raise ValueError(f"run: {shortened(self.run)} must be distinct: numbers from 0 to {last}, or {ALL}")
        return self

    @property
    def validated(self) -> list[int]:
        """Folds to train that have validation cases; none if every training is on all cases."""
        return [fold for fold in self.run if fold != ALL]

    @property
    def parts(self) -> int:
        """Parts that cases are split into, as far as the configuration says; 1: they are not split."""
        return self.count if self.validated else 1

    def require_validation(self, what: str) -> None:
        """Raise ``ConfigError`` if no training has validation cases; ``what`` there would be to do with them."""
        if not self.validated:
            raise ConfigError(
                f"folds.run: [{ALL}] trains on all cases and leaves none to validate on, so there are no scores to "
                f"{what}; for scores, train a fold, too (folds: {{run: [0, {ALL}]}}), or keep a test set (`test` of a "
                "data set) and open it by `medseg test`"
            )
