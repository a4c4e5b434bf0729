"""The command line: one thin command per stage. Stages are imported inside their command, so ``--help`` is quick."""

from __future__ import annotations

import contextlib
import sys

from medseg.console import close_console, is_reader_gone, open_console

USERS_ERROR = 2
# Part of the work is done, and what is not is named.
PARTLY_DONE = 3
# As shells say it of a program that a signal ended: 128 and its number.
INTERRUPTED, READER_GONE = 130, 141


def main() -> None:
    """Run the command line; a user's error is printed without a traceback (unless ``--debug``) and exits with 2.

    With 3 where part of the work could be done, and the rest is named.

    Errors of the operating system that a user can fix, a full disk, say, are users' errors, too.
    """
    # After these two commands come options of Snakemake, which has one of this name.
    debug = "--debug" in sys.argv and sys.argv[1:2] not in (["run"], ["demo"])
    if debug:
        sys.argv.remove("--debug")
    open_console()
    try:
        status = _run(debug)
    finally:
        close_console()
    sys.exit(status)


def _run(debug: bool) -> int:
    """The exit status of the command that the arguments name."""
    from medseg.cli.passing import PassedError

    try:
        status = _command()
        # Not left to Python's end, where a full disk is no error that can be caught.
        sys.stdout.flush()
        return status
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 (raised again unless it is a user's)
        found = error.__cause__ if isinstance(error, PassedError) and error.__cause__ is not None else error
        said = None if debug else _said(found)
        if said is None:
            raise found from found.__cause__
        status, text = said
        # Where not even this can be printed, the status says it.
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{text}\n" if text else "")
        return status


def _command() -> int:
    """Run the command; its exit status."""
    from medseg.cli.commands import app
    from medseg.errors import ConfigError
    from medseg.text import escaped

    for argument in sys.argv[1:]:
        if any(ord(character) < 32 or ord(character) == 127 for character in argument):
            shown = escaped(argument)
            raise ConfigError(f"'{shown}': an argument with a control character; rename what is called so")
    try:
        app()
    except SystemExit as end:
        return _status(end)
    return 0


def _status(end: SystemExit) -> int:
    """The status that Python itself gives an end: a text is an error, and is printed."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


def _said(error: BaseException) -> tuple[int, str] | None:
    """Exit status and text of an error; None for one that is a mistake of ours, whose traceback is needed."""
    from medseg.errors import DatasetFaults, ImagesFailed, MedsegError
    from medseg.explained import explain

    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped by Ctrl-C; run the same command again to resume"
    if isinstance(error, DatasetFaults):
        from medseg.ingest.fault_list import fault_list

        return USERS_ERROR, fault_list(error)
    if isinstance(error, ImagesFailed) and error.written:
        return PARTLY_DONE, str(error)
    if isinstance(error, MedsegError):
        return USERS_ERROR, str(error)
    if isinstance(error, OSError) and is_reader_gone(error):
        return READER_GONE, ""
    text = explain(error)
    return None if text is None else (USERS_ERROR, text)
