"""`subject: same-origin`: cases that ingest notices to belong together are one subject, on one side of every fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medseg.config import Config
from medseg.errors import DatasetFaults
from medseg.files import read_json
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest import run as stage

SIZE = 128


def write_tiles(root: Path, fields: int = 4) -> None:
    """Pictures that are the left and right halves of larger fields, with a mask each."""
    generator = np.random.default_rng(0)
    for number in range(fields):
        texture = ndimage.gaussian_filter(generator.normal(size=(SIZE, 2 * SIZE)), 3)
        field = np.clip(127 + 400 * texture + generator.normal(0, 2, texture.shape), 0, 255).astype(np.uint8)
        for side, columns in (("a", slice(0, SIZE)), ("z", slice(SIZE, None))):
            grid = Geometry.from_spacing((SIZE, SIZE), (1.0, 1.0))
            name = f"{side}{number}x.png"  # no hint in the names
            write_labels(root / "tiles" / "images" / name, np.ascontiguousarray(field[:, columns]), grid)
            mask = (field[:, columns] > 140).astype(np.uint8)
            write_labels(root / "tiles" / "masks" / name, np.ascontiguousarray(mask), grid)


def config(root: Path, **section: Any) -> Config:
    dataset = {"layout": "pairs", "path": "tiles", "labels": {"spot": 1}, **section}
    whole = {"data_root": str(root), "datasets": {"tiles": dataset}, "budget": {"steps": 1}, "folds": {"count": 2}}
    return Config.model_validate(whole)


def test_what_is_noticed_is_a_fault_until_somebody_says_what_it_means(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    with pytest.raises(DatasetFaults) as caught:
        stage.check(config(tmp_path), "tiles")
    assert {f.code for f in caught.value.faults} == {"same-origin"}
    assert len(caught.value.faults) == 4
    assert all("subject: same-origin" in f.fix for f in caught.value.faults)


def test_noticed_groups_are_subjects_and_stay_on_one_side(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    manifest = stage.run(config(tmp_path, subject="same-origin"), "tiles", tmp_path / "out", workers=2)
    subjects = {case.id: case.subject for case in manifest.cases}
    assert all(subjects[f"a{k}x"] == subjects[f"z{k}x"] for k in range(4))
    assert len(set(subjects.values())) == 4
    assert "same-origin" in manifest.independence
    assert "4 subjects" in manifest.independence
    for fold in read_json(tmp_path / "out" / "splits.json")["folds"]:
        assert {subjects[c] for c in fold["train"]}.isdisjoint(subjects[c] for c in fold["val"])


def test_a_noticed_group_on_both_sides_of_the_test_set_is_a_fault(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    with pytest.raises(DatasetFaults, match="in the test set"):
        stage.check(config(tmp_path, subject="same-origin", test=["a0x"]), "tiles")
    # Nor can it be allowed by calling them strangers.
    with pytest.raises(DatasetFaults) as caught:
        stage.check(config(tmp_path, subject="case", test=["a0x"], allow=["same-origin"]), "tiles")
    assert [(f.code, f.case) for f in caught.value.faults] == [("leakage", "a0x")]
    stage.check(config(tmp_path, subject="same-origin", test=["a0x", "z0x"]), "tiles")
