"""Values of metrics as people read them: with decimals that fit their unit, and a word where there is no number."""

from __future__ import annotations

import math

# Units of lengths as people write them.
UNITS = {"um": "µm"}
# Of a length; and of everything else, bits included.
LENGTH_DECIMALS, SCORE_DECIMALS = 2, 3


def value(number: float | str | None, unit: str = "1") -> str:
    """``0.853``, ``1.24 mm`` or ``undefined``."""
    text = bare(number, unit)
    return text if unit == "1" or text == "undefined" else f"{text} {UNITS.get(unit, unit)}"


def bare(number: float | str | None, unit: str = "1") -> str:
    """The same without the unit, which stands in the heading."""
    if number is None or number == "" or (isinstance(number, float) and not math.isfinite(number)):
        return "undefined"
    return f"{float(number):.{_decimals(unit)}f}"


def signed(number: float | None, unit: str = "1", named: bool = True) -> str:
    """A difference with its sign (a true minus) and, if ``named``, its unit; or ``undefined``."""
    if number is None:
        return "undefined"
    text = f"{number:+.{_decimals(unit)}f}".replace("-", "\N{MINUS SIGN}")
    return text if unit == "1" or not named else f"{text} {UNITS.get(unit, unit)}"


def heading(title: str, unit: str, higher_is_better: bool = True, tolerance: str = "") -> str:
    """Heading of a column: ``Dice``, ``HD95 (mm, lower is better)``, ``NSD (2 mm)``."""
    notes = [tolerance] if tolerance else []
    notes += [] if unit == "1" else [UNITS.get(unit, unit)]
    notes += [] if higher_is_better else ["lower is better"]
    return f"{title} ({', '.join(notes)})" if notes else title


def _decimals(unit: str) -> int:
    return SCORE_DECIMALS if unit in ("1", "bit") else LENGTH_DECIMALS
