"""The command line: one thin command per stage. Stages are imported inside their command, so ``--help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from medseg.cli import data, prediction, prepare, scores, tables, tracking, training
from medseg.errors import DatasetFaults, MedsegError

# In the order of the help text.
COMMANDS: dict[str, Callable[..., Any]] = {
    "phantoms": data.phantoms,
    "download": data.download,
    "ingest": data.ingest,
    "fingerprint": prepare.fingerprint,
    "plan": prepare.plan,
    "preprocess": prepare.preprocess,
    "weights": prepare.weights,
    "train": training.train,
    "predict": prediction.predict,
    "postprocess": prediction.postprocess,
    "evaluate": scores.evaluate,
    "compare": scores.compare,
    "report": scores.report,
    "leaderboard": scores.leaderboard,
    "test": scores.open_test_set,
    "ui": tracking.ui,
    "models": tables.models,
    "schema": tables.schema,
    "version": tables.version,
}
TRACK_COMMANDS: dict[str, Callable[..., Any]] = {"init": tracking.track_init, "sync": tracking.track_sync}


def _command_line(commands: dict[str, Callable[..., Any]], **options: Any) -> typer.Typer:
    made = typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)
    for name, command in commands.items():
        made.command(name)(command)
    return made


app = _command_line(
    COMMANDS,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Segmentation studies in medical imaging. `snakemake --cores all` runs all stages; each can be run by hand.",
)
app.add_typer(_command_line(TRACK_COMMANDS, help="Experiment tracking in MLflow."), name="track")


def main() -> None:
    """Run the command line; a user's error is printed without a traceback (unless ``--debug``) and exits with 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except MedsegError as error:
        if debug:
            raise
        text = str(error)
        if isinstance(error, DatasetFaults):
            from medseg.ingest.fault_list import fault_list

            text = fault_list(error)
        sys.stderr.write(f"{text}\n")
        sys.exit(2)
