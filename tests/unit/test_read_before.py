"""What reading cases gave is kept from one ingest to the next, and changes nothing of what ingest writes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.config import Config
from medseg.errors import DatasetFaults
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.ingest import every_case, read_before
from medseg.ingest.checks import check_case
from medseg.ingest.phantoms import generate
from medseg.ingest.run import check, run
from tests.configurations import config

CELLS: dict[str, Any] = {"layout": "pairs", "labels": {"nucleus": 1}, "instances": True}
ORGAN: dict[str, Any] = {"layout": "decathlon"}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(read_before, "SETTLED_NS", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ids of the cases that are read."""
    seen: list[str] = []

    def spy(root: Path, candidate: Any, *rest: Any) -> Any:
        seen.append(candidate.id)
        return check_case(root, candidate, *rest)

    monkeypatch.setattr(every_case, "check_case", spy)
    yield seen


def written(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if not file.name.startswith(".")}


def ingested(study: Config, out: Path, code: str = "c") -> dict[str, bytes]:
    run(study, "data", out, code=code)
    return written(out)


@pytest.mark.parametrize(("kind", "section"), [("cells", CELLS), ("organs", ORGAN)])
def test_what_was_read_before_gives_the_same_files(
    kind: Any, section: dict[str, Any], tmp_path: Path, reads: list[str]
) -> None:
    generate(kind, 4, 0, tmp_path / "data")
    study = config(tmp_path, **section)
    first = ingested(study, tmp_path / "out")
    assert len(reads) == 4
    assert ingested(study, tmp_path / "out") == first
    assert len(reads) == 4
    assert ingested(study, tmp_path / "anew") == first
    # A check reads every file.
    check(study, "data")
    assert len(reads) == 12
    # So does other code, and an ingest without a digest of its code.
    ingested(study, tmp_path / "out", code="d")
    ingested(study, tmp_path / "out", code="")
    assert len(reads) == 20


def test_of_a_grown_data_set_only_what_is_new_is_read(tmp_path: Path, reads: list[str]) -> None:
    generate("cells", 6, 0, tmp_path / "all")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for file in sorted((tmp_path / "all" / folder).iterdir())[:4]:
            shutil.copy(file, tmp_path / "data" / folder)
    study = config(tmp_path, **CELLS)
    ingested(study, tmp_path / "out")
    known = set(reads)
    reads.clear()
    for folder in ("images", "masks"):
        for file in sorted((tmp_path / "all" / folder).iterdir())[4:]:
            shutil.copy(file, tmp_path / "data" / folder)
    grown = ingested(study, tmp_path / "out")
    assert len(reads) == 2 and not known & set(reads)
    assert grown == ingested(study, tmp_path / "anew")


def changed_pixel(data: Path) -> None:
    file = sorted((data / "masks").iterdir())[0]
    labels, grid = read_labels(file)
    labels[labels == labels.max()] += 1
    write_labels(file, labels, grid)


def touched(data: Path) -> None:
    file = sorted((data / "images").iterdir())[0]
    os.utime(file, ns=(time.time_ns(), time.time_ns()))


def same_size_and_time(data: Path) -> None:
    """Other bytes of the same length, and the old time put back: the time of the entry gives it away."""
    file = sorted((data / "images").iterdir())[0]
    facts = os.stat(file)
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("change", [changed_pixel, touched, same_size_and_time])
def test_a_changed_file_is_read_again(change: Callable[[Path], None], tmp_path: Path, reads: list[str]) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    study = config(tmp_path, **CELLS)
    ingested(study, tmp_path / "out")
    reads.clear()
    time.sleep(0.02)  # the clock of a file system ticks slower than ours
    change(tmp_path / "data")
    again = ingested(study, tmp_path / "out")
    assert len(reads) == 1
    assert again == ingested(study, tmp_path / "anew")


def test_what_the_configuration_says_of_files_reads_them_again_and_what_it_says_of_cases_does_not(
    tmp_path: Path, reads: list[str]
) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    ingested(config(tmp_path, **CELLS), tmp_path / "out")
    reads.clear()
    case = sorted((tmp_path / "data" / "images").iterdir())[0].stem
    for other in ({"exclude": [case]}, {"subject": "case"}):
        ingested(config(tmp_path, **CELLS, **other), tmp_path / "out")
    assert not reads
    ingested(config(tmp_path, **CELLS, spacing=[0.5, 0.5]), tmp_path / "out")
    assert len(reads) == 4


def test_a_case_with_a_fault_is_read_again_until_it_is_allowed(tmp_path: Path, reads: list[str]) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    file = sorted((tmp_path / "data" / "masks").iterdir())[0]
    labels, grid = read_labels(file)
    write_labels(file, np.zeros_like(labels), grid)
    study = config(tmp_path, **CELLS)
    for _ in range(2):
        with pytest.raises(DatasetFaults, match="empty-label"):
            ingested(study, tmp_path / "out")
    assert len(reads) == 5
    reads.clear()
    allowed = config(tmp_path, **CELLS, allow=["empty-label"])
    assert ingested(allowed, tmp_path / "out") == ingested(allowed, tmp_path / "out")
    assert len(reads) == 4


def test_an_ingest_that_was_killed_goes_on(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    generate("cells", 6, 0, tmp_path / "data")
    study = config(tmp_path, **CELLS)
    file = tmp_path / "out" / ".read"

    def dies(root: Path, candidate: Any, *rest: Any) -> Any:
        if len(reads) == 3:
            raise KeyboardInterrupt
        reads.append(candidate.id)
        return check_case(root, candidate, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(every_case, "check_case", dies)
        with pytest.raises(KeyboardInterrupt):
            ingested(study, tmp_path / "out")
    # The last entry was being written.
    with open(file, "r+b") as torn:
        torn.truncate(file.stat().st_size - 7)
    reads.clear()
    done = ingested(study, tmp_path / "out")
    assert len(reads) == 4
    assert done == ingested(study, tmp_path / "anew")


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
def test_a_damaged_file_is_no_loss(place: float, tmp_path: Path, reads: list[str]) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    study = config(tmp_path, **CELLS)
    first = ingested(study, tmp_path / "out")
    file = tmp_path / "out" / ".read"
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 0x10
    file.write_bytes(data)
    reads.clear()
    assert ingested(study, tmp_path / "out") == first
    assert 1 <= len(reads) <= 4
    reads.clear()
    assert ingested(study, tmp_path / "out") == first
    assert not reads


def test_cases_that_went_leave_the_file(tmp_path: Path) -> None:
    generate("cells", 6, 0, tmp_path / "data")
    study = config(tmp_path, **CELLS)
    ingested(study, tmp_path / "out")
    file = tmp_path / "out" / ".read"
    size = file.stat().st_size
    gone = [path.stem for path in sorted((tmp_path / "data" / "images").iterdir())[2:]]
    few = config(tmp_path, **CELLS, exclude=gone)
    first = ingested(few, tmp_path / "out")
    assert file.stat().st_size < size / 2
    assert ingested(few, tmp_path / "out") == first


def test_files_that_have_just_changed_are_not_trusted(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_before, "SETTLED_NS", 60_000_000_000)
    generate("cells", 4, 0, tmp_path / "data")
    study = config(tmp_path, **CELLS)
    ingested(study, tmp_path / "out")
    ingested(study, tmp_path / "out")
    assert len(reads) == 8
