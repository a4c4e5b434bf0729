"""How a run of the workflow ends: what is said last, and with which status."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from medseg.config import Config
from medseg.errors import MedsegError
from medseg.explained import check_writing, explain
from medseg.results.paths import Results
from medseg.takeover import forget_ended, forget_submitted
from medseg.text import BREAK, escaped

# What Snakemake logs of a job that ended with a user's error.
FAILED_BY_USER = "non-zero exit status 2."


def stop(error: MedsegError | OSError) -> SystemExit | OSError:
    """Print a user's error without a traceback; the exception to raise for exit code 2 (Snakemake's own is 1).

    An error of the operating system that no user can fix is returned as it is.
    """
    text = str(error) if isinstance(error, MedsegError) else explain(error)
    if text is None:
        return cast(OSError, error)
    sys.stderr.write(f"{escaped(text, keep=BREAK)}\n")
    sys.stderr.flush()
    return SystemExit(2)


def has_ended(config: Config | None = None) -> None:
    """Note that the run has ended well, or has said how it ended.

    Args:
        config: the experiment, whose jobs have all ended; None: some may not have.
    """
    atexit.unregister(last_word)
    if config is not None:
        forget_submitted(Results.of(config).root)


def watch(folder: Path) -> None:
    """From now on, have a run that nobody asked say why it ends, if a full disk is the reason."""
    atexit.register(last_word, folder)


def last_word(folder: Path) -> None:
    """End with 2 and say why, if a run ended on a full disk and nobody was asked what to say.

    Snakemake ends so, with 1, where it cannot write its own notes of a job; the status of a process that is ending can
    be changed in no other way.
    """
    try:
        check_writing(folder)
    except OSError as error:
        if isinstance(stop(error), SystemExit):
            sys.stdout.flush()
            os._exit(2)


def exit_status(logs: Iterable[str], folder: Path, config: Config) -> int:
    """Status of a run in which a job failed: 2 for a user's error, as by hand; Snakemake's own is 1.

    On a full disk, jobs may fail because their log cannot be written, and Snakemake's may end early: so what is wrong
    with the folder is said once more, at the end.

    Args:
        logs: Snakemake's log of this run.
        folder: where results go.
        config: the experiment.
    """
    has_ended()
    forget_ended(Results.of(config).root)
    try:
        check_writing(folder)
    except OSError as error:
        if isinstance(stop(error), SystemExit):
            return 2
    return 2 if any(FAILED_BY_USER in Path(log).read_text(errors="replace") for log in logs) else 1
