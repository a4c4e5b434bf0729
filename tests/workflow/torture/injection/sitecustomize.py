"""Loaded by every Python process of a tortured study: cuts the power at the n-th point at which a file becomes durable.

Points are ``os.fsync`` and ``os.replace`` of the study's results and data, counted over all of its processes. At an
fsync the file loses a part of what it was to make durable, or has zeros there, as after a crash in the middle; at a
replace the cut comes before or after it. Then the whole process group is killed.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal

# "n:counter:folder": the point to cut at (0: none), the file that counts, the study's folder.
VARIABLE = "MEDSEG_TORTURE_POINTS"

_fsync, _replace = os.fsync, os.replace


def _is_ours(path: str) -> bool:
    return path.startswith((os.path.join(_folder, "results") + os.sep, os.path.join(_folder, "data") + os.sep))


def _count() -> int:
    """The number of this point; the counter is shared by all processes."""
    with open(_counter, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(str(number))
    return number


def _cut_power() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(path: str) -> None:
    """Take away a part of a file's end, or write zeros over it."""
    size = os.path.getsize(path)
    kept = int(size * _rng.random())
    with open(path, "r+b") as file:
        if _rng.random() < 0.5:
            file.truncate(kept)
        else:
            file.seek(kept)
            file.write(bytes(size - kept))


def _torn_fsync(descriptor: int) -> None:
    path = os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) else ""
    if _is_ours(path) and _count() == _at:
        # Anything else but temporary names has older content that was durable already.
        if os.path.isfile(path) and ".tmp" in os.path.basename(path):
            _tear(path)
        _cut_power()
    _fsync(descriptor)


def _cut_replace(source: str, target: str, **options: int) -> None:
    at = _is_ours(os.path.abspath(target)) and _count() == _at
    if at and _rng.random() < 0.5:
        _cut_power()
    _replace(source, target, **options)
    if at:
        _cut_power()


if VARIABLE in os.environ:
    _number, _counter, _folder = os.environ[VARIABLE].split(":")
    _at = int(_number)
    _rng = random.Random(_at)
    os.fsync, os.replace = _torn_fsync, _cut_replace
