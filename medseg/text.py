"""Text that comes from data, made harmless: for terminals and logs, and for spreadsheets.

Names of files, channels, classes and subjects are the data's. Printed as they are, they can move the cursor, recolour
or rename a terminal, and forge lines of a log; a spreadsheet runs a cell that begins like a formula.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# A line break of our own, which printing keeps.
BREAK = "\n"
# Zero-width joiners, which spelling in several scripts needs.
_JOINERS = "\u200c\u200d"
# Where a spreadsheet begins a cell, if its separator is this one or another; apostrophes; what makes a formula of it.
# Full-width signs count, too (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = r"(?=[=+\-@\t\r\n＝＋－＠])"
_BEGINNING = re.compile(rf"(\A|[;,\t\r\n])('*){_FORMULA}")
_NEUTRALISED = re.compile(rf"(\A|[;,\t\r\n])'('*){_FORMULA}")
# What may end a cell or a line: Python's own writer leaves a lone carriage return as it is.
_QUOTED = re.compile(r'[";,\t\r\n]|\A\s|\s\Z')
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def is_printable(text: str) -> bool:
    """Whether a text has no control character, line break, lone surrogate or sign that turns the direction."""
    return text.isprintable() or all(map(_is_shown, text))


def escaped(text: str, keep: str = "") -> str:
    r"""The text with escapes (``\x1b``, ``\n``, ``\u202e``) in place of what must not reach a terminal.

    Args:
        text: any.
        keep: characters that stay as they are, such as line breaks of our own.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_shown(c) else ascii(c)[1:-1] for c in text)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula: an apostrophe before it, unless it is a number.

    Also behind what another spreadsheet takes for the end of a cell. ``text_of_cell`` gives the text back.
    """
    return text if _NUMBER.fullmatch(text) else _BEGINNING.sub(r"\1'\2", text)


def text_of_cell(cell: str) -> str:
    """The text that ``cell`` made a cell of; other cells are returned as they are."""
    return _NEUTRALISED.sub(r"\1\2", cell)


def csv_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table for people: CSV whose texts are no formulas; None is an empty cell."""
    return "".join(",".join(map(_csv, row)) + "\n" for row in [header, *rows])


def _csv(value: object) -> str:
    text = cell(value) if isinstance(value, str) else "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
