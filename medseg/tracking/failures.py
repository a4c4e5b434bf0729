"""What is wrong with a store, as against this machine's own files: only errors of a store's calls are the store's."""

from __future__ import annotations

import functools
import os
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


def as_store_error(error: BaseException, uri: str, experiment: str = "") -> StoreError:
    """An error of a store's call in one line: whether it may pass, or what there is to do.

    Args:
        error: of the call.
        uri: of the store.
        experiment: that the call was about, where it is known.
    """
    if isinstance(error, StoreError):
        return error
    said = why(error)
    if not uri.startswith("sqlite:"):
        status = refusal(error)
        if status is None:
            return AwayError(f"{uri}: {said}")
        return StoreError(f"{uri}: the server refuses ({status}): {_denied(status, experiment) or said}")
    if is_passing(error):
        return AwayError(f"{uri}: {said}")
    if DAMAGED.search(str(error)):
        path = uri.removeprefix("sqlite:///")
        said += f"; move {path} away, with {path}-wal and {path}-shm where they are: the next run fills a new one"
    return StoreError(f"{uri}: cannot be used: {said}")


def _denied(status: int, experiment: str) -> str:
    """Who is refused what, and what there is to do; empty if it is not about who asks. No password is in it."""
    from mlflow.utils.credentials import read_mlflow_creds

    user, password = read_mlflow_creds()
    token = "MLFLOW_TRACKING_TOKEN" in os.environ and not (user and password)
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if status == 401:
        if token:
            return (
                "it does not take the token of MLFLOW_TRACKING_TOKEN; it may have expired, or the server want " + names
            )
        if user and password:
            return f"it does not know user {user!r} with this password; correct {names} (or ~/.mlflow/credentials)"
        return f"it wants to know who asks; set {names} where the command runs, or write ~/.mlflow/credentials"
    if status == 403:
        who = "the owner of the token" if token else f"user {user!r}" if user else "a user without a name"
        what = f"experiment {experiment!r}" if experiment else "what was asked for"
        return (
            f"{who} may not do this with {what}; an administrator, or who made it, gives the permission EDIT "
            "(docs/team.md); another name of the experiment makes one of your own"
        )
    return ""


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
