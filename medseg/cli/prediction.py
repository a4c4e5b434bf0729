"""Commands that make label maps: predict, choose, postprocess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli import predicting as o
from medseg.cli.images import begin, predict_images
from medseg.cli.measuring import Geojson, Overlays, Rois, Tables, kinds_of
from medseg.cli.options import (
    Code,
    ConfigFile,
    Join,
    ManifestFile,
    OfModel,
    OutFolder,
    Predictions,
    ShardOf,
    SplitsFile,
    fold_of,
    part_of,
)

if TYPE_CHECKING:
    from medseg.config import Config
    from medseg.results.key import Fold
    from medseg.shards import Shard
    from medseg.train.identity import Wanted


def predict(
    model: o.Models,
    out: OutFolder,
    images: o.Images = None,
    layout: o.Layout = None,
    spacing: o.PixelSize = None,
    series: o.Series = "",
    orientation: o.Orientation = None,
    fill: o.Fill = None,
    allow: o.Allow = None,
    axes: o.Axes = None,
    channel: o.Channel = None,
    max_gb: o.MaxGb = None,
    dry_run: o.DryRun = False,
    device: o.Device = None,
    threads: o.Threads = None,
    mirror: o.Mirror = None,
    runtime: o.Runtime = None,
    fast: o.Fast = False,
    references: o.References = None,
    raw: o.Raw = False,
    uncertainty: o.Uncertainty = False,
    tracking_uri: o.TrackingUri = None,
    tables: Tables = False,
    rois: Rois = False,
    geojson: Geojson = False,
    overlays: Overlays = False,
    config: o.FoldConfig = None,
    manifest: o.FoldManifest = None,
    splits: o.FoldSplits = None,
    fold: o.Fold = None,
    plan: o.OfPlan = None,
    index: o.Index = None,
    seed: o.OfSeed = None,
    train_code: o.TrainCode = None,
    start: o.Start = None,
    weights: o.Weights = None,
    code: Code = None,
    shard: ShardOf = None,
    join: Join = None,
) -> None:
    """Predict IMAGES with one or several trained models, or (as the workflow does) the validation cases of a fold."""
    given = locals()
    if images:
        _refuse(given, o.OF_FOLD + o.OF_TRAINING, "for the validation cases of a fold, and images are given")
        how = {name: given[name] or None for name in ("layout", "series", "spacing", "allow", "axes")}
        how |= {name: given[name] for name in o.AS_GIVEN} | {"channels": numbers_or_names(channel)}
        predict_images(images, model, tracking_uri, out, kinds_of(tables, rois, geojson, overlays), how)
    elif config is not None and manifest is not None and splits is not None and fold is not None:
        _refuse(given, o.OF_FILES, "for image files; a fold's cases are predicted as the configuration says")
        if len(model) > 1:
            raise typer.BadParameter("--model: one training predicts the validation cases of its fold; name one")
        training, which = None, fold_of(fold)
        if plan is not None and index is not None and seed is not None:
            training = _wanted(manifest, plan, index, splits, which, seed, train_code, start, weights)
        else:
            _refuse(given, o.OF_TRAINING, "what the model must be trained from; give --plan, --index and --seed")
        _predict_fold(config, manifest, splits, which, Path(model[0]), out, code, part_of(shard, join), join, training)
    else:
        raise typer.BadParameter("give image files, or --config, --manifest, --splits and --fold")


def numbers_or_names(channels: list[str] | None) -> list[int | str]:
    """Channels as they are asked for: numbers from 0, or the file's own names."""
    return [int(one) if one.isdecimal() else one for one in channels or ()]


def _predict_fold(
    config_file: Path,
    manifest: Path,
    splits: Path,
    fold: Fold,
    model: Path,
    out: Path,
    code: str | None,
    part: Shard | None,
    join: int | None,
    training: Wanted | None,
) -> None:
    """Predict the validation cases of a fold, or a part of them, or join parts; arguments as for ``predict``."""
    if join is None:
        begin()
    from medseg.places import read_study
    from medseg.predict import run as stage
    from medseg.results.folders import ModelFolder
    from medseg.stages import rows_of_plan, stage_digest
    from medseg.trained import read_facts

    config = read_study([config_file])
    if ModelFolder(model).members.is_file():
        if training is not None:
            raise typer.BadParameter(f"--plan, --index, --seed: say what one training is, and {model} is an ensemble")
        _predict_together(config, manifest, splits, fold, model, out, code, part, join)
        return
    if code is None:
        code = stage_digest("predict_case", rows_of_plan(read_facts(model)["plan"]))
    if join is not None:
        stage.join(config, manifest, splits, fold, model, out, join, code, training)
    else:
        soft = _keeps_probabilities(config, manifest)
        stage.run(config, manifest, splits, fold, model, out, code, probabilities=soft, shard=part, wanted=training)


def _predict_together(
    config: Config,
    manifest: Path,
    splits: Path,
    fold: Fold,
    model: Path,
    out: Path,
    code: str | None,
    part: Shard | None,
    join: int | None,
) -> None:
    """As ``_predict_fold``, of an ensemble."""
    from medseg.predict import together as stage
    from medseg.predict.code import code_of
    from medseg.trained import read_trained

    code = code or code_of([member.folder for member in read_trained(model).members])
    if join is not None:
        stage.join(config, manifest, splits, fold, model, out, join, code)
    else:
        soft = _keeps_probabilities(config, manifest)
        stage.run(config, manifest, splits, fold, model, out, code, probabilities=soft, shard=part)


def _wanted(
    manifest: Path,
    plan: Path,
    index: Path,
    splits: Path,
    fold: Fold,
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


def _refuse(given: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    """Raise ``BadParameter`` if one of the options ``names`` is given, since it would change nothing."""
    empty: tuple[Any, ...] = (None, "", [])
    found = [name for name in names if given[name] not in empty and not (name in o.FLAGS and not given[name])]
    if found:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in found)
        raise typer.BadParameter(f"{options}: {why}; leave them out")


def _keeps_probabilities(config: Config, manifest: Path) -> bool:
    """Whether the data set's post-processing works on probabilities."""
    from medseg.ingest.recorded import read_dataset
    from medseg.postprocess.operations import wants_probabilities

    return wants_probabilities(config.dataset(read_dataset(manifest)["dataset"]).postprocess)


def postprocess(
    config: ConfigFile,
    manifest: ManifestFile,
    predictions: Predictions,
    out: OutFolder,
    code: Code = None,
    model: OfModel = None,
) -> None:
    """Apply the operations that the data set's configuration names, and those that were chosen, to predictions."""
    from medseg.ingest.recorded import read_dataset
    from medseg.places import read_study
    from medseg.postprocess import run as stage
    from medseg.postprocess.operations import possible
    from medseg.stages import stage_digest

    loaded = read_study([config])
    steps = loaded.dataset(read_dataset(manifest)["dataset"]).postprocess
    code = code or stage_digest("postprocess", {"OPERATIONS": possible(steps)})
    stage.run(loaded, manifest, predictions, out, code, model)


def choose(
    config: ConfigFile,
    manifest: ManifestFile,
    splits: SplitsFile,
    model: Annotated[Path, typer.Option("--model", help="model folder, into which postprocess.json is written")],
    predictions: Annotated[
        list[Path] | None,
        typer.Option("--predictions", help="predictions.json of each other fold of the same model and seed"),
    ] = None,
) -> None:
    """Choose the post-processing of a model on predictions of the other folds, and write it into its folder."""
    from medseg.places import read_study
    from medseg.postprocess import choose as stage

    stage.run(read_study([config]), manifest, splits, model, predictions or [])
