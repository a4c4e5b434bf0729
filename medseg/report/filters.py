"""Numbers as the page prints them, besides the values of metrics (``medseg.compare.text``)."""

from __future__ import annotations

from typing import Any


def p_value(number: float | None) -> str:
    """A p-value as journals print it."""
    if number is None:
        return "–"
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def amount(number: float | str | None) -> str:
    """Three significant digits."""
    return "–" if number is None or number == "" else f"{float(number):.3g}"


def count(number: float | None) -> str:
    """A number of objects; with a decimal where it is a mean over seeds."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def difference(number: float | None) -> str:
    """A difference of numbers of objects with its sign (a true minus): one decimal below 10, else none."""
    if number is None:
        return "undefined"
    text = f"{number:+.1f}" if abs(number) < 9.95 else f"{number:+.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def sentence(text: str) -> str:
    """The text as a sentence: a full stop at its end."""
    return text if text.endswith(".") else f"{text}."


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def distinct(values: Any) -> str:
    """Different values side by side, each once."""
    return ", ".join(dict.fromkeys(str(v) for v in values)) or "–"
