"""Bounds: the type and range of values that are read from JSON, put together from small ones.

JSON has any type anywhere, and numbers of any size. What a file says is compared with a bound before it is used. A
bound never descends deeper into a value than its own parts go, so nesting, length and size cost nothing.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medseg.errors import DataError

# The largest number of 32 bits with a fraction: beyond it, networks would compute with infinity.
LARGEST = 3.4e38


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Digits of a whole number; Python refuses to write more than some thousand."""
        return f"a whole number of {x.bit_length():,} bits" if x.bit_length() > 128 else repr(x)


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 6


class OutOfBounds(DataError):
    """A value that is read has another type or range than it can have."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a value may be.

    Attributes:
        expected: the same in words.
        fits: whether a value is like that.
    """

    expected: str
    fits: Callable[[Any], bool]

    def read(self, where: str, value: Any) -> Any:
        """The value, lists as tuples.

        Raises:
            OutOfBounds: naming ``where``, what was found (shortened) and what was expected.
        """
        if not self.fits(value):
            raise OutOfBounds(f"{where}: found {shortened(value)}; expected {self.expected}")
        return _tuples(value)


def shortened(value: Any) -> str:
    """A value as text of at most some hundred characters."""
    return _SHORT.repr(value)


def whole(low: int, high: int) -> Bound:
    """A whole number within limits."""
    return Bound(f"a whole number from {low:,} to {high:,}", lambda v: _is_number(v, int) and low <= v <= high)


def number(low: float, high: float) -> Bound:
    """A number within limits."""
    return Bound(f"a number from {low:g} to {high:g}", lambda v: _is_number(v, int | float) and low <= v <= high)


def positive(high: float) -> Bound:
    """A number above 0."""
    return Bound(f"a number above 0, at most {high:g}", lambda v: _is_number(v, int | float) and 0 < v <= high)


def between(low: float, high: float) -> Bound:
    """A number within limits that are not reached."""
    return Bound(f"a number above {low:g} and below {high:g}", lambda v: _is_number(v, int | float) and low < v < high)


def flag() -> Bound:
    """True or false."""
    return Bound("true or false", lambda v: isinstance(v, bool))


def word(*known: str) -> Bound:
    """One of some words."""
    return Bound(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known)


def text(longest: int, pattern: re.Pattern[str] | None = None) -> Bound:
    """Text, of a pattern if there is one."""
    like = f" like {pattern.pattern}" if pattern else ""
    return Bound(
        f"text{like} of at most {longest:,} characters",
        lambda v: isinstance(v, str) and len(v) <= longest and (pattern is None or pattern.fullmatch(v) is not None),
    )


def several(of: Bound, least: int, most: int) -> Bound:
    """A list of values of one kind."""
    return Bound(
        f"a list of {least:,} to {most:,}, each {of.expected}",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most and all(map(of.fits, v)),
    )


def table(values: Bound, most: int, keys: Bound | None = None) -> Bound:
    """A mapping of names to values of one kind."""
    names = keys or text(200)
    return Bound(
        f"at most {most:,} names, each with {values.expected}",
        lambda v: (
            isinstance(v, Mapping) and len(v) <= most and all(names.fits(k) and values.fits(x) for k, x in v.items())
        ),
    )


def perhaps(bound: Bound) -> Bound:
    """A value, or none."""
    return Bound(f"null, or {bound.expected}", lambda v: v is None or bound.fits(v))


def _is_number(value: Any, kind: Any) -> bool:
    # True and false are whole numbers to Python.
    return isinstance(value, kind) and not isinstance(value, bool)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
