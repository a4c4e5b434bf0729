"""What is wrong with a store, as against this machine's own files: only errors of a store's calls are the store's."""

from __future__ import annotations

import functools
import re
from typing import Any

from medseg.errors import TrackingError
from medseg.tracking.library import StoreFault, is_passing, of_store, why

# SQLite's words for a file that will never be a store again.
DAMAGED = re.compile(r"malformed|not a database", re.IGNORECASE)
# Answers of a server that ask for another try.
LATER = frozenset({408, 425, 429})
# MLflow's words for an answer that is not in its form.
NO_ANSWER = "was not in a valid JSON format"
STATUS = re.compile(r"failed with error code (4\d\d)\b")


class StoreError(TrackingError):
    """The tracking store cannot be used as it is, or refuses what is sent; no result needs it."""


class AwayError(StoreError):
    """The tracking store cannot be reached or used now; the same may work later."""


class StoreClient:
    """An ``MlflowClient`` whose own errors, of any kind, can be told from those of this machine's files."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            with of_store():
                return method(*arguments, **named)

        return call


def as_store_error(error: BaseException, uri: str) -> StoreError:
    """An error of a store's call in one line: whether it may pass, or what there is to do."""
    if isinstance(error, StoreError):
        return error
    said = why(error)
    if not uri.startswith("sqlite:"):
        status = refusal(error)
        return StoreError(f"{uri}: the server refuses ({status}): {said}") if status else AwayError(f"{uri}: {said}")
    if is_passing(error):
        return AwayError(f"{uri}: {said}")
    if DAMAGED.search(str(error)):
        path = uri.removeprefix("sqlite:///")
        said += f"; move {path} away, with {path}-wal and {path}-shm where they are: the next run fills a new one"
    return StoreError(f"{uri}: cannot be used: {said}")


def is_no_mlflow(error: BaseException) -> bool:
    """Whether what a server answered is nothing that MLflow says."""
    return (isinstance(error, StoreFault) and not isinstance(error.__cause__, OSError)) or NO_ANSWER in str(error)


def refusal(error: BaseException) -> int | None:
    """The status with which a server refused what was asked, as against one that fails or gives no answer."""
    from mlflow.exceptions import MlflowException, RestException

    status: int | None = None
    found = STATUS.search(str(error))
    if found:
        status = int(found[1])
    elif isinstance(error, RestException):
        status = int(error.get_http_status_code())
    elif not isinstance(error, MlflowException):
        status = getattr(getattr(error, "response", None), "status_code", None)
    return status if status is not None and 400 <= status < 500 and status not in LATER else None
