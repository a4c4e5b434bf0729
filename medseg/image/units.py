"""Names of units of length, in the spellings that programs and people use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Micrometres per prefix of the metre, by symbol and by name.
_PREFIXES = {
    ("a", "atto"): 1e-12,
    ("f", "femto"): 1e-9,
    ("p", "pico"): 1e-6,
    ("n", "nano"): 1e-3,
    ("u", "micro"): 1.0,
    ("m", "milli"): 1e3,
    ("c", "centi"): 1e4,
    ("d", "deci"): 1e5,
    ("", ""): 1e6,
    ("da", "deca"): 1e7,
    ("h", "hecto"): 1e8,
    ("k", "kilo"): 1e9,
}
_METRES = ("meter", "metre", "meters", "metres")
# Units of other names; ImageJ writes the Greek letter alone for a micrometre.
_OTHERS = {
    **dict.fromkeys(("u", "micron", "microns", "mu", "mum", "mcm"), 1.0),
    **dict.fromkeys(("å", "angstrom", "angstroms", "angström", "angströms", "ångstrom", "ångstroms"), 1e-4),
    **dict.fromkeys(("ångström", "ångströms", "ang"), 1e-4),
    **dict.fromkeys(("in", "inch", "inches", '"', "″"), 25_400.0),
    **dict.fromkeys(("thou", "mil", "mils", "thous"), 25.4),
    **dict.fromkeys(("li", "line", "lines"), 25_400.0 / 12),
    **dict.fromkeys(("ft", "foot", "feet"), 304_800.0),
    **dict.fromkeys(("yd", "yard", "yards"), 914_400.0),
    **dict.fromkeys(("mi", "mile", "miles"), 1.609344e9),
    **dict.fromkeys(("pt", "point", "points"), 25_400.0 / 72),
}
_BY_NAME = {
    **{symbol + "m": factor for (symbol, _), factor in _PREFIXES.items()},
    **{name + metre: factor for (_, name), factor in _PREFIXES.items() for metre in _METRES},
    **_OTHERS,
}
# Symbols of the OME model that differ from another one in upper and lower case alone.
_LARGE = {"Mm": 1e12, "Gm": 1e15, "Tm": 1e18, "Pm": 1e21, "Em": 1e24, "Zm": 1e27, "Ym": 1e30}
# What programs write where there is no size.
_NONE = {"", "pixel", "pixels", "px", "voxel", "voxels", "none", "null", "unknown", "reference frame", "referenceframe"}


def micrometres(name: str, *, strict_case: bool = False) -> float | None:
    """Micrometres per unit of this name; None if it is no unit of length.

    Spaces, hyphens, full stops, escapes (``\\u00B5m``), the two signs for micro and for Ångström, and upper and lower
    case make no difference.

    Args:
        name: as a file has it.
        strict_case: whether ``Mm`` is a megametre, as in OME-XML; else it is a millimetre.
    """
    plain = _plain(name)
    if strict_case and plain in _LARGE:
        return _LARGE[plain]
    word = re.sub(r"[\s.\-_]", "", plain.casefold())
    return _BY_NAME.get(re.sub(r"(/|per)(px|pixels?|voxels?)$", "", word))


def is_no_unit(name: str) -> bool:
    """Whether a name says that there is no unit, as programs write it for images that nobody calibrated."""
    return _plain(name).casefold() in _NONE


def world_unit(names: Sequence[str]) -> tuple[str, tuple[float, ...]] | None:
    """The unit (mm or um) to measure a world in, and how many of it one of the file's is along each axis.

    Args:
        names: of the unit of each axis, or of all axes; ``""``, ``?`` and ``???`` are millimetres.

    Returns:
        The unit, and a number per name (one for none); None if one of them is no unit of length.
    """
    factors = [1e3 if not name.strip(" ?") else micrometres(name) for name in names] or [1e3]
    known = [factor for factor in factors if factor is not None]
    if len(known) < len(factors):
        return None
    return ("um", (1.0,) * len(known)) if set(known) == {1.0} else ("mm", tuple(factor / 1e3 for factor in known))


def _plain(name: str) -> str:
    """The name without escapes, and with one sign for each letter that has several."""
    text = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), name)
    try:
        # UTF-8 that was read as Latin-1: 'Âµm'.
        text = text.encode("latin-1").decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        text = str(text)
    return unicodedata.normalize("NFKC", text).strip().replace("μ", "u")
