"""The folder that a service keeps uploads and label maps in: of this process alone, and gone when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "medseg-serve-"
# The kernel holds its lock while the service lives, however it ends.
LOCK = "service.lock"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can look into, removed with all that is in it when the block ends.

    What services of this user left that were killed (SIGKILL, power cut) is removed first: it holds images.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with open(folder / f".{LOCK}", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its name only when it is held: nobody takes this folder for one that was left.
            os.rename(lock.name, folder / LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    """Whether the service that made a folder still runs, or the folder is too new to say."""
    try:
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return True
    return False
