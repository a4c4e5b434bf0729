"""Commands that make label maps: predict, postprocess."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli.measuring import Geojson, Overlays, Rois, Tables, kinds_of
from medseg.cli.options import Code, ConfigFile, Join, ManifestFile, OfModel, OutFolder, Predictions, ShardOf, part_of

if TYPE_CHECKING:
    from medseg.config import Config
    from medseg.shards import Shard
    from medseg.train.identity import Wanted


def predict(
    model: Annotated[str, typer.Option("--model", help="model folder, or an MLflow run id, runs:/… or models:/…")],
    out: OutFolder,
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="image files, patterns, folders of images or of DICOM slices, tables (.csv, .tsv)"),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="how IMAGES are laid out: nnunet, decathlon, pairs, bids, dsb2018, table"),
    ] = None,
    spacing: Annotated[
        list[float] | None,
        typer.Option("--spacing", help="pixel size in micrometres, once per axis; none: as in training"),
    ] = None,
    series: Annotated[str, typer.Option("--series", help="DICOM series, if several: its UID or number")] = "",
    orientation: Annotated[
        str | None,
        typer.Option("--orientation", help="which form of contradicting NIfTI headers counts: sform or qform"),
    ] = None,
    fill: Annotated[
        float | None, typer.Option("--fill", help="stands for NaN and Inf voxels, with --allow nonfinite")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="a doubt about images that is accepted, by name; besides those of the training"),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option("--axes", help="planes of TIFF files, the slowest first: CYX, ZYX; none: as in training"),
    ] = None,
    channel: Annotated[
        list[str] | None,
        typer.Option("--channel", help="number from 0, or name, of a channel to take, once per channel of the model"),
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option("--max-gb", min=0.001, help="memory that predicting may take; none: what is there")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; none: as planned")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; none: as planned")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="average over mirror images; none: as trained")
    ] = None,
    references: Annotated[
        bool | None,
        typer.Option(
            "--references/--no-references",
            help="DICOM segmentations name the UIDs of their series, which viewers need; none: they do",
        ),
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store of a run id")] = None,
    tables: Tables = False,
    rois: Rois = False,
    geojson: Geojson = False,
    overlays: Overlays = False,
    config: Annotated[Path | None, typer.Option("--config", help="predict a fold: the configuration")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="predict a fold: its manifest")] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="predict a fold: its splits")] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="predict a fold: which")] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="predict a fold: the model must be trained by this plan, and --index …"),
    ] = None,
    index: Annotated[Path | None, typer.Option("--index", help="… index.json of its prepared cases")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="… its seed")] = None,
    train_code: Annotated[str | None, typer.Option("--train-code", help="… --code of its training")] = None,
    start: Annotated[str | None, typer.Option("--start", help="… --start of its training")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="… --weights of its training")] = None,
    code: Code = None,
    shard: ShardOf = None,
    join: Join = None,
) -> None:
    """Predict IMAGES with a trained model, or (as the workflow does) the validation cases of a fold."""
    of_files: dict[str, Any] = {
        "--spacing": spacing or None,
        "--series": series or None,
        "--device": device,
        "--threads": threads,
    }
    of_files |= {"--mirror": mirror, "--tracking-uri": tracking_uri, "--tables": tables or None, "--layout": layout}
    of_files |= {"--orientation": orientation, "--fill": fill, "--allow": allow or None, "--max-gb": max_gb}
    of_files |= {"--axes": axes, "--channel": channel or None}
    of_files |= {
        "--references": references,
        "--rois": rois or None,
        "--geojson": geojson or None,
        "--overlays": overlays or None,
    }
    of_fold = {"--config": config, "--manifest": manifest, "--splits": splits, "--fold": fold, "--code": code}
    of_fold |= {"--shard": shard, "--join": join}
    of_training: dict[str, Any] = {"--plan": plan, "--index": index, "--seed": seed}
    of_training |= {"--train-code": train_code, "--start": start, "--weights": weights}
    if images:
        _refuse(of_fold | of_training, "for the validation cases of a fold, and images are given")
        if orientation not in (None, "sform", "qform"):
            raise typer.BadParameter(f"{orientation}: expected sform or qform", param_hint="--orientation")
        how: dict[str, Any] = {
            "spacing": spacing or None,
            "series": series,
            "device": device,
            "threads": threads,
            "mirror": mirror,
        }
        how |= {"references": references}
        how |= {"layout": layout, "orientation": orientation, "fill": fill, "allow": allow, "max_gb": max_gb}
        how |= {"axes": axes, "channels": [int(c) if c.isdecimal() else c for c in channel or ()]}
        _predict_images(images, model, tracking_uri, out, kinds_of(tables, rois, geojson, overlays), how)
    elif config is not None and manifest is not None and splits is not None and fold is not None:
        _refuse(of_files, "for image files; the validation cases of a fold are predicted as the configuration says")
        training = None
        if plan is not None and index is not None and seed is not None:
            training = _wanted(manifest, plan, index, splits, fold, seed, train_code, start, weights)
        else:
            _refuse(of_training, "what the model must be trained from; give at least --plan, --index and --seed")
        _predict_fold(config, manifest, splits, fold, Path(model), out, code, part_of(shard, join), join, training)
    else:
        raise typer.BadParameter("give image files, or --config, --manifest, --splits and --fold")


def _predict_images(
    images: list[Path], model: str, tracking_uri: str | None, out: Path, kinds: list[str], how: Mapping[str, Any]
) -> None:
    """Predict image files, write ``kinds`` of files for their objects, and print the names of all.

    Raises:
        ImagesFailed: if some could not be predicted; the names of the others are printed before.
    """
    _reserve_gpu()
    from medseg.tracking import resolve_model

    # Before torch is imported: a store that does not answer is said at once.
    folder = resolve_model(model, tracking_uri)
    from medseg.measure.predicted import PredictedObjects
    from medseg.predict import files as stage
    from medseg.predict.code import code_of
    from medseg.text import escaped

    batch = stage.open_batch(images, folder, out, stage.options_of({**how, "code": code_of(folder)}))
    objects = None
    if kinds:
        objects = PredictedObjects.create(out, kinds, batch.checkpoint.labels, batch.checkpoint.channels)
        inputs = batch.inputs
        objects.check([one.labels(out) for one in inputs], [file for one in inputs for file in one.files])
        batch.then = objects.write
    stage.predict_batch(batch)
    for path in [*batch.written, *([] if objects is None else objects.writer.finish())]:
        print(escaped(str(path)))
    stage.raise_failed(batch)


def _predict_fold(
    config_file: Path,
    manifest: Path,
    splits: Path,
    fold: int,
    model: Path,
    out: Path,
    code: str | None,
    part: Shard | None,
    join: int | None,
    training: Wanted | None,
) -> None:
    """Predict the validation cases of a fold, or a part of them, or join parts; arguments as for ``predict``."""
    if join is None:
        _reserve_gpu()
    from medseg.places import read_study
    from medseg.predict import run as stage
    from medseg.stages import rows_of_plan, stage_digest
    from medseg.trained import read_facts

    config = read_study([config_file])
    if code is None:
        code = stage_digest("predict_case", rows_of_plan(read_facts(model)["plan"]))
    if join is not None:
        stage.join(config, manifest, splits, fold, model, out, join, code, training)
    else:
        soft = _keeps_probabilities(config, manifest)
        stage.run(config, manifest, splits, fold, model, out, code, probabilities=soft, shard=part, wanted=training)


def _wanted(
    manifest: Path,
    plan: Path,
    index: Path,
    splits: Path,
    fold: int,
    seed: int,
    code: str | None,
    start: str | None,
    weights: Path | None,
) -> Wanted:
    """The training whose model is wanted; arguments as for ``medseg train``."""
    from medseg.results.folders import ModelFolder
    from medseg.train.identity import Inputs, Wanted

    folder = Path(start) if start is not None and ModelFolder(Path(start)).weights.is_file() else None
    inputs = Inputs(manifest, plan, index, splits, fold, seed, folder, weights=weights)
    return Wanted(inputs, code, any_start=start is not None and folder is None)


def _reserve_gpu() -> None:
    """Take one GPU, if there is any, before torch is imported."""
    from medseg.machine import reserve_gpu

    reserve_gpu()


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise ``BadParameter`` if one of the options is given, since it would change nothing."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: {why}; leave them out")


def _keeps_probabilities(config: Config, manifest: Path) -> bool:
    """Whether the data set's post-processing works on probabilities."""
    from medseg.ingest.manifest import read_manifest
    from medseg.postprocess.operations import wants_probabilities

    return wants_probabilities(config.dataset(read_manifest(manifest).dataset).postprocess)


def postprocess(
    config: ConfigFile,
    manifest: ManifestFile,
    predictions: Predictions,
    out: OutFolder,
    code: Code = None,
    model: OfModel = None,
) -> None:
    """Apply the operations that the data set's configuration names to predictions."""
    from medseg.ingest.manifest import read_manifest
    from medseg.places import read_study
    from medseg.postprocess import run as stage
    from medseg.postprocess.operations import wanted
    from medseg.stages import stage_digest

    loaded = read_study([config])
    steps = loaded.dataset(read_manifest(manifest).dataset).postprocess
    code = code or stage_digest("postprocess", {"OPERATIONS": wanted(steps)})
    stage.run(loaded, manifest, predictions, out, code, model)
