"""The section of a data set: its folder, the meaning of its files, and operations on predictions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from medseg import limits
from medseg.bounds import shortened
from medseg.config.label_values import (
    Value,
    Values,
    class_values,
    contradiction,
    wrong_background,
    wrong_labels,
)
from medseg.config.metrics import MetricsConfig
from medseg.config.object_classes import wrong_classes
from medseg.config.origin import BidsConfig, DownloadConfig, GenerateConfig, TestConfig
from medseg.config.postprocess import PostprocessConfig
from medseg.config.section import Channel, Gigabytes, Number, Section, Spacing
from medseg.reading import Reading, are_axes


class DatasetConfig(Section):
    """The folder of a data set and the meaning of its files."""

    layout: Literal["pairs", "patterns", "decathlon", "nnunet", "bids", "dsb2018", "table", "corrections"] | None = (
        Field(
            default=None,
            description="pairs: images/NAME.* and masks/NAME.*; patterns: where `images` and `masks` say; decathlon, "
            "nnunet: dataset.json, imagesTr/, labelsTr/; bids: sub-XX/; dsb2018: ID/images/, ID/masks/ with a file per "
            "object; table: a TSV or CSV file; corrections: what `medseg ingest --add` took back; none: "
            "the one that the folder shows (docs/data.md)",
        )
    )
    path: str = Field(description="folder of the data set, relative to data_root")
    images: str | None = Field(
        default=None,
        description="patterns: where the images lie in that folder, e.g. imgs/{case}.tif (docs/data.md)",
    )
    masks: str | None = Field(
        default=None,
        description="patterns: where their masks lie, e.g. gt/{case}_mask.png, or segmentations/{class}.nii.gz",
    )
    labels: dict[str, Values] | None = Field(
        default=None,
        description="class name -> value in the label files, or a list of values that all mean this class, or a colour "
        'of masks in colour ("#ff0000", or a list of them); dataset.json (decathlon, nnunet) brings its own',
    )
    background: list[Value] | None = Field(
        default=None,
        min_length=1,
        description="values (or colours) in the label files that are background; none: 0",
    )
    instances: bool = Field(default=False, description="label values are object numbers")
    classes: str | None = Field(
        default=None,
        description="with `instances` and several labels, the class of each object: a folder beside images/ and masks/ "
        "with maps of class values (pairs), or a CSV or TSV file with columns case, object and class, in the data "
        "set's folder or the working folder (docs/labels.md)",
    )
    regions: dict[str, list[str]] | None = Field(
        default=None,
        description="region name -> the classes it unites, larger regions first: predicted in place of the classes, "
        "may overlap, later ones are painted over earlier ones (docs/labels.md)",
    )
    ignore: int | None = Field(
        default=None,
        le=limits.MAX_LABEL,
        description="value in the label files of voxels that nobody annotated: never trained on or scored",
    )
    channels: list[str] | dict[str, Channel] | Literal["grey", "rgb"] | None = Field(
        default=None,
        description="channel names; a name 'CT' selects CT normalization. Or which channels are taken, in this order: "
        "name -> number in the file (from 0) or the file's own name. Or grey, rgb: grey pictures and pictures in "
        "colour are brought together",
    )
    axes: str | None = Field(
        default=None,
        description="what the planes of TIFF files are, the slowest first: CYX (channels), ZYX (slices), ZC2YX (for "
        "each slice 2 channels), YXC; none: what each file says",
    )
    spacing: list[Spacing] | None = Field(
        default=None, description="pixel size in `unit` per axis, for files that do not state a size"
    )
    unit: Literal["um", "mm"] = Field(default="um", description="unit of `spacing`: micrometres or millimetres")
    sizes: Literal["files", "pixels", "spacing"] = Field(
        default="files",
        description="whose pixel sizes count: files (`spacing` for those that state none); pixels: none, in the whole "
        "data set; spacing: `spacing`, whatever TIFF files state",
    )
    subject: str | dict[str, str] | None = Field(
        default=None,
        description="whose case it is: a regular expression with one group, the subject within a case id; or a CSV or "
        "TSV file with columns case and subject, in the data set's folder or the working folder; or case id -> subject "
        "here, all others being subjects of their own; or the word case: "
        "each is a subject of its own; or folder: what `images` calls {group}; or same-origin: what ingest notices to "
        "belong together is one subject; none: what the layout says, else each its own unless ids look as if subjects "
        "repeat",
    )
    exclude: list[str] = Field(
        default_factory=list,
        description="ids of cases to leave out: their files are not read, their faults do not count",
    )
    test: TestConfig | None = Field(
        default=None,
        description="cases kept apart until `medseg test` scores them: a list of case ids; imagesTs (decathlon, "
        "nnunet); a CSV or TSV file with a column case; or {column: NAME, value: test} (table)",
    )
    series: str | None = Field(
        default=None,
        description="which series of DICOM folders that hold several: SeriesNumber or SeriesInstanceUID; a table's "
        "column series says it per case",
    )
    bids: BidsConfig | None = Field(default=None, description="which files the bids layout takes")
    table: str | None = Field(default=None, description="the table layout's file, relative to the data set's folder")
    corrections: bool = Field(
        default=False,
        description="take the corrected predictions that `medseg ingest --add` put into the data set's folder besides "
        "the cases of its layout (docs/correct.md)",
    )
    splits: str | None = Field(default=None, description="file of folds for this data set, in place of `folds.file`")
    download: DownloadConfig | None = Field(default=None, description="where the data set can be fetched from")
    allow: list[str] = Field(default_factory=list, description="codes of faults that are accepted, by name")
    fill: Number | None = Field(
        default=None, description="stands for NaN and Inf voxels, with `allow: [nonfinite]`; e.g. -1024 for CT"
    )
    orientation: Literal["sform", "qform"] | None = Field(
        default=None, description="which of a NIfTI header's two forms counts where they contradict each other"
    )
    max_gb: Gigabytes | None = Field(
        default=None, description="memory that one decoded file may take; none: half of this machine's"
    )
    choices: list[str] = Field(
        default_factory=list,
        description="what was chosen by looking at scores of this data set's cases, in words; the report quotes it",
    )
    postprocess: PostprocessConfig = Field(default_factory=PostprocessConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig, description="by which metrics it is scored")
    generate: GenerateConfig | None = Field(default=None, description="generate the data set first")

    @field_validator("test", mode="before", json_schema_input_type=TestConfig | list[str] | str | None)
    @classmethod
    def _test_in_short(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"cases": value}
        if not isinstance(value, str):
            return value
        if value == "imagesTs":
            return {"folder": value}
        if value.endswith((".csv", ".tsv")):
            return {"file": value}
        raise ValueError("expected a list of case ids, imagesTs, FILE.csv, or {column: NAME, value: test}")

    @field_validator("axes")
    @classmethod
    def _axes_are_axes(cls, value: str | None) -> str | None:
        if value is not None and not are_axes(value):
            raise ValueError(
                f"{shortened(value)}: expected letters T, Z, C, each at most once, then YX: YX, CYX, ZYX, ZCYX (with "
                "their lengths where a file leaves them open, ZC2YX), or YXC for interleaved channels"
            )
        return value

    @field_validator("channels", mode="before")
    @classmethod
    def _channels_from_pairs(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("names no channel; expected NAME: NUMBER, or leave `channels` out to take all")
        return dict(value) if value and _are_pairs(value, int | str) else value

    @field_serializer("channels")
    def _channels_as_pairs(self, value: list[str] | dict[str, int | str] | str | None) -> Any:
        # As of regions: their order matters.
        return [[name, channel] for name, channel in value.items()] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _spacing_and_sizes(self) -> DatasetConfig:
        if self.spacing is None and (self.sizes == "spacing" or self.unit != "um"):
            given = f"sizes: {self.sizes}" if self.sizes == "spacing" else f"unit: {self.unit}"
            raise ValueError(f"{given} is about `spacing`, which is not given; give it, one number per axis")
        if self.spacing is not None and self.sizes == "pixels":
            raise ValueError("sizes: pixels uses no size, and `spacing` gives one; take one of them out")
        return self

    @property
    def channel_names(self) -> list[str] | None:
        """Names of the channels, where `channels` is a list of them and chooses none."""
        return self.channels if isinstance(self.channels, list) else None

    @property
    def reading(self) -> Reading:
        """How the files are read where they leave something open."""
        channels = self.channels
        return Reading(
            axes=self.axes or "",
            channels=tuple(channels.values()) if isinstance(channels, dict) else (),
            names=tuple(channels) if isinstance(channels, list) else (),
            colour=channels if isinstance(channels, str) else "",
            spacing=None if self.spacing is None else tuple(self.spacing),
            unit=self.unit,
            sizes=self.sizes,
            orientation=self.orientation or "",
            fill=self.fill,
        )

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_have_values(cls, value: Any) -> Any:
        if value is not None and (cause := wrong_labels(value)):
            raise ValueError(cause)
        return value

    @field_validator("background", mode="before")
    @classmethod
    def _background_has_values(cls, value: Any) -> Any:
        if value is not None and (cause := wrong_background(value)):
            raise ValueError(cause)
        return value

    @model_validator(mode="after")
    def _values_mean_one_thing(self) -> DatasetConfig:
        if cause := contradiction(self.labels or {}, self.background, self.ignore, instances=self.instances):
            raise ValueError(cause)
        return self

    @property
    def class_values(self) -> dict[str, int]:
        """Class name -> its value in label tables and predictions, by `labels`."""
        return class_values(self.labels or {}, self.background, self.ignore)

    @model_validator(mode="after")
    def _patterns_have_their_layout(self) -> DatasetConfig:
        if self.layout not in (None, "patterns") and (self.images or self.masks):
            raise ValueError(
                f"images and masks are for the layout patterns, this is {self.layout}; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _classes_of_objects(self) -> DatasetConfig:
        # Of layouts with a description of their own, ingest asks again when the labels are known.
        if self.classes is not None and not self.instances:
            raise ValueError("classes: is for object data; set `instances: true`, or take `classes` out")
        named = [name for name, value in self.class_values.items() if value != 0]
        if self.instances and named and (cause := wrong_classes(named, self.classes)):
            raise ValueError(cause)
        return self

    @model_validator(mode="after")
    def _tolerances_of_classes(self) -> DatasetConfig:
        # Classes of layouts with a description of their own are not known here; evaluate checks those.
        scored = list(self.regions or self.labels or ())
        unknown = sorted(set(self.metrics.tolerance) - set(scored)) if scored else []
        if unknown:
            raise ValueError(f"metrics.tolerance: no class or region {unknown}; there are: {', '.join(scored)}")
        return self

    @field_validator("regions", mode="before")
    @classmethod
    def _regions_from_pairs(cls, value: Any) -> Any:
        return dict(value) if _are_pairs(value, list) else value

    @field_serializer("regions")
    def _regions_as_pairs(self, value: dict[str, list[str]] | None) -> list[list[Any]] | None:
        # Their order matters, and digests and comparisons sort the keys of mappings.
        return None if value is None else [[name, classes] for name, classes in value.items()]


def _are_pairs(value: Any, second: Any) -> bool:
    """Whether a value is a list of pairs of a name and something of the type ``second``."""
    return isinstance(value, list) and all(
        isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) and isinstance(v[1], second) for v in value
    )
