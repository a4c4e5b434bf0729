"""Ids are made from any file name; files stay as they are, and two names of one id are a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import Config
from medseg.errors import DatasetFaults
from medseg.files import SAFE_NAME
from medseg.ingest.ids import case_id
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import check, run
from medseg.ingest.splits import read_split
from medseg.text import is_printable
from tests.configurations import config as configured

MADE = {
    "plain": "plain",
    "p01_1.2-b": "p01_1.2-b",
    "Well A1 (DAPI)": "Well_A1_DAPI",
    "Zählung, 20x": "Zahlung_20x",
    "a[1]#2": "a_1_2",
    "Exp 2024-03-01 10h22m": "Exp_2024-03-01_10h22m",
    "-rf": "rf",
    "$(touch X); rm": "touch_X_rm",
    "Größe": "Grosse",
    "smør 50%": "smor_50",
    "e\u0301": "e",
    "x" * 64: "x" * 64,
}


@pytest.mark.parametrize("name", MADE)
def test_ids_of_names(name: str) -> None:
    assert case_id(name) == MADE[name]


def test_what_would_be_lost_is_told_apart_by_a_digest() -> None:
    long = [case_id("x" * 200 + end) for end in "ab"]
    other = [case_id(name) for name in ("образец 1", "пример 1", "образец 1".upper())]
    assert len(set(long)) == 2
    assert len(set(other)) == 3
    assert all(SAFE_NAME.fullmatch(name) for name in (*long, *other))
    assert long[0].startswith("x" * 55 + "-")


@given(st.text(min_size=1, max_size=300))
def test_every_printable_name_has_an_id_and_ids_stay(name: str) -> None:
    made = case_id(name)
    assert case_id(made) == made
    if is_printable(name) and "/" not in name:
        assert SAFE_NAME.fullmatch(made)


NAMES = ["Well A1 (DAPI)", "Zählung, 20x", "a[1]#2", "x" * 200, "plain"]


def write(root: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        rng = np.random.Generator(np.random.PCG64(seed))
        labels = np.zeros((20, 24), np.uint8)
        labels[2:8, 2:9] = 1
        for folder, values in (("images", rng.integers(0, 250, labels.shape).astype(np.uint8)), ("masks", labels)):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / f"data/{folder}/{name}.tif", values)


def config(root: Path, **section: Any) -> Config:
    return configured(root, **{"labels": {"cell": 1}, "subject": "case", **section})


def test_files_stay_and_the_manifest_says_which_is_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, NAMES)
    before = sorted(path.name for path in (tmp_path / "data/images").iterdir())
    run(config(tmp_path), "data", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out/manifest.tsv")
    assert {case.id: case.images[0] for case in manifest.cases} == {case_id(n): f"images/{n}.tif" for n in NAMES}
    assert sorted(path.name for path in (tmp_path / "data/images").iterdir()) == before
    printed = capsys.readouterr().err
    assert "4 ids are made from names that cannot be ids: 'Well A1 (DAPI)' is Well_A1_DAPI; " in printed


def test_the_configuration_may_use_the_names_or_the_ids(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    lines = ["case,subject", *(f'"{name}",s{k}' for k, name in enumerate(NAMES[1:]))]
    (tmp_path / "data/subjects.csv").write_text("\n".join(lines) + "\n")
    folds = [{"train": NAMES[3:], "val": NAMES[2:3]}, {"train": NAMES[2:4], "val": [case_id(NAMES[4])]}]
    (tmp_path / "data/folds.json").write_text(json.dumps(folds))
    own = config(
        tmp_path, exclude=NAMES[:1], test=[NAMES[1]], subject="subjects.csv", folds={"count": 2, "file": "folds.json"}
    )
    manifest = run(own, "data", tmp_path / "out")
    assert manifest.excluded == ("Well_A1_DAPI",)
    assert [case.id for case in read_manifest(tmp_path / "out/test.tsv").cases] == ["Zahlung_20x"]
    assert {case.subject for case in manifest.cases} == {"s1", "s2", "s3"}
    assert read_split(tmp_path / "out/splits.json", 1) == (sorted(map(case_id, NAMES[2:4])), ["plain"])


def test_two_names_of_one_id_are_a_fault(tmp_path: Path) -> None:
    write(tmp_path, ["a b", "a_b", "c", "ä", "a"])
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path), "data")
    found = [(f.code, f.case, f.file, f.cause) for f in caught.value.faults]
    assert found == [
        ("duplicate-id", "a", "images/ä.tif", "the same id as images/a.tif"),
        ("duplicate-id", "a_b", "images/a_b.tif", "the same id as images/a b.tif"),
    ]
    # The way out that touches no file.
    assert "`table: FILE.csv`" in caught.value.faults[0].fix
    rows = [f"c{k},images/{name}.tif,masks/{name}.tif" for k, name in enumerate(["a b", "a_b", "c", "ä", "a"])]
    (tmp_path / "data/mine.csv").write_text("\n".join(["case,image,label", *rows]) + "\n")
    assert len(check(config(tmp_path, table="mine.csv"), "data").cases) == 5
