"""Commands that score and compare: evaluate, price, compare, report, leaderboard, test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import (
    ConfigFile,
    Join,
    ManifestFile,
    ModelFolders,
    OfModel,
    OutFile,
    OutFolder,
    Predictions,
    ShardOf,
    SplitsFile,
    fold_of,
    part_of,
)

PriceFold = Annotated[str, typer.Option("--fold", help="whose validation cases")]
PriceModel = Annotated[Path, typer.Option("--model", help="model folder; what is found is written into it")]


def evaluate(
    config: ConfigFile,
    manifest: ManifestFile,
    predictions: Predictions,
    out: OutFile,
    shard: ShardOf = None,
    join: Join = None,
    model: OfModel = None,
) -> None:
    """Score predicted label maps against the references: one table, a row per case, class and metric."""
    from medseg.evaluate import run as stage
    from medseg.places import read_study

    part, study = part_of(shard, join), read_study([config])
    if join is not None:
        stage.join(study, predictions, out, join, model)
    else:
        stage.run(study, manifest, predictions, out, part, model)


def price(config: ConfigFile, manifest: ManifestFile, splits: SplitsFile, fold: PriceFold, model: PriceModel) -> None:
    """Measure what `predict --fast` costs in Dice and saves in time, on a model's validation cases."""
    from medseg.evaluate.price import measure
    from medseg.places import read_study

    print(measure(read_study([config]), manifest, splits, fold_of(fold), model).line)


def compare(
    scores: Annotated[list[Path], typer.Argument(help="tables of the evaluate stage")],
    out: OutFolder,
    margin: Annotated[
        float | None, typer.Option("--margin", help="difference in mean score that does not matter; none: not tested")
    ] = None,
    model: ModelFolders = None,
) -> None:
    """Compare models: leaderboard with intervals over subjects, paired differences."""
    from medseg.compare import run as stage

    stage.run(scores, out, margin, model)


def report(
    results: Annotated[Path, typer.Option("--results", help="results/<experiment>")],
    config: ConfigFile,
    out: OutFolder,
) -> None:
    """Write the HTML report of an experiment."""
    from medseg.places import read_study
    from medseg.report import run as stage

    stage.run(results, config, Path(read_study([config]).data_root), out)


def leaderboard(compare: Annotated[Path, typer.Argument(help="results/<experiment>/compare")]) -> None:
    """Print the leaderboard of an experiment, and the statements that its reader needs to judge it."""
    from medseg.compare.terminal import terminal_leaderboard
    from medseg.report.statements import require_scores, terminal_statements

    require_scores(compare)
    print(terminal_leaderboard(compare))
    statements = terminal_statements(compare.parent)
    if statements:
        print(f"\n{statements}")


def open_test_set(
    results: Annotated[Path, typer.Option("--results", help="results/<experiment>")],
    config: ConfigFile,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="name of a data set; none: all that declare a test set")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="name of a model; none: all")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="trainings tested side by side")] = 1,
) -> None:
    """Open the test set: score it with every finished training, and leave a record of it (test/opened.json)."""
    from medseg.machine import reserve_gpu

    reserve_gpu()
    from medseg.compare.terminal import terminal_leaderboard
    from medseg.places import read_study
    from medseg.results.paths import Results
    from medseg.testset import run as stage
    from medseg.testset.openings import read_openings, times_opened

    loaded = read_study([config])
    compared = stage.run(results, loaded, dataset or (), model or (), workers)
    print(terminal_leaderboard(compared))
    openings = read_openings(results)
    for name in openings[-1].datasets:
        print(f"test set of {name}: {times_opened(openings, name)} (record: {Results(results).test.opened})")
