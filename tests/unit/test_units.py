"""Names of units of length, in the spellings that are found in files."""

from __future__ import annotations

import pytest

from medseg.image.units import is_no_unit, micrometres

SPELLINGS = {
    1e-6: ("pm", "picometre"),
    1e-4: ("Å", "\u212b", "A\u030a", "Angstrom", "angstroms", "Ångström", "\\u00C5"),
    1e-3: ("nm", "NM", "nanometer", "Nanometres"),
    1.0: (
        *("µm", "μm", "um", "UM", "Um", "u", "µ", "μ", "micron", "Microns", "MICRON", "micrometer", "micrometre"),
        *("micro meter", "micro-metres", "Micrometers", "\\u00B5m", "\\u00b5m", "\\u03BCm", "Âµm", "㎛", " µm ", "um."),
        *("microns/pixel", "um/px", "µm per pixel"),
    ),
    25.4: ("thou", "mil"),
    1e3: ("mm", "MM", "Mm", "millimeter", "milli metre"),
    1e4: ("cm", "CM", "centimetre", "Centimeters"),
    25_400.0: ("in", "inch", "Inches", '"'),
    1e6: ("m", "meter", "Metres"),
    304_800.0: ("ft", "feet"),
    1e9: ("km", "KM", "kilometer"),
}


@pytest.mark.parametrize(("factor", "names"), SPELLINGS.items(), ids=str)
def test_lengths_in_any_spelling(factor: float, names: tuple[str, ...]) -> None:
    assert {name: micrometres(name) for name in names} == pytest.approx(dict.fromkeys(names, factor))


@pytest.mark.parametrize(
    "name", ["sec", "s", "ms", "min", "deg", "Hz", "pixel", "", "furlong", "um2", "mm/s", "kg", "?"]
)
def test_what_is_no_length(name: str) -> None:
    assert micrometres(name) is None


def test_the_ome_model_knows_large_units() -> None:
    assert micrometres("Mm", strict_case=True) == 1e12
    assert micrometres("Pm", strict_case=True) == 1e21
    assert micrometres("mm", strict_case=True) == 1e3
    assert micrometres("Micron", strict_case=True) == 1.0


def test_words_for_no_unit() -> None:
    assert all(is_no_unit(name) for name in ("", "pixel", "Pixels", "PIXEL", "reference frame", " "))
    assert not any(is_no_unit(name) for name in ("sec", "um", "inch"))
