"""Options of ``medseg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Text: TypeAlias = str | None
Texts: TypeAlias = list[str] | None
Whole: TypeAlias = int | None
File: TypeAlias = Path | None

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="model folder, or an MLflow run id, runs:/… or models:/…; given several times, or a folder or pattern of "
        "trainings, or the run of a model: the mean of their probabilities",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Argument(help="image files, patterns, folders of images or of DICOM slices, tables (.csv, .tsv)"),
]
Layout = Annotated[
    Text, typer.Option("--layout", help="how IMAGES are laid out: nnunet, decathlon, pairs, bids, dsb2018, table")
]
PixelSize = Annotated[
    list[float] | None,
    typer.Option("--spacing", help="pixel size in micrometres, once per axis; none: as in training"),
]
Series = Annotated[str, typer.Option("--series", help="DICOM series, if several: its UID or number")]
Orientation = Annotated[
    Literal["sform", "qform"] | None,
    typer.Option("--orientation", help="which form of contradicting NIfTI headers counts"),
]
Fill = Annotated[float | None, typer.Option("--fill", help="stands for NaN and Inf voxels, with --allow nonfinite")]
Allow = Annotated[
    Texts, typer.Option("--allow", help="a doubt about images that is accepted, by name; besides those of the training")
]
Axes = Annotated[
    Text, typer.Option("--axes", help="planes of TIFF files, the slowest first: CYX, ZYX; none: as in training")
]
Channel = Annotated[
    Texts,
    typer.Option("--channel", help="number from 0, or name, of a channel to take, once per channel of the model"),
]
MaxGb = Annotated[
    float | None, typer.Option("--max-gb", min=0.001, help="memory that predicting may take; none: what is there")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="check the images and say what memory and disk each takes; predict none")
]
Device = Annotated[Text, typer.Option("--device", help="auto, cpu or cuda; none: as planned")]
Threads = Annotated[Whole, typer.Option("--threads", min=1, help="CPU threads; none: as planned")]
Mirror = Annotated[
    bool | None, typer.Option("--mirror/--no-mirror", help="average over mirror images; none: as trained")
]
Runtime = Annotated[
    Literal["torch", "openvino"] | None,
    typer.Option("--runtime", help="what computes networks on a processor; none: torch, with --fast openvino if there"),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast", help="several times as fast: no mirror images, less overlap, a compiled network; at a price"
    ),
]
References = Annotated[
    bool | None,
    typer.Option(
        "--references/--no-references",
        help="DICOM segmentations name the UIDs of their series, which viewers need; none: they do",
    ),
]
Uncertainty = Annotated[
    bool,
    typer.Option("--uncertainty", help="maps of entropy and of the members' disagreement (nats), beside label maps"),
]
Raw = Annotated[bool, typer.Option("--raw", help="the network's own label maps, without the model's post-processing")]
TrackingUri = Annotated[Text, typer.Option("--tracking-uri", help="MLflow store of a run id")]

FoldConfig = Annotated[File, typer.Option("--config", help="predict a fold: the configuration")]
FoldManifest = Annotated[File, typer.Option("--manifest", help="predict a fold: its manifest")]
FoldSplits = Annotated[File, typer.Option("--splits", help="predict a fold: its splits")]
Fold = Annotated[Text, typer.Option("--fold", help="predict a fold: its number")]
OfPlan = Annotated[
    File, typer.Option("--plan", help="predict a fold: the model must be trained by this plan, and --index …")
]
Index = Annotated[File, typer.Option("--index", help="… index.json of its prepared cases")]
OfSeed = Annotated[Whole, typer.Option("--seed", min=0, help="… its seed")]
TrainCode = Annotated[Text, typer.Option("--train-code", help="… --code of its training")]
Start = Annotated[Text, typer.Option("--start", help="… --start of its training")]
Weights = Annotated[File, typer.Option("--weights", help="… --weights of its training")]

# Names of the options of image files, of a fold, and of the training that a fold's model must be.
OBJECTS = ("tables", "rois", "geojson", "overlays")
# Options that are given or not.
FLAGS = (*OBJECTS, "raw", "uncertainty", "dry_run", "fast")
RUNNING = ("device", "threads", "mirror", "runtime", "fast")
READING = ("layout", "spacing", "series", "orientation", "fill", "allow", "axes", "channel", "max_gb", "dry_run")
OF_FILES = (*READING, *RUNNING, "references", "raw", "uncertainty", "tracking_uri", *OBJECTS)
# Passed on as they are given; the others are words that need reading.
AS_GIVEN = ("orientation", "fill", "max_gb", *RUNNING, "raw", "uncertainty", "references", "dry_run")
OF_FOLD = ("config", "manifest", "splits", "fold", "code", "shard", "join")
OF_TRAINING = ("plan", "index", "seed", "train_code", "start", "weights")
