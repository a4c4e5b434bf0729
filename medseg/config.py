"""The typed configuration: one source for the YAML that users write, its checks and its JSON schema.

Unknown keys are refused with the nearest valid one, types are strict (YAML 1.1 reads ``1e-4`` as text), and after
parsing no dictionary travels further.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from medseg.errors import ConfigError
from medseg.files import SAFE_NAME
from medseg.networks import MODELS, options_of
from medseg.settings import merge, read_settings

Name = Annotated[str, Field(pattern=rf"^{SAFE_NAME.pattern}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
# oneDNN in torch 2.13 writes beyond its memory in strided 1x1 convolutions (2-D, channels-last) of fewer channels than
# a vector register holds: 8 numbers of 32 bits with AVX2.
MIN_WIDTH = 8
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
if TYPE_CHECKING:
    Network = str
else:
    Network = Literal[tuple(MODELS)]
Loss = Literal[
    "dice_ce",
    "dice",
    "ce",
    "dice_focal",
    "dice_topk",
    "tversky",
    "generalised_dice",
    "lovasz",
    "dice_boundary",
    "dice_hausdorff",
    "cldice",
]
Normalization = Literal["zscore", "zscore_nonzero", "ct", "percentile", "rescale", "rgb", "none"]


class Section(BaseModel):
    """A block of the configuration: strict types, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class GenerateConfig(Section):
    """Make the data set before reading it (phantoms, for demonstrations and tests)."""

    kind: Literal["cells", "organs"] = Field(description="cells: 2-D fluorescence-like; organs: 3-D CT-like")
    cases: Count = Field(default=12, description="number of cases")
    seed: int = Field(default=0, ge=0, description="random seed of the phantoms")


class CrfConfig(Section):
    """Fully connected conditional random field (Kraehenbuehl & Koltun 2011): moves borders to the image's."""

    iterations: Count = Field(default=5, description="iterations of mean field")
    position_weight: float = Field(default=1.0, ge=0, description="weight of neighbourhood alone; 0: without")
    position_sigma: Positive = Field(
        default=1.0, description="how far it reaches: standard deviation in the data's unit (mm, um, else pixels)"
    )
    appearance_weight: float = Field(default=1.0, ge=0, description="weight of neighbours that look alike; 0: without")
    appearance_sigma: Positive = Field(
        default=10.0, description="how far it reaches: standard deviation in the data's unit (mm, um, else pixels)"
    )
    intensity_sigma: Positive = Field(
        default=0.05,
        description="how alike: standard deviation of intensities, as a share of the range from each channel's 1st to "
        "its 99.8th percentile in the image",
    )


class PostprocessConfig(Section):
    """Fixed operations on predictions, in this order; none is chosen from data."""

    crf: CrfConfig | None = Field(
        default=None,
        description="refine probabilities by the image (docs/postprocess.md); {}: with the defaults; none: do not",
    )
    fill_holes: bool = Field(default=False, description="fill background holes enclosed by a class")
    largest_component: list[str] = Field(
        default_factory=list, description="class names of which only the largest connected component is kept"
    )
    min_size: int = Field(default=0, ge=0, description="remove connected components with fewer voxels than this")


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
    url: str | None = Field(default=None, pattern=r"^https?://\S+$", description="any other zip or tar archive")
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


class DatasetConfig(Section):
    """Where a data set lies and what its files mean."""

    layout: Literal["pairs", "decathlon", "nnunet", "bids", "dsb2018", "table"] | None = Field(
        default=None,
        description="pairs: images/NAME.* and masks/NAME.*; decathlon, nnunet: dataset.json, imagesTr/, labelsTr/; "
        "bids: sub-XX/; dsb2018: ID/images/, ID/masks/ with a file per object; table: a TSV or CSV file; none: the one "
        "whose landmarks the folder has (docs/data.md)",
    )
    path: str = Field(description="folder of the data set, relative to data_root")
    labels: dict[str, int] | None = Field(
        default=None,
        description="class name -> value in the label files; dataset.json (decathlon, nnunet) brings its own",
    )
    instances: bool = Field(default=False, description="label values are object numbers of one class")
    regions: dict[str, list[str]] | None = Field(
        default=None,
        description="region name -> the classes it unites, larger regions first: predicted in place of the classes, "
        "may overlap, later ones are painted over earlier ones (docs/labels.md)",
    )
    ignore: int | None = Field(
        default=None, description="value in the label files of voxels that nobody annotated: never trained on or scored"
    )
    channels: list[str] | None = Field(default=None, description="channel names; a name 'CT' selects CT normalization")
    spacing: list[Positive] | None = Field(
        default=None, description="pixel size in micrometres per axis, for files that do not state a size"
    )
    subject: str | None = Field(
        default=None,
        description="regular expression with one group: the subject within a case id; or the word case: each case is a "
        "subject of its own; none: what the layout says, else each its own unless ids look as if subjects repeat",
    )
    series: str | None = Field(
        default=None,
        description="which series of DICOM folders that hold several: SeriesNumber or SeriesInstanceUID; a table's "
        "column series says it per case",
    )
    bids: BidsConfig | None = Field(default=None, description="which files the bids layout takes")
    table: str | None = Field(default=None, description="the table layout's file, relative to the data set's folder")
    splits: str | None = Field(default=None, description="file of folds for this data set, in place of `folds.file`")
    download: DownloadConfig | None = Field(default=None, description="where the data set can be fetched from")
    allow: list[str] = Field(default_factory=list, description="codes of faults that are accepted, by name")
    fill: float | None = Field(
        default=None, description="stands for NaN and Inf voxels, with `allow: [nonfinite]`; e.g. -1024 for CT"
    )
    orientation: Literal["sform", "qform"] | None = Field(
        default=None, description="which of a NIfTI header's two forms counts where they contradict each other"
    )
    max_gb: Positive | None = Field(
        default=None, description="memory that one decoded file may take; none: half of this machine's"
    )
    postprocess: PostprocessConfig = Field(default_factory=PostprocessConfig)
    generate: GenerateConfig | None = Field(default=None, description="generate the data set first")

    @field_validator("regions", mode="before")
    @classmethod
    def _regions_from_pairs(cls, value: Any) -> Any:
        pairs = isinstance(value, list) and all(
            isinstance(v, list) and len(v) == 2 and isinstance(v[0], str) for v in value
        )
        return dict(value) if pairs else value

    @field_serializer("regions")
    def _regions_as_pairs(self, value: dict[str, list[str]] | None) -> list[list[Any]] | None:
        # Their order counts, and digests and comparisons sort the keys of mappings.
        return None if value is None else [[name, classes] for name, classes in value.items()]


class PlanOverrides(Section):
    """Values of the plan that the user fixes; everything left out is planned from the data and the budgets."""

    resolution: Literal["full", "low"] = Field(
        default="full", description="low: the coarser grid that nnU-Net plans for volumes far larger than a patch"
    )
    spacing: list[Positive] | None = Field(
        default=None,
        description="target spacing per axis, in the data's unit; a 2-D model on volumes: per axis of a slice",
    )
    normalization: Normalization | None = Field(default=None, description="intensity scaling of every channel")
    patch: list[Count] | None = Field(default=None, description="training patch, voxels per axis")
    batch: Count | None = Field(default=None, description="patches per step")
    widths: list[Count] | None = Field(
        default=None, description=f"feature channels per resolution stage, at least {MIN_WIDTH}"
    )
    strides: list[list[Count]] | None = Field(default=None, description="stride of each stage, per axis")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(default=None, description="arithmetic of the network")
    steps: Count | None = Field(default=None, description="training steps")

    @field_validator("widths")
    @classmethod
    def _widths_run_everywhere(cls, value: list[int] | None) -> list[int] | None:
        if value and min(value) < MIN_WIDTH:
            raise ValueError(
                f"below {MIN_WIDTH} channels, strided 1x1 convolutions of oneDNN can crash; write {MIN_WIDTH} or more"
            )
        return value


# Rows of the augmentation recipes (medseg/augment/tables.py) -> the widest range that makes sense; none: has no range.
AUGMENTATION: dict[str, tuple[float, float] | None] = {
    "rotation": (-180, 180),
    "scaling": (0.1, 10),
    "elastic": (0, 0.4),
    "bias_field": (-2, 2),
    "stain": (-1, 1),
    "colour": (-1, 1),
    "noise": (0, 10),
    "blur": (0, 20),
    "brightness": (0, 10),
    "contrast": (0, 10),
    "low_resolution": (0.05, 1),
    "gamma_inverted": (0.1, 10),
    "gamma": (0.1, 10),
    "mirror": None,
    "quarter_turn": None,
}


class ChangeConfig(Section):
    """One row of an augmentation recipe; what is not said stays as the recipe has it."""

    probability: float | None = Field(default=None, ge=0, le=1, description="share of the samples that are changed")
    range: list[float] | None = Field(
        default=None, min_length=2, max_length=2, description="lowest and highest value (medseg/augment/steps.py)"
    )


class ModelConfig(Section):
    """One model of the study; everything not said is planned."""

    network: Network = Field(description="architecture, a row of MODELS in medseg/networks.py (docs/models.md)")
    options: dict[str, Any] = Field(default_factory=dict, description="options of that row; none: their defaults")
    dims: Literal[2, 3] | None = Field(default=None, description="spatial dimensions; none: those of the data")
    datasets: list[Name] | None = Field(default=None, min_length=1, description="data sets to train it on; none: all")
    start: Name | None = Field(
        default=None, description="a model of this configuration whose weights training starts from, where they fit"
    )
    loss: Loss = Field(default="dice_ce", description="training loss (docs/losses.md)")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="optimiser")
    lr: Positive | None = Field(default=None, description="peak learning rate; none: 2e-3 for adamw, 1e-2 for sgd")
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay")
    augment: Literal["default", "nnunet", "microscopy", "none"] = Field(
        default="default", description="augmentation recipe (medseg/augment/tables.py)"
    )
    augmentation: dict[str, ChangeConfig] = Field(
        default_factory=dict, description="changes of the recipes nnunet and microscopy, e.g. {blur: {probability: 0}}"
    )
    foreground: float = Field(
        default=0.33, ge=0, le=1, description="share of the patches of a batch that are centred on foreground"
    )
    plan: PlanOverrides = Field(default_factory=PlanOverrides)

    @model_validator(mode="after")
    def _augmentation_fits_the_recipe(self) -> ModelConfig:
        if self.augmentation and self.augment in ("default", "none"):
            raise ValueError(f"augmentation: the recipe {self.augment} is fixed; write augment: nnunet or microscopy")
        for name, row in self.augmentation.items():
            if name not in AUGMENTATION:
                near = difflib.get_close_matches(name, AUGMENTATION, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(AUGMENTATION)}"
                raise ValueError(f"augmentation: the recipes have no row '{name}', {hint}")
            limits = AUGMENTATION[name]
            if row.range is not None and (limits is None or not limits[0] <= row.range[0] <= row.range[1] <= limits[1]):
                wanted = f"two numbers, rising, within {list(limits)}" if limits else "no range: it has none"
                raise ValueError(f"augmentation.{name}.range: {row.range}, expected {wanted}")
        return self

    @field_validator("options")
    @classmethod
    def _options_exist(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "network" in info.data:
            network = info.data["network"]
            try:
                options_of(network, value)
            except ValidationError as error:
                raise ValueError("; ".join(_option(network, detail) for detail in error.errors())) from None
        return value


class FoldsConfig(Section):
    """Cross-validation."""

    scheme: Literal["balanced", "nnunet", "site"] = Field(
        default="balanced",
        description="balanced: whole subjects, equal shares of classes and sites; nnunet: that program's own split of "
        "cases; site: one fold per site, validated on it",
    )
    count: int = Field(default=5, ge=2, description="number of folds; the scheme site and files have their own")
    run: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], description="folds to train")
    group: Literal["subject"] = Field(default="subject", description="what stays together: a subject's cases")
    seed: int = Field(default=0, ge=0, description="seed of the shuffle")
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
        # How many folds sites and files make shows when they are read.
        last = self.count - 1 if self.scheme != "site" and self.file is None else max(self.run, default=0)
        if not self.run or max(self.run) > last or len(set(self.run)) != len(self.run):
            raise ValueError(f"run: {self.run} must be distinct numbers from 0 to {last}")
        return self


class BudgetConfig(Section):
    """How long each training lasts, and how much memory it may take."""

    steps: Count | None = Field(default=None, description="training steps")
    epochs: Count | None = Field(default=None, description="passes over the training cases")
    minutes: Positive | None = Field(
        default=None,
        description="wall-clock per training, validation included; turned into steps once, by plan",
    )
    memory_gb: Positive | None = Field(
        default=None, description="memory of the training device; none: what the machine has"
    )
    host_gb: Positive | None = Field(
        default=None, description="main memory of a preprocessing job; none: half of the machine's"
    )

    @model_validator(mode="after")
    def _one_stop(self) -> BudgetConfig:
        if sum(v is not None for v in (self.steps, self.epochs, self.minutes)) != 1:
            raise ValueError("give exactly one of steps, epochs, minutes")
        return self


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str | None = Field(default=None, description="MLflow server; none: SQLite file mlflow.db in this folder")


class Config(Section):
    """A whole experiment: data sets x models x folds x seeds."""

    experiment: Name = Field(
        default="study", description="name of the experiment; its results lie under results/<experiment>/"
    )
    data_root: str = Field(default="data", description="folder that the data sets' paths are relative to")
    results: str = Field(default="results", description="folder of all results")
    datasets: dict[Name, DatasetConfig] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(
        default_factory=lambda: {"unet": ModelConfig(network="unet")}, min_length=1, description="none: a U-Net"
    )
    folds: FoldsConfig = Field(default_factory=FoldsConfig)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    budget: BudgetConfig
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    threads: Count = Field(default=2, description="CPU threads of a training or prediction job; part of its exactness")
    shards: Count = Field(
        default=1, description="preprocessing jobs per data set, for clusters; their results are equal"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where networks run")

    @model_validator(mode="after")
    def _starts_exist(self) -> Config:
        for name in self.models:
            seen = [name]
            while (start := self.models[seen[-1]].start) is not None:
                if start not in self.models:
                    raise ValueError(
                        f"models.{seen[-1]}.start: no model '{start}'; there are: {', '.join(self.models)}"
                    )
                if start in seen:
                    raise ValueError(f"models.{name}.start: {' -> '.join([*seen, start])} goes in a circle")
                seen.append(start)
        return self

    @model_validator(mode="after")
    def _datasets_of_models_exist(self) -> Config:
        for name, model in self.models.items():
            unknown = sorted(set(model.datasets or ()) - self.datasets.keys())
            if unknown:
                raise ValueError(
                    f"models.{name}.datasets: no data set {unknown}; there are: {', '.join(self.datasets)}"
                )
            if model.start is not None:
                here, there = (m.datasets or list(self.datasets) for m in (model, self.models[model.start]))
                apart = sorted(set(here) - set(there))
                if apart:
                    raise ValueError(f"models.{name}.start: '{model.start}' is not trained on {', '.join(apart)}")
        return self

    def runs(self) -> list[tuple[str, str, int, int]]:
        """All trainings of the experiment: data set, model, fold, seed."""
        return [
            (dataset, name, fold, seed)
            for dataset in self.datasets
            for name, model in self.models.items()
            if model.datasets is None or dataset in model.datasets
            for fold in self.folds.run
            for seed in self.seeds
        ]

    def dataset(self, name: str) -> DatasetConfig:
        """The data set of this name; ``ConfigError`` names those there are."""
        return _named(self.datasets, name, "data set")

    def model(self, name: str) -> ModelConfig:
        """The model of this name; ``ConfigError`` names those there are."""
        return _named(self.models, name, "model")


T = TypeVar("T")


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
        raise ConfigError(f"no {what} '{name}' in the configuration; {hint}")
    return table[name]


def load_config(paths: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read, merge (later files win, ``overrides`` last) and check a configuration.

    Raises:
        ConfigError: with one line per problem: the key, what was found, and the nearest valid key or a hint.
    """
    value: dict[str, Any] = {}
    for path in paths:
        value = merge(value, read_settings(path))
    value = merge(value, overrides or {})
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        source = ", ".join(str(p) for p in paths) or "configuration"
        lines = [f"{source}: {_explain(detail)}" for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    return config


def _option(network: str, detail: Any) -> str:
    """What is wrong with an option of a network."""
    name = ".".join(str(part) for part in detail["loc"])
    valid = list(MODELS[network].options.model_fields)
    if detail["type"] != "extra_forbidden":
        return f"{name}: {detail['msg']}"
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its options: {', '.join(valid) or 'none'}"
    return f"{network} has no option '{name}', {hint}"


def _explain(detail: Any) -> str:
    """One line for one pydantic error: where, what was found, what to write instead."""
    where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    found = detail["input"]
    if detail["type"] == "extra_forbidden":
        valid = _keys_at(detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), valid, n=2, cutoff=0.5)
        names = " or ".join(f"'{name}'" for name in near)
        hint = f"did you mean {names}?" if near else f"valid keys: {', '.join(valid)}"
        return f"unknown key '{where}'; {hint}"
    if detail["type"] == "missing":
        return f"missing key '{where}'"
    hint = ""
    if isinstance(found, str) and detail["type"] in {"float_type", "int_type"}:
        try:
            number = float(found)
            if detail["type"] == "int_type":
                hint = f"; this is text to YAML: write it as {number:.0f} (a whole number)"
            else:
                hint = f"; YAML reads {found} as text: write it as {number!r} (with a decimal point)"
                if "e" in repr(number):
                    hint = f"; YAML reads {found} as text: write it as {_decimal(number)} (with a decimal point)"
        except ValueError:
            hint = ""
    shown = json.dumps(found, default=str, ensure_ascii=False)
    return f"'{where}': {detail['msg'].removeprefix('Value error, ')}, found {shown[:80]}{hint}"


def _decimal(number: float) -> str:
    """A number with an exponent, as YAML 1.1 reads it: with a decimal point and a signed exponent."""
    digits, exponent = f"{number:e}".split("e")
    digits = digits.rstrip("0")
    return f"{digits}{'0' if digits.endswith('.') else ''}e{exponent}"


def _keys_at(location: Sequence[Any]) -> list[str]:
    """The valid keys of the section at ``location`` in the configuration."""
    section: Any = Config
    for part in location:
        annotation = section.get(part) if isinstance(section, dict) else section.model_fields[str(part)].annotation
        if get_origin(annotation) is dict:
            # Names of the user's own stand at the next place; each leads to the same kind of section.
            section = dict.fromkeys(location, get_args(annotation)[1])
        else:
            inner = (annotation, *get_args(annotation))
            section = next(a for a in inner if isinstance(a, type) and issubclass(a, Section))
    return list(section.model_fields)


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, as shipped in ``workflow/schemas/config.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
