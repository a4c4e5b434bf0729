"""Commands that make label maps: predict, postprocess."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medseg.cli.options import Code, ConfigFile, Join, ManifestFile, OutFolder, Predictions, ShardOf, part_of

if TYPE_CHECKING:
    from medseg.config import Config
    from medseg.shards import Shard


def predict(
    model: Annotated[str, typer.Option("--model", help="model folder, or an MLflow run id, runs:/… or models:/…")],
    out: OutFolder,
    images: Annotated[list[Path] | None, typer.Argument(help="image files, or folders of DICOM slices")] = None,
    spacing: Annotated[
        list[float] | None, typer.Option("--spacing", help="pixel size in micrometres, once per axis")
    ] = None,
    series: Annotated[str, typer.Option("--series", help="DICOM series, if several: its UID or number")] = "",
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; none: as planned")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; none: as planned")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="average over mirror images; none: as trained")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store of a run id")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="predict a fold: the configuration")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="predict a fold: its manifest")] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="predict a fold: its splits")] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="predict a fold: which")] = None,
    code: Code = None,
    shard: ShardOf = None,
    join: Join = None,
) -> None:
    """Predict IMAGES with a trained model, or (as the workflow does) the validation cases of a fold."""
    of_files = {"--spacing": spacing or None, "--series": series or None, "--device": device, "--threads": threads}
    of_files |= {"--mirror": mirror, "--tracking-uri": tracking_uri}
    of_fold = {"--config": config, "--manifest": manifest, "--splits": splits, "--fold": fold, "--code": code}
    of_fold |= {"--shard": shard, "--join": join}
    if images:
        _refuse(of_fold, "for the validation cases of a fold, and images are given")
        _reserve_gpu()
        from medseg.predict import run as stage
        from medseg.tracking import resolve_model

        folder = resolve_model(model, tracking_uri)
        how: dict[str, Any] = {"spacing": spacing, "series": series, "device": device, "threads": threads}
        for path in stage.predict_files(images, folder, out, mirror=mirror, **how):
            print(path)
    elif config is not None and manifest is not None and splits is not None and fold is not None:
        _refuse(of_files, "for image files; the validation cases of a fold are predicted as the configuration says")
        _predict_fold(config, manifest, splits, fold, Path(model), out, code, part_of(shard, join), join)
    else:
        raise typer.BadParameter("give image files, or --config, --manifest, --splits and --fold")


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
) -> None:
    """Predict the validation cases of a fold, or a part of them, or join parts; arguments as for ``predict``."""
    if join is None:
        _reserve_gpu()
    from medseg.config import load_config
    from medseg.files import read_json
    from medseg.predict import run as stage
    from medseg.results.folders import ModelFolder
    from medseg.stages import rows_of_plan, stage_digest

    config = load_config([config_file])
    if code is None:
        code = stage_digest("predict_case", rows_of_plan(read_json(ModelFolder(model).description)["plan"]))
    if join is not None:
        stage.join(config, manifest, splits, fold, model, out, join, code)
    else:
        soft = _keeps_probabilities(config, manifest)
        stage.run(config, manifest, splits, fold, model, out, code, probabilities=soft, shard=part)


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
    config: ConfigFile, manifest: ManifestFile, predictions: Predictions, out: OutFolder, code: Code = None
) -> None:
    """Apply the operations that the data set's configuration names to predictions."""
    from medseg.config import load_config
    from medseg.ingest.manifest import read_manifest
    from medseg.postprocess import run as stage
    from medseg.postprocess.operations import wanted
    from medseg.stages import stage_digest

    loaded = load_config([config])
    steps = loaded.dataset(read_manifest(manifest).dataset).postprocess
    stage.run(loaded, manifest, predictions, out, code or stage_digest("postprocess", {"OPERATIONS": wanted(steps)}))
