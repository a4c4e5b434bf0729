"""What a study needs around it: a disk with room, a tracker that answers, a database that nobody holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

KB = 1024


class SmallDisk:
    """A file system in memory, mounted on ``folder``."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)

    @staticmethod
    def refusal(folder: Path) -> str | None:
        """Why none can be mounted here; None if it can."""
        try:
            SmallDisk(folder, 64).unmount()
        except (subprocess.CalledProcessError, FileNotFoundError):
            return "mounting a file system needs root"
        return None

    def resize(self, kilobytes: int) -> None:
        """Change its size."""
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(self.folder)], check=True)

    def used(self) -> int:
        """Kilobytes that are used."""
        return shutil.disk_usage(self.folder).used // KB

    def unmount(self) -> None:
        """Remove it, with all that is on it."""
        subprocess.run(["umount", str(self.folder)], check=True)


class Tracker:
    """An MLflow server on this machine alone.

    Attributes:
        uri: its address.
        database: its SQLite file.
        artifacts: folder of what was uploaded.
        answers: whether it is up, as far as we did to it.
    """

    def __init__(self, folder: Path) -> None:
        # One of an episode that was kept.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.database, self.artifacts = folder / "tracker.db", folder / "artifacts"
        self._log = folder / "tracker.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.answers = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}",
            "--artifacts-destination", str(self.artifacts),
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 60
        while not self._healthy():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"the tracker does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        self.answers = True

    def _healthy(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200)
        return False

    def kill(self) -> None:
        """SIGKILL, its workers too."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._process, self.answers = None, False

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted and nothing answers."""
        self._signal(signal.SIGSTOP)
        self.answers = False

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)
        self.answers = True

    def _signal(self, number: int) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


@contextlib.contextmanager
def held(database: Path) -> Iterator[None]:
    """Hold a SQLite database during the block: nobody else reads or writes it."""
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()
