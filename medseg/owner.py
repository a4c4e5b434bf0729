"""Which process something belongs to: so that what a process that ended left behind can be told from what is in use."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from medseg.files import digest_of

MACHINE_ID = Path("/etc/machine-id")


def owner_tags() -> dict[str, str]:
    """Tags of this process: enough to see later, on this machine, whether it still runs; no host name."""
    pid = os.getpid()
    return {
        "medseg.pid": str(pid),
        "medseg.host": _host(),
        "medseg.born": _born(pid) or "",
        "medseg.boot": _boot(),
    }


def is_orphan(tags: Mapping[str, str]) -> bool:
    """Whether the process with these tags was one of this machine and does not run any more."""
    if not is_here(tags):
        return False
    if tags.get("medseg.boot") != _boot():
        return True
    return Path("/proc").is_dir() and _born(int(tags["medseg.pid"])) != tags.get("medseg.born")


def is_here(tags: Mapping[str, str]) -> bool:
    """Whether the process with these tags was or is one of this machine, so that it can be seen and signalled."""
    return tags.get("medseg.host") == _host()


def _host() -> str:
    """Digest of machine and process name space: process ids mean something only within these.

    Host names are not enough: many machines are called "localhost".
    """
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return digest_of([socket.gethostname(), _machine(), space])[:12]


def _machine() -> str:
    """The id that the system gave this machine when it was set up; empty if it has none."""
    try:
        return MACHINE_ID.read_text(errors="replace").strip()
    except OSError:
        return ""


def _boot() -> str:
    """Digest of the boot of this machine."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return digest_of(path.read_text())[:12] if path.is_file() else ""


def _born(pid: int) -> str | None:
    """Start of a running process in ticks since boot, since ids are reused; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else fields[19]
