"""MLflow as a library: imported late and with short timeouts, silent, its errors in a few words."""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from typing import Any

from medseg.errors import MedsegError

# An upload's answer may take a while (the server stores it first); a training's sender gives up sooner.
SYNC_TIMEOUT_S = 30
LIVE_TIMEOUT_S = 3
# Whether a server answers at all.
ANSWER_S = 5
# What they log of a store that fails, with tracebacks, is in the exception that we catch and report in one line.
LOUD = ("mlflow", "alembic", "sqlalchemy", "urllib3")
# Reasons that systems give within longer texts.
REASON = re.compile(
    r"connection (?:refused|reset|aborted)|too many \d+ error responses|"
    r"name or service not known|temporary failure in name resolution|"
    r"no route to host|network is unreachable|remote end closed connection|certificate verify failed|"
    r"database is locked|database or disk is full|attempt to write a readonly database|unable to open database file|"
    r"disk i/o error|no space left on device|disk quota exceeded|read-only file system|permission denied|"
    r"file is not a database|database disk image is malformed",
    re.IGNORECASE,
)
# SQLite's words for a file that cannot be used now, as against one that is no store at all.
PASSING = re.compile(r"locked|is full|readonly|unable to open|disk i/o error", re.IGNORECASE)
# Errors of the operating system that say the same of the folder of a store.
PASSING_ERRNO = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOLCK}
)


def load_mlflow(timeout_s: int = SYNC_TIMEOUT_S) -> Any:
    """Import MLflow with short timeouts: by default a call to a dead server blocks for minutes."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    os.environ.update(MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    os.environ.update(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT=str(timeout_s))
    # Its type-hint checks and deprecated imports warn on import; nothing that a user of medseg could fix.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow = importlib.import_module("mlflow")
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    # Loggers that were given a level of their own keep it whatever their parent has.
    for name in list(logging.Logger.manager.loggerDict):
        if name.split(".")[0] in LOUD:
            logging.getLogger(name).setLevel(logging.NOTSET)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    return mlflow


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Requests within the block are sent once and wait ``ANSWER_S`` at most."""
    names = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def store_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """The exceptions that MLflow raises when a store is down, locked, full or refuses a request; and some more."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, StoreFault, *more)


class StoreFault(Exception):
    """Any other error within a call to a store: of its files, or from an answer that nobody expects."""


@contextlib.contextmanager
def of_store() -> Iterator[None]:
    """What happens within the block is the store's: errors of other kinds become ``StoreFault``."""
    try:
        yield
    except store_errors(MedsegError):
        raise
    except Exception as error:
        told = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise StoreFault(told) from error


def is_passing(error: BaseException) -> bool:
    """Whether an error of a SQLite store says that it cannot be used now, and not that it is no store."""
    if isinstance(error, StoreFault) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno in PASSING_ERRNO
    return PASSING.search(str(error)) is not None


def why(error: BaseException) -> str:
    """A few words: what the system says of an error, or else the first line of its text."""
    if "timed out" in str(error).lower():
        return "no answer in time"
    found = REASON.search(str(error))
    if found:
        return found[0][0].lower() + found[0][1:]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # A server's answer is shown as text, whatever it holds.
    return "".join(letter if letter.isprintable() else " " for letter in lines[0][:200])
