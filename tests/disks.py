"""Disks that fail: small, read-only, or by a hook that lets the n-th call fail (as SQLite tests its own)."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount something at a folder for the time of the block; skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_disk(folder: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    """A file system in memory that is full after ``size`` (``64k``)."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that nobody can write into, not even root."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder


class FailingDisk:
    """Lets the n-th call that changes something below a folder fail: open, write, fsync, rename, making a folder.

    Calls of Python alone are seen; what libraries in C write is tried on real full disks.

    Attributes:
        calls: what was called so far, in order.
    """

    def __init__(self, folder: Path, fails_at: int, number: int) -> None:
        self._folder, self._fails_at, self._number = str(folder), fails_at, number
        self.calls: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether it came to the call that fails."""
        return len(self.calls) >= self._fails_at

    def count(self, call: str, path: Any, *, named: bool) -> None:
        """Note a call, and fail if its turn has come; the error of a call that gets a path has a name."""
        if not os.path.abspath(os.fsdecode(path)).startswith(self._folder):
            return
        self.calls.append(call)
        if len(self.calls) == self._fails_at:
            raise OSError(self._number, os.strerror(self._number), *([str(path)] if named else []))


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, disk: FailingDisk) -> Iterator[None]:
    """Within the block, this process writes to ``disk``."""
    plain = open

    class Raw(io.FileIO):
        def write(self, data: Any, /) -> int:
            disk.count("write", self.name, named=False)
            return super().write(data)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return plain(file, mode, buffering, *args, **options)
        disk.count("open", file, named=True)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        if not buffering:
            return raw
        buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, *args, **options)

    def seen(name: str, where: Callable[..., Any], *, named: bool = True) -> None:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            if (path := where(*args)) is not None:
                disk.count(name, path, named=named)
            return real(*args, **options)

        patch.setattr(os, name, call)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        seen("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"), named=False)
        seen("replace", lambda old, new: new)
        seen("rename", lambda old, new: new)
        # One that is there already is no call that matters.
        seen("mkdir", lambda path, *mode: None if os.path.isdir(path) else path)
        yield


ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.ENAMETOOLONG)
