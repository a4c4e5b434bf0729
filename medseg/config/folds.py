"""The section of cross-validation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg import limits
from medseg.bounds import shortened
from medseg.config.section import Section, Seed


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
    run: list[Annotated[int, Field(ge=0, lt=limits.MAX_FOLDS)]] = Field(
        default_factory=lambda: [0], description="folds to train"
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
        last = self.count - 1 if self.scheme != "site" and self.file is None else max(self.run, default=0)
        if not self.run or max(self.run) > last or len(set(self.run)) != len(self.run):
            raise ValueError(f"run: {shortened(self.run)} must be distinct numbers from 0 to {last}")
        return self
