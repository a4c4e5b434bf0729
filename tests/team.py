"""A team's server on loopback, by the commands of docs/team.md: PostgreSQL, a bucket (moto's stand-in), MLflow.

PostgreSQL refuses root: where tests run as root, its commands run as the user that Debian's package made.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "team.md"
BIN = Path(sys.executable).parent
BUCKET = "our-mlflow"
# What the block "settings" of the page says, for a machine that may have a database of its own.
SETTINGS = {"BUCKET": BUCKET, "PGHOST": "127.0.0.1", "PGUSER": "mlflow", "PGDATABASE": "mlflow"}
# The stand-in takes any key.
KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


def lacking() -> str:
    """Why no team's server can be started here; empty if one can."""
    if shutil.which("pg_config") is None:
        return "no PostgreSQL (pg_config) here"
    programs = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True).stdout.strip()
    if not (Path(programs) / "initdb").is_file():
        return f"no server of PostgreSQL (initdb) in {programs}"
    for module in ("psycopg2", "boto3", "moto"):
        try:
            __import__(module)
        except ImportError:
            return f"no {module} here"
    if os.geteuid() == 0 and unprivileged() is None:
        return "PostgreSQL refuses root, and there is no user postgres"
    return ""


def unprivileged() -> str | None:
    """The user that runs the database where we are root; None: ourselves."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return None


def block(name: str) -> str:
    """The commands of a block of the page, which begins with its name as a comment."""
    found = re.search(rf"```bash\n# {re.escape(name)}.*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"{PAGE.name} has no block '# {name}'"
    return found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Bucket:
    """A stand-in for a store that speaks S3."""

    def __init__(self, folder: Path) -> None:
        self.address = f"http://127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        with open(folder / "bucket.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: answers(f"{self.address}/moto-api/"), "the bucket")
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def client(self) -> Any:
        import boto3

        key = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.address, **key)

    def names(self) -> list[str]:
        """All that is in it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Team:
    """A database, a bucket, and a server that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = Bucket(folder)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            **SETTINGS,
            **KEY,
            "TEAM": str(folder),
            "HOME": str(folder),
            "PGPORT": str(free_port()),
            "MLFLOW_PORT": str(self.port),
            "AWS_ENDPOINT_URL": self.bucket.address,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.database("database")

    def script(self, *names: str) -> list[str]:
        return ["bash", "-euc", "\n".join(block(name) for name in ("paths", *names))]

    def database(self, *names: str) -> None:
        """Run blocks of the page as the user of the database."""
        user = unprivileged()
        as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        # Not a pipe: the database's processes would keep it open.
        with open(self.folder / "commands.log", "ab") as log:
            done = subprocess.run(
                self.script(*names),
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_user,
            )
        assert done.returncode == 0, (self.folder / "commands.log").read_text()

    def run(self, *names: str, replaced: Mapping[str, str] | None = None) -> str:
        """Run blocks of the page, as ourselves; texts that stand for the reader's own are replaced."""
        script = self.script(*names)
        for text, own in (replaced or {}).items():
            assert text in script[-1], text
            script[-1] = script[-1].replace(text, own)
        done = subprocess.run(script, env=self.environment, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str = "server without users") -> None:
        """Start the server."""
        with open(self.folder / "server.log", "ab") as log:
            self.server = subprocess.Popen(
                self.script(name), env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(lambda: answers(f"{self.uri}/health"), "the server")

    def kill(self) -> None:
        """Kill the server, workers included."""
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            self.server = None

    def rows(self, query: str, database: str = "mlflow") -> list[tuple[Any, ...]]:
        """What a query finds in the database."""
        import psycopg2

        where = {"host": "127.0.0.1", "port": self.environment["PGPORT"], "user": "mlflow", "dbname": database}
        opened = psycopg2.connect(**where, passfile=str(self.folder / "pgpass"))
        try:
            with opened.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        finally:
            opened.close()

    def close(self) -> None:
        self.kill()
        self.bucket.close()
        pid = self.folder / "database" / "postmaster.pid"
        if pid.is_file():
            main = int(pid.read_text().split()[0])
            os.kill(main, signal.SIGINT)
            wait_for(lambda: not pid.exists(), "the end of the database")


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """A team's database and bucket; the server is to be started.

    In a folder that the user of the database reaches: pytest's are its owner's alone.
    """
    folder = Path(tempfile.mkdtemp(prefix="medseg-team-"))
    user = unprivileged()
    if user is not None:
        shutil.chown(folder, user)
    opened = None
    try:
        opened = Team(folder)
        yield opened
    finally:
        if opened is not None:
            opened.close()
        shutil.rmtree(folder, ignore_errors=True)
