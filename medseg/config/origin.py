"""Sections of a data set: where its files come from, which count, and which are kept apart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medseg import limits
from medseg.config.section import Section, Seed

KnownArchive = Literal[
    "Task01_BrainTumour",
    "Task02_Heart",
    "Task03_Liver",
    "Task04_Hippocampus",
    "Task05_Prostate",
    "Task06_Lung",
    "Task07_Pancreas",
    "Task08_HepaticVessel",
    "Task09_Spleen",
    "Task10_Colon",
    "BBBC038_stage1_train",
]


class GenerateConfig(Section):
    """Generate the data set before reading it (phantoms, for demonstrations and tests)."""

    kind: Literal["cells", "organs"] = Field(description="cells: 2-D fluorescence-like; organs: 3-D CT-like")
    cases: int = Field(default=12, ge=1, le=limits.MAX_PHANTOMS, description="number of cases")
    seed: Seed = Field(default=0, description="random seed of the phantoms")


class BidsConfig(Section):
    """Which files of a BIDS folder are the images and which the label maps."""

    image: str | list[str] = Field(
        default="T2w",
        description="end of the images' names, before the suffix (T2w, ce-GAD_T1w); a list: one per channel",
    )
    derivative: str = Field(default="labels", description="folder under derivatives/ that holds the label maps")
    label: str = Field(default="dseg", description="end of the label maps' names, e.g. dseg or label-lesion_seg")


class DownloadConfig(Section):
    """An archive that holds the data set, fetched by `medseg download` where the folder is not there yet."""

    name: KnownArchive | None = Field(default=None, description="a row of ARCHIVES in medseg/ingest/download.py")
    url: str | None = Field(default=None, pattern=r"^(https?|s3)://\S+$", description="any other zip or tar archive")
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="checksum of the archive; none: noted at the first download and held to afterwards",
    )

    @model_validator(mode="after")
    def _one_source(self) -> DownloadConfig:
        if (self.name is None) == (self.url is None):
            raise ValueError("give either name or url")
        return self


class TestConfig(Section):
    """Cases that stay out of plans, folds and curves until `medseg test` scores them. Give exactly one source."""

    __test__ = False  # pytest collects classes of this name as tests

    cases: list[str] | None = Field(default=None, min_length=1, description="case ids")
    file: str | None = Field(
        default=None,
        pattern=r"\.(csv|tsv)$",
        description="CSV or TSV file with a column case; in the data set's folder or the working folder",
    )
    column: str | None = Field(default=None, description="table layout: the column that marks test cases")
    value: str = Field(default="test", description="what that column holds for them")
    split: str | None = Field(default=None, description="patterns: what {split} is for them, e.g. test")
    folder: Literal["imagesTs"] | None = Field(
        default=None, description="decathlon, nnunet: imagesTs, with the references in labelsTs"
    )

    @property
    def declaration(self) -> dict[str, Any]:
        """What a test set is declared to be, as it is written down with it."""
        facts = self.model_dump()
        # Test sets that were written down before there was this key are the same.
        return facts if self.split is not None else {name: value for name, value in facts.items() if name != "split"}

    @model_validator(mode="after")
    def _one_source(self) -> TestConfig:
        given = [name for name in ("cases", "file", "column", "split", "folder") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of cases, file, column, split, folder; there are {', '.join(given) or 'none'}"
            )
        if self.column is None and "value" in self.model_fields_set and self.value != "test":
            raise ValueError("value belongs to column, which is not given")
        return self
