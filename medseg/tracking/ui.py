"""The MLflow UI, on this machine only."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import sys

from medseg.errors import TrackingError
from medseg.progress import say
from medseg.tracking.failures import as_store_error
from medseg.tracking.store import artifacts_of, check_uri, database_of
from medseg.tracking.views import MODELS, view_path

# How long to wait while another process has the database for itself.
LOCKED_S = 5.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The default is four workers and seven processes of a job queue that is not used here: 1.5 GB instead of 0.5.
SERVER_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PYTHONWARNINGS": "ignore",
}


def ui_command(store_uri: str | None, port: int = 5000, host: str = "127.0.0.1") -> list[str]:
    """The command that serves the UI of a SQLite store; run it in the working folder of the study.

    Raises:
        TrackingError: for a server (open its address instead), a missing store, or a host that others can
            reach: MLflow has no password.
    """
    uri = check_uri(store_uri)
    path = database_of(uri)
    if path is None:
        raise TrackingError(f"the runs are kept by a server: open {uri} in a browser")
    if host not in LOOPBACK:
        raise TrackingError(
            f"host {host!r}: the UI has no password, so it is served on 127.0.0.1 only; from elsewhere, use "
            f"`ssh -L {port}:127.0.0.1:{port}`"
        )
    if not path.is_file():
        raise TrackingError(f"{path}: no such file in this folder; run the command where the study was run")
    place = ["--backend-store-uri", uri, "--artifacts-destination", artifacts_of(uri)]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *place,
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def serve_ui(store_uri: str | None, port: int = 5000, host: str = "127.0.0.1") -> None:
    """Replace this process by the UI's server, until Ctrl-C.

    Raises:
        TrackingError: as ``ui_command``, or if the port is taken, or the store cannot be read.
    """
    command = ui_command(store_uri, port, host)
    experiments = _experiments(check_uri(store_uri))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingError(f"port {port} is taken ({error.strerror}); choose another: --port {port + 1}") from None
    shown = f"[{host}]" if ":" in host else host
    say(f"MLflow UI (ready in some seconds; Ctrl-C ends it): http://{shown}:{port}")
    for name, number in experiments:
        say(f"  {name}: http://{shown}:{port}/{view_path(number, MODELS)}")
    os.execve(command[0], command, {**os.environ, **SERVER_ENVIRONMENT})


def _experiments(uri: str) -> list[tuple[str, str]]:
    """Name and id of the experiments of a SQLite store that were changed last, without importing MLflow."""
    query = (
        "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active' AND experiment_id != 0 "
        "ORDER BY last_update_time DESC LIMIT 5"
    )
    try:
        with contextlib.closing(sqlite3.connect(str(database_of(uri)), timeout=LOCKED_S)) as database:
            return [(str(name), str(number)) for name, number in database.execute(query)]
    except sqlite3.Error as error:
        told = as_store_error(error, uri)
        raise type(told)(f"{told}; expected the store of a study (--uri names another one)") from error
