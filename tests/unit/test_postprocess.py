"""Component operations against small pictures and laws; the stage applies what the configuration names, no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.config import PostprocessConfig
from medseg.errors import ConfigError, DataError
from medseg.files import read_json, sha256_file
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest
from medseg.postprocess import operations
from medseg.postprocess import run as stage
from medseg.postprocess.components import fill_holes, remove_small
from medseg.postprocess.targets import keep_largest

maps = st.lists(st.integers(2, 7), min_size=2, max_size=3).flatmap(
    lambda s: hnp.arrays(st.sampled_from([np.uint8, np.uint16]), tuple(s), elements=st.sampled_from([0, 0, 0, 1, 3]))
)


def components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Face-connected components, by flooding; in array order."""
    todo, found = {tuple(map(int, v)) for v in np.argwhere(mask)}, []
    for seed in map(tuple, np.argwhere(mask).tolist()):
        if seed not in todo:
            continue
        front, part = [seed], set()
        while front:
            voxel = front.pop()
            if voxel in todo:
                todo.discard(voxel)
                part.add(voxel)
                steps = [np.eye(mask.ndim, dtype=int)[a] * d for a in range(mask.ndim) for d in (1, -1)]
                front += [tuple(int(v) for v in np.add(voxel, s)) for s in steps]
        found.append(part)
    return found


def where(mask: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(map(int, v)) for v in np.argwhere(mask)}


@given(maps)
def test_only_the_largest_component_is_kept(labels: np.ndarray) -> None:
    before = labels.copy()
    out = keep_largest(labels, "rod", TABLE)
    parts = components(labels == 3)
    assert where(out == 3) == (max(parts, key=len) if parts else set()), "the first of the largest"
    assert out.dtype == labels.dtype
    np.testing.assert_array_equal(out[labels != 3], labels[labels != 3])
    assert not out[(labels == 3) & (out != 3)].any()
    np.testing.assert_array_equal(keep_largest(out, "rod", TABLE), out)
    np.testing.assert_array_equal(labels, before)


@given(maps, st.integers(0, 6))
def test_small_components_are_removed_per_class(labels: np.ndarray, size: int) -> None:
    before = labels.copy()
    out = remove_small(labels, (1, 3), size)
    for value in (1, 3):
        kept = [p for p in components(labels == value) if len(p) >= size]
        assert where(out == value) == set().union(*kept)
    assert out.dtype == labels.dtype
    np.testing.assert_array_equal(labels, before)


@given(maps)
def test_holes_are_enclosed_background_and_nothing_else_changes(labels: np.ndarray) -> None:
    before = labels.copy()
    out = fill_holes(labels, (1,))
    np.testing.assert_array_equal(out[labels != 0], labels[labels != 0])
    filled = where((out == 1) & (labels == 0))
    outside: set[tuple[int, ...]] = set()
    for part in components(labels != 1):
        if any(v in (0, n - 1) for voxel in part for v, n in zip(voxel, labels.shape, strict=True)):
            outside |= part
    assert filled == where(labels == 0) - outside
    assert out.dtype == labels.dtype
    np.testing.assert_array_equal(labels, before)


def test_other_classes_in_a_hole_stay() -> None:
    ring = np.full((5, 5), 1, dtype=np.uint8)
    ring[1:4, 1:4] = 0
    ring[2, 2] = 3
    out = fill_holes(ring, (1, 3))
    assert out[2, 2] == 3
    assert (out == 1).sum() == 24


# What a configuration asks for

TABLE = LabelTable.create({"ball": 1, "rod": 3})


def ask(**steps: Any) -> PostprocessConfig:
    return PostprocessConfig(**steps)


def applied(labels: np.ndarray, steps: PostprocessConfig, table: LabelTable) -> np.ndarray:
    return operations.apply({operations.LABELS: lambda: labels}, steps, table)


def test_operations_come_in_their_order() -> None:
    """Holes are filled first (they make components larger), the smallest are removed last."""
    labels = np.zeros((12, 12), dtype=np.uint8)
    labels[0:4, 0:4] = 1
    labels[1:3, 1:3] = 0  # 12 pixels, 16 once filled
    labels[6:9, 6:11] = 1  # 15 pixels
    out = applied(labels, ask(fill_holes=True, largest_component=["ball"], min_size=16), TABLE)
    assert where(out == 1) == where(np.pad(np.ones((4, 4)), (0, 8)))
    np.testing.assert_array_equal(applied(labels, ask(), TABLE), labels)
    assert not applied(labels, ask(min_size=16), TABLE).any()


def test_classes_are_told_by_name_and_others_stay() -> None:
    labels = np.array([[1, 0, 1, 1, 0, 3, 0, 3, 3]], dtype=np.uint8)
    out = applied(labels, ask(largest_component=["rod"]), TABLE)
    assert out.tolist() == [[1, 0, 1, 1, 0, 0, 0, 3, 3]]


def test_of_object_data_each_object_is_filled_and_measured_by_itself() -> None:
    table = LabelTable.create({"cell": 1}, instances=True)
    predicted = np.zeros((9, 9), dtype=np.uint16)
    predicted[1:6, 1:6] = 7
    predicted[3, 3] = 0
    predicted[1:4, 6:8] = 9
    predicted[0, 0] = 4
    out = applied(predicted, ask(fill_holes=True, min_size=2), table)
    assert out[3, 3] == out[1, 1] == 1 and out[1, 6] == 2, "touching ones stay apart"
    assert out[0, 0] == 0
    assert np.bincount(out.ravel()).tolist() == [81 - 25 - 6, 25, 6]
    assert applied(predicted, ask(min_size=7), table).max() == 1


def config_with(study: Any, name: str, **steps: Any) -> Any:
    datasets = dict(study.config.datasets)
    datasets[name] = datasets[name].model_copy(update={"postprocess": ask(**steps)})
    return study.config.model_copy(update={"datasets": datasets})


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_stage_writes_the_same_form(study: Any, tmp_path: Path, name: str) -> None:
    before = read_json(study.predictions(name))
    stage.run(config_with(study, name), study.manifest(name), study.predictions(name), tmp_path / "same")
    same = read_json(tmp_path / "same" / "predictions.json")
    assert same["cases"] == before["cases"], "no operation, no change, to the byte"
    steps = {"fill_holes": True, "min_size": 30}
    stage.run(config_with(study, name, **steps), study.manifest(name), study.predictions(name), tmp_path / "done")
    done = read_json(tmp_path / "done" / "predictions.json")
    assert done["postprocess"] == {
        "crf": None,
        "threshold": {},
        "fill_holes": True,
        "largest_foreground": False,
        "largest_component": [],
        "min_size": 30,
        "min_volume": {},
        "objects": {},
        "choose": [],
    }
    assert {k: done[k] for k in ("dataset", "model", "fold", "seed", "weights_sha256")} == {
        k: before[k] for k in ("dataset", "model", "fold", "seed", "weights_sha256")
    }
    for case, entry in done["cases"].items():
        path = tmp_path / "done" / entry["file"]
        assert sha256_file(path) == entry["sha256"]
        raw, grid = read_labels(study.predictions(name).parent / before["cases"][case]["file"])
        labels, geometry = read_labels(path)
        np.testing.assert_array_equal(labels, applied(raw, ask(**steps), TABLE))
        assert geometry == grid


def test_unknown_classes_are_refused_before_anything_is_written(study: Any, tmp_path: Path) -> None:
    config = config_with(study, "flat", largest_component=["ball", "liver"])
    with pytest.raises(ConfigError, match=r"datasets\.flat\.postprocess\.largest_component.*liver.*ball"):
        stage.run(config, study.manifest("flat"), study.predictions("flat"), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_prediction_that_changed_is_refused(study: Any, tmp_path: Path) -> None:
    """Otherwise a damaged or edited label map would get a fresh, valid digest here."""
    import shutil

    shutil.copytree(study.predictions("flat").parent, tmp_path / "p")
    entry = next(iter(read_json(tmp_path / "p" / "predictions.json")["cases"].values()))
    labels, geometry = read_labels(tmp_path / "p" / entry["file"])
    write_labels(tmp_path / "p" / entry["file"], (3 - labels).astype(np.uint8), geometry)
    with pytest.raises(DataError, match=rf"{entry['file']}.*changed"):
        stage.run(
            config_with(study, "flat"), study.manifest("flat"), tmp_path / "p" / "predictions.json", tmp_path / "o"
        )
    assert read_manifest(study.manifest("flat")).labels == TABLE
