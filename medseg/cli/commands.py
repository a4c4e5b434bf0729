"""All commands by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer

from medseg.cli import (
    check,
    data,
    drafting,
    ensembles,
    exporting,
    measuring,
    prediction,
    prepare,
    running,
    scores,
    serving,
    tables,
    tracking,
    training,
)
from medseg.cli.passing import PassedError

# In the order of the help text.
COMMANDS: dict[str, Callable[..., Any]] = {
    "new": drafting.new,
    "run": running.run,
    "demo": running.demo,
    "phantoms": data.phantoms,
    "download": data.download,
    "ingest": data.ingest,
    "fingerprint": prepare.fingerprint,
    "plan": prepare.plan,
    "preprocess": prepare.preprocess,
    "weights": prepare.weights,
    "train": training.train,
    "ensemble": ensembles.ensemble,
    "predict": prediction.predict,
    "choose": prediction.choose,
    "serve": serving.serve,
    "postprocess": prediction.postprocess,
    "measure": measuring.measure,
    "export": exporting.export,
    "evaluate": scores.evaluate,
    "price": scores.price,
    "compare": scores.compare,
    "report": scores.report,
    "leaderboard": scores.leaderboard,
    "check": check.check,
    "test": scores.open_test_set,
    "ui": tracking.ui,
    "models": tables.models,
    "schema": tables.schema,
    "version": tables.version,
}
# Commands whose options, from the first one that is not theirs, are another program's.
PASSING = ("run", "demo")
HANDED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
TRACK_COMMANDS: dict[str, Callable[..., Any]] = {"init": tracking.track_init, "sync": tracking.track_sync}


def _command_line(commands: dict[str, Callable[..., Any]], **options: Any) -> typer.Typer:
    made = typer.Typer(no_args_is_help=True, rich_markup_mode=None, **options)
    for name, command in commands.items():
        made.command(name, context_settings=HANDED_ON if name in PASSING else None)(_passing(command))
    return made


def _passing(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with errors that typer would deal with in its own way (Ctrl-C, a closed pipe) carried past it."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise PassedError from error

    return run


app = _command_line(
    COMMANDS,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Segmentation studies in medical imaging. `medseg run CONFIG` runs all stages; each can be run by hand.",
)
app.add_typer(_command_line(TRACK_COMMANDS, help="Experiment tracking in MLflow."), name="track")
