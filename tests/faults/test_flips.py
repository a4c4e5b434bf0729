"""A flipped bit is a message: files that stages and users write, damaged in some hundred ways each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from medseg.ingest.sources import Inventory
from tests.faults.downstream_files import DOWNSTREAM
from tests.faults.flips import FLIPS, FileKind, flips, wrecks, wrong_reads
from tests.faults.upstream_files import UPSTREAM
from tests.faults.user_files import CHECKED, USERS

KINDS: dict[str, FileKind] = {**UPSTREAM, **DOWNSTREAM, **USERS, **CHECKED}
NAMES = [*UPSTREAM, *DOWNSTREAM, *USERS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in CHECKED)]


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_a_message_and_never_another_number(name: str, every_day: bool, tmp_path: Path) -> None:
    wrong = wrong_reads(KINDS[name], tmp_path, count=FLIPS // 3 if every_day else FLIPS)
    assert wrong == [], f"{len(wrong)} of {name}"


@pytest.mark.parametrize("name", USERS)
def test_files_of_users_are_sound_before_they_are_damaged(name: str, tmp_path: Path) -> None:
    found = USERS[name].read(USERS[name].make(tmp_path))
    if isinstance(found, Inventory):
        assert len(found.candidates) == 4 and found.faults == ()
    elif isinstance(found, tuple):
        assert len(found[0]) == 2 and found[1] == []


def test_every_flip_changes_one_bit() -> None:
    data = random.Random(1).randbytes(500)
    seen = [damaged for _, damaged in flips(data, seed=3)]
    assert len(seen) == FLIPS and len(set(seen)) > FLIPS * 0.9
    for damaged in seen:
        assert sum((a ^ b).bit_count() for a, b in zip(data, damaged, strict=True)) == 1


def test_other_exceptions_and_other_values_are_counted(tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder / "number.txt").write_text("1234567890")
        return folder / "number.txt"

    wrong = wrong_reads(FileKind(make, lambda path: int(path.read_text())), tmp_path)
    assert any("ValueError" in line for line in wrong) and any("other values" in line for line in wrong)
    wrong = wrong_reads(FileKind(make, lambda path: int(path.read_text()), signed=False), tmp_path)
    assert not any("other values" in line for line in wrong)
    assert len({what for what, _ in wrecks(b"1234567890" * 100, seed=0)}) > 30
