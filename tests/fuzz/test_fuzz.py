"""A short run of the fuzzer; `make fuzz` makes the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.formats import read as formats
from medseg.formats.table import FOLDER, FORMATS
from tests.fuzz import fuzz
from tests.fuzz.fuzz import Tally, case, outcome, run, watch
from tests.fuzz.specimens import SPECIMENS

NUMBER = 200


def test_every_reader_is_fuzzed() -> None:
    readers = {row.open for suffix, row in FORMATS.items() if suffix != FOLDER}
    assert {FORMATS[suffix].open for suffix in SPECIMENS} == readers


@pytest.mark.parametrize("suffix", SPECIMENS)
def test_damage_is_refused_in_time_and_by_name(suffix: str, every_day: bool) -> None:
    number = NUMBER // 2 if every_day else NUMBER
    tally = run(suffix, number, seed=1)
    assert tally.bad == []
    assert tally.refused + tally.accepted == number
    assert tally.refused > number // 4


def test_a_file_is_a_function_of_seed_suffix_and_number() -> None:
    assert case(0, ".mhd", 5) == case(0, ".mhd", 5)
    assert len({tuple(case(seed, ".mhd", number).values()) for seed in (0, 1) for number in range(20)}) > 35


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), formats.FormatError(Path("other.nii"), "x"), None])
def test_other_errors_are_counted(error: Exception | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(path: Path, content: object) -> None:
        if error is not None:
            raise error
        raise formats.FormatError(path, "x")

    monkeypatch.setattr(formats, "open_image", broken)
    told = outcome(".nii", SPECIMENS[".nii"]()[0], tmp_path)
    expected = {ValueError: "foreign ValueError", MemoryError: "foreign MemoryError", formats.FormatError: "nameless"}
    assert told.startswith("refused" if error is None else expected[type(error)])


@pytest.mark.parametrize(
    ("end", "words"),
    [("os.kill(os.getpid(), 11)", None), ("time.sleep(60)", "number 3: hang"), ("os._exit(0)", None)],
)
def test_crashes_and_hangs_are_counted(end: str, words: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    said = '[2, "refused"]\\n[3, "begun"]'
    script = f"import os, time; print('{said}', flush=True); {end}"
    tally = Tally()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        at, told = watch(process, tally, 0)
    assert tally.refused == 1
    assert (at, told) == ((4, True) if words else (3, False))
    assert tally.bad == ([words] if words else [])
