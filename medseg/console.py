"""Standard output and error of the command line: any text can be printed on any terminal, and a failure has a name.

What is printed contains names from data. A control character among them is shown as an escape (``medseg.text``), a sign
that the terminal's encoding lacks as a plainer one. An error names the stream, which Python's own does not.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from medseg.text import escaped

REPLACING = "medseg.plainer"
# Signs of ours that some terminals cannot print; all others become escapes.
_PLAINER = {"█": "#", "░": ".", "─": "-", "–": "-", "·": "-", "…": "...", "µ": "u", "±": "+/-", "×": "x", "→": "->"}
# What our own lines are laid out with.
_LAYOUT = "\n\t"
_PATHS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")


def open_console() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` of this process by streams that print anything.

    Streams that were closed lead nowhere from now on: else the next file that is opened would take their place, and get
    what a library prints. Streams that a test or a notebook put there are left alone.
    """
    codecs.register_error(REPLACING, _plainer)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given out, which is this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _Console(sys.__stdout__, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _Console(sys.__stderr__, 2)


def close_console() -> None:
    """Flush both streams; what cannot be written any more is dropped, so that the end of the process is quiet."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_reader_gone(error: OSError) -> bool:
    """Whether what read our output has ended, as ``head`` does in ``medseg leaderboard … | head``."""
    return isinstance(error, BrokenPipeError) and error.filename in _PATHS


class _Console(io.TextIOWrapper):
    """A stream of text whose control characters are escaped."""

    def __init__(self, stream: TextIO | None, number: int) -> None:
        buffer = open(number, "wb", closefd=False) if stream is None else stream.buffer  # noqa: SIM115 (ours until the end)
        encoding = "utf-8" if stream is None else stream.encoding
        lines = number == 2 or buffer.isatty()
        super().__init__(buffer, encoding=encoding, errors=REPLACING, line_buffering=lines)
        # Closes the buffer when it is collected.
        self._replaced, self._path = stream, _PATHS[number]

    def write(self, text: str) -> int:
        with self._named():
            super().write(escaped(text, keep=_LAYOUT))
        return len(text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self._path
            raise


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What stands for signs that an encoding lacks (see ``codecs.register_error``)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAINER.get(sign) or ascii(sign)[1:-1] for sign in missing), error.end
