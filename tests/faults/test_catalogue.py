"""The catalogue of faults in docs/faults.md: complete, and of one mind with the code and with the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.ingest.faults import FAULTS
from tests.faults.plants import PLANTS

ROOT = Path(__file__).parents[2]
IDS = [
    *(f"IN-{n:02d}" for n in range(1, 27)),
    *(f"LB-{n:02d}" for n in range(1, 21)),
    *(f"DX-{n:02d}" for n in range(1, 14)),
    *(f"CF-{n:02d}" for n in range(1, 11)),
]


def tables() -> Iterator[list[str]]:
    """The rows of all tables of docs/faults.md, cells stripped, heads and rules left out."""
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not set(line) <= set("|- ") and cells[0] not in ("id", "code"):
            yield cells


CATALOGUE = {cells[0]: cells for cells in tables() if re.fullmatch(r"[A-Z]{2}-\d\d", cells[0])}
CODES = {cells[0].strip("`"): cells for cells in tables() if cells[0].startswith("`")}


def codes_of(cells: list[str]) -> set[str]:
    return set(re.findall(r"`([a-z-]+)`", cells[3]))


def test_every_id_has_a_row() -> None:
    assert list(CATALOGUE) == IDS


@pytest.mark.parametrize("identity", IDS)
def test_a_row_names_the_codes_that_answer_it(identity: str) -> None:
    answering = {code for code, kind in FAULTS.items() if identity in kind.ids}
    assert codes_of(CATALOGUE[identity]) == answering


@pytest.mark.parametrize("identity", IDS)
def test_the_duty_is_kept(identity: str) -> None:
    """REFUSE: no code that could be allowed; FLAG: every code can; SURVIVE: no code at all."""
    duties = {FAULTS[code].duty for code in codes_of(CATALOGUE[identity])}
    expected = set(CATALOGUE[identity][2].split(", "))
    assert duties == expected - {"SURVIVE", "CONFIG"}


@pytest.mark.parametrize("identity", IDS)
def test_an_id_is_planted_or_a_test_is_named(identity: str) -> None:
    planted = {plant.code for plant in PLANTS.values() if identity in plant.ids.split()}
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", CATALOGUE[identity][4])
    for file, function in named:
        assert (ROOT / file).is_file(), file
        assert not function or f"def {function}(" in (ROOT / file).read_text(), function
    assert planted or named
    # A plant shows a code that answers the id; or its row tells by which test another code does.
    assert planted <= codes_of(CATALOGUE[identity])
    assert named or codes_of(CATALOGUE[identity]) <= planted


def test_the_table_of_codes_is_the_code() -> None:
    assert list(CODES) == list(FAULTS)
    for code, kind in FAULTS.items():
        assert CODES[code][1:] == [kind.duty, kind.fix.replace("|", "\\|"), kind.allowed or "—"], code
