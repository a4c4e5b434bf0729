"""What is said of images that could not be predicted: each with what to do, long lists of one kind cut short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medseg.errors import DataError
from medseg.explained import explain
from medseg.formats.errors import FormatError
from medseg.predict.terms import FIXES, DoubtfulError

# From how many failures of one kind on a list is cut, and how many of them are shown then.
CUT_FROM, SHOWN = 10, 3
# Keys of a data set that options of `medseg predict` are called after: `axes`, or `axes: CYX`.
_KEY = re.compile(r"`(axes|channels|fill|orientation|series|spacing)(?:: ([^`]*))?`")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image could not be predicted.

    Attributes:
        text: the whole sentence, with its file.
        kind: what it has in common with others that one thing would fix.
    """

    text: str
    kind: str


def failures_of(error: BaseException, shown: str) -> list[Failure]:
    """What an error says of one image; none for errors that are not about it.

    Args:
        error: that reading or predicting it raised.
        shown: how messages call the image.
    """
    if isinstance(error, DoubtfulError):
        return [Failure(str(found), f"{found.doubt.code}: {found.fix}") for found in error.found]
    if isinstance(error, FormatError):
        # Here a command is corrected, not a configuration.
        cause, fix = as_options(error.cause), FIXES.get(error.code) or as_options(error.fix)
        return [Failure(str(FormatError(error.path, cause, fix, error.code)), f"{error.code}: {fix}")]
    text = _of_memory(error) or str(error)
    return [Failure(text if shown in text else f"{shown}: {text}", text.replace(shown, "").removeprefix(": "))]


def as_options(text: str) -> str:
    """What a reader says of keys of a configuration, as of the options that are called like them."""
    return _KEY.sub(_option, text).replace("leave the case out: `exclude: [ID]`", "leave the image out")


def _option(found: re.Match[str]) -> str:
    value = "" if found[2] is None else f" {found[2]}"
    return f"`--{'channel' if found[1] == 'channels' else found[1]}{value}`"


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of whichever kind."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate" in str(error))


def _of_memory(error: BaseException) -> str:
    """What is said of memory that ran out; empty for other errors."""
    if isinstance(error, DataError) or not is_of_memory(error):
        return ""
    told = (explain(error) or "memory ran out").partition(";")[0]
    return f"{told}; crop or split the image, use --device cpu, or a machine with more memory"


def listed(failures: Sequence[Failure]) -> tuple[list[str], bool]:
    """A line for each of the failures, those of one kind together; and whether some were left out."""
    lines, cut = [], False
    for kind in _kinds(failures):
        same = [failure.text for failure in failures if failure.kind == kind]
        shown = same if len(same) < CUT_FROM else same[:SHOWN]
        lines += shown
        if len(shown) < len(same):
            lines.append(f"… and {len(same) - len(shown)} more: {kind}")
            cut = True
    return lines, cut


def _kinds(failures: Iterable[Failure]) -> list[str]:
    """The kinds of failures, in the order in which they come."""
    return list(dict.fromkeys(failure.kind for failure in failures))
