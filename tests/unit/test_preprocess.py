"""Native grid to prepared grid and back: nothing moves in the world, labels stay integers, the store is repeatable."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import BusyError, DataError
from medseg.files import sha256_file, writer_lock
from medseg.image.formats import read_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest
from medseg.plan.plan import GridPlan
from medseg.preprocess import run as stage
from medseg.preprocess.prepare import InverseRecord, prepare_image, prepare_labels, restore_labels
from medseg.preprocess.store import CHUNK, FILES, case_is_valid, open_store, write_case

SHAPE = (30, 26, 18)
# Axis order and signs of a grid whose axes are tilted besides.
TURNS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, 1)), ((0, 2, 1), (1, -1, -1))]


def grid_plan(spacing: tuple[float, ...], normalization: str = "none", channels: int = 1) -> GridPlan:
    return GridPlan(len(spacing), spacing, (normalization,) * channels, ({},) * channels)


def tilted(axes: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> Geometry:
    a, b = 0.11, -0.08
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.eye(3)[:, list(axes)] @ np.diag(np.array(spacing) * signs)
    affine[:3, 3] = (12.0, -30.0, 5.0)
    return Geometry.create(SHAPE, affine)


def ellipsoid() -> np.ndarray:
    """Smooth and off-centre, so that a wrong flip or axis shows."""
    place = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    distance = sum(((p - c) / r) ** 2 for p, c, r in zip(place, (12, 15, 8), (9, 8, 6), strict=True))
    return (distance < 1).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def as_predicted(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels brought to ``shape`` the way predictions are: interpolate per class, then take the largest."""
    one_hot = F.one_hot(torch.from_numpy(labels.astype(np.int64)), 2).movedim(-1, 0).float()
    return F.interpolate(one_hot[None], size=shape, mode="trilinear", align_corners=False)[0].argmax(0).numpy()


@pytest.mark.parametrize(("axes", "signs"), TURNS)
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (1.3, 0.8, 1.7)])
def test_labels_come_back_to_the_native_grid(
    axes: tuple[int, ...], signs: tuple[int, ...], target: tuple[float, ...]
) -> None:
    geometry, labels = tilted(axes, signs, (0.9, 1.2, 2.0)), ellipsoid()
    image, record = prepare_image(np.ones((1, *SHAPE), np.float32), geometry, grid_plan(target))
    prepared = prepare_labels(labels, record)
    assert image.shape[1:] == prepared.shape == record.prepared_shape
    assert prepared.dtype == np.uint8
    assert set(np.unique(prepared)) == {0, 1}
    # What nearest neighbours lose on the way is theirs; the way itself must not add an offset or a flip.
    back = restore_labels(as_predicted(prepared, record.shape).astype(np.uint8), record)
    assert back.shape == SHAPE
    assert back.dtype == np.uint8
    if max(target) == 1.0:
        assert dice(back > 0, labels > 0) >= 0.98
    else:
        assert dice(back > 0, labels > 0) >= 0.95


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_an_unchanged_spacing_comes_back_exactly(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    geometry = tilted(axes, signs, (0.9, 1.2, 2.0))
    spacing = geometry.reoriented(*_canonical(geometry)).spacing
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, SHAPE).astype(np.uint8)
    image = rng.integers(1, 900, (2, *SHAPE)).astype(np.int16)
    prepared, record = prepare_image(image, geometry, grid_plan(spacing, channels=2))
    assert sorted(prepared.ravel()) == sorted(image.ravel())
    restored = restore_labels(prepare_labels(labels, record), record)
    np.testing.assert_array_equal(restored, labels)


def _canonical(geometry: Geometry) -> Any:
    from medseg.image.geometry import canonical_axes

    return canonical_axes(geometry)


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_image_and_world_stay_together(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Intensity = a linear function of world coordinates; the prepared voxels must sit where the record says."""
    geometry = tilted(axes, signs, (0.9, 1.2, 2.0))
    slope = np.array([3.0, -2.0, 1.5])

    def ramp(grid: Geometry) -> np.ndarray:
        index = np.indices(grid.shape).reshape(3, -1)
        return (slope @ (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]) + 500).reshape(grid.shape)

    image = ramp(geometry)[None]
    image[:, :4] = 0.0  # cropped away: one side along the first stored axis
    prepared, record = prepare_image(image, geometry, grid_plan((1.4, 1.1, 1.2)))
    kept = geometry.reoriented(record.axes, record.flips).cropped(record.start, record.shape)
    assert np.prod(record.shape) == np.prod(SHAPE) * 26 / 30
    inner = tuple(slice(n // 3, n - n // 3) for n in record.prepared_shape)
    np.testing.assert_allclose(prepared[0][inner], ramp(kept.resampled(record.prepared_shape))[inner], atol=0.3)
    spacing = kept.resampled(record.prepared_shape).spacing
    np.testing.assert_allclose(spacing, (1.4, 1.1, 1.2), rtol=0.06)


@settings(max_examples=25)
@given(st.data())
def test_restoring_fills_the_box_and_nothing_else(data: st.DataObject) -> None:
    image = np.zeros((1, 7, 6, 5), dtype=np.int16)
    low = [data.draw(st.integers(0, n - 1)) for n in image.shape[1:]]
    box = tuple(slice(s, data.draw(st.integers(s + 1, n))) for s, n in zip(low, image.shape[1:], strict=True))
    image[(0, *box)] = 9
    axes, signs = data.draw(st.sampled_from(TURNS))
    geometry = Geometry.create((7, 6, 5), tilted(axes, signs, (1.0, 1.0, 1.0)).affine)
    _, record = prepare_image(image, geometry, grid_plan((1.0, 1.0, 1.0)))
    restored = restore_labels(np.ones(record.shape, np.uint8), record)
    np.testing.assert_array_equal(restored, image[0] > 0)


def test_pictures_keep_their_axes() -> None:
    geometry = Geometry.from_spacing((12, 9), (0.5, 0.5), "um")
    image = np.arange(1, 109, dtype=np.uint8).reshape(1, 12, 9)
    prepared, record = prepare_image(image, geometry, grid_plan((0.5, 0.5)))
    np.testing.assert_array_equal(prepared, image)
    finer, record = prepare_image(image, geometry, grid_plan((0.25, 0.5)))
    assert finer.shape == (1, 24, 9)
    assert (record.axes, record.flips) == ((0, 1), (False, False))


def test_normalisation_comes_before_resampling_and_after_cropping() -> None:
    """As nnU-Net does: statistics are those of the cropped image at its own resolution."""
    rng = np.random.default_rng(0)
    image = np.zeros((1, 20, 20), np.float32)
    image[0, 5:15, 5:15] = rng.uniform(100, 200, (10, 10))
    geometry = Geometry.from_spacing((20, 20), (1.0, 1.0))
    same, _ = prepare_image(image, geometry, grid_plan((1.0, 1.0), "zscore"))
    assert same.shape == (1, 10, 10)
    assert abs(same.mean()) < 1e-5
    assert same.std() == pytest.approx(1.0, abs=1e-4)


def test_record_json_round_trip() -> None:
    _, record = prepare_image(np.ones((1, *SHAPE)), tilted(*TURNS[1], (0.9, 1.2, 2.0)), grid_plan((1.0, 1.0, 1.5)))
    assert InverseRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


# The store


def some_case(folder: Path, dims: int = 3, channels: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (CHUNK + 6, 9, 11)[:dims] if dims == 3 else (70, 33)
    rng = np.random.default_rng(3)
    image = rng.normal(0, 2, (channels, *shape)).astype(np.float32)
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    rows = np.column_stack([labels[labels > 0], np.argwhere(labels > 0)]).astype(np.int32)
    record = InverseRecord(Geometry.from_spacing(shape, (1.0,) * dims), tuple(range(dims)), (False,) * dims,
                           (0,) * dims, shape, shape)  # fmt: skip
    write_case(folder, "key", image, labels, rows, record)
    return image, labels, rows


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_cases_read_back(tmp_path: Path, dims: int, channels: int) -> None:
    from medseg.preprocess.store import PreparedCase

    image, labels, rows = some_case(tmp_path / "c", dims, channels)
    record = InverseRecord.from_json(json.loads((tmp_path / "c" / "case.json").read_text())["record"])
    case = PreparedCase("c", labels.shape, record, tmp_path / "c")
    box = (slice(3, 68), slice(2, 3), slice(0, 11))[:dims]
    assert case.read_image().dtype == np.float32
    np.testing.assert_allclose(case.read_image(), image, atol=4e-3)
    np.testing.assert_array_equal(case.read_image(box), case.read_image()[(slice(None), *box)])
    np.testing.assert_array_equal(case.read_labels(), labels)
    assert case.read_labels().dtype == np.uint8
    np.testing.assert_array_equal(case.read_labels(box), labels[box])
    np.testing.assert_array_equal(case.read_locations(), rows)


def test_equal_cases_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        some_case(tmp_path / name)
    for file in (*FILES, "case.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("value", [70_000.0, 4e5, -1e6])
def test_intensities_beyond_half_precision_do_not_become_infinite(tmp_path: Path, value: float) -> None:
    """16-bit pictures with normalization `none` go to 65535: in float16 that is infinity, and then NaN losses."""
    image = np.full((1, 8, 8), value, dtype=np.float32)
    record = InverseRecord(Geometry.from_spacing((8, 8), (1, 1)), (0, 1), (False, False), (0, 0), (8, 8), (8, 8))
    from medseg.preprocess.store import PreparedCase

    try:
        write_case(tmp_path / "c", "key", image, np.zeros((8, 8), np.uint8), np.zeros((0, 3), np.int32), record)
    except DataError as error:
        assert "normalization" in str(error)
        return
    stored = PreparedCase("c", (8, 8), record, tmp_path / "c").read_image()
    np.testing.assert_allclose(stored, image, rtol=1e-3)


@pytest.mark.parametrize("damage", [*FILES, "case.json", "cut", "key", "gone", "{}", "[]", '{"key'])
def test_only_whole_cases_of_the_right_key_are_reused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "c"
    some_case(folder)
    assert case_is_valid(folder, "key")
    key = "key"
    if damage == "key":
        key = "other"
    elif damage == "cut":
        path = folder / "image.b2nd"
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "gone":
        (folder / "label.b2nd").unlink()
    elif damage[0] in "{[":
        (folder / "case.json").write_text(damage)
    elif damage == "case.json":
        (folder / damage).unlink()
    else:
        data = bytearray((folder / damage).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / damage).write_bytes(bytes(data))
    assert not case_is_valid(folder, key)


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    for text in ("{}", '{"cases": {"a": {}}}', "[]", "no json"):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match=r"index\.json"):
            open_store(tmp_path / "index.json")


# The stage


def run_stage(study: Any, name: str, out: Path, code: str = "code", workers: int = 1) -> Path:
    stage.run(study.config, "unet", study.manifest(name), study.fingerprint(name), out, code, workers)
    return out / "index.json"


def digests(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file() and p.name[0] != "."}


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_store_does_not_depend_on_workers_or_time(study: Any, tmp_path: Path, name: str) -> None:
    run_stage(study, name, tmp_path / "one")
    run_stage(study, name, tmp_path / "three", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three") == digests(study.index(name).parent)


def test_what_is_there_is_kept_and_what_is_damaged_is_rebuilt(study: Any, tmp_path: Path) -> None:
    shutil.copytree(study.index("flat").parent, tmp_path / "s")
    before = digests(tmp_path / "s")
    whole = {c: (tmp_path / "s" / c / "image.b2nd").stat().st_ino for c in ("f0", "f1")}
    path = tmp_path / "s" / "f1" / "image.b2nd"
    path.write_bytes(path.read_bytes()[:-1])
    run_stage(study, "flat", tmp_path / "s")
    assert digests(tmp_path / "s") == before
    assert (tmp_path / "s" / "f0" / "image.b2nd").stat().st_ino == whole["f0"]
    assert path.stat().st_ino != whole["f1"]
    run_stage(study, "flat", tmp_path / "s", code="other")
    assert digests(tmp_path / "s") != before


def test_prepared_labels_are_those_of_the_files(study: Any) -> None:
    for name in ("flat", "solid"):
        manifest = read_manifest(study.manifest(name))
        grid, cases, _ = open_store(study.index(name))
        assert grid.dims == manifest.dims
        for case in manifest.cases:
            native, _ = read_labels(study.folder(name) / case.labels[0])
            prepared = cases[case.id]
            # Spacing is the data's own here, so nothing may change.
            channels = restore_labels(prepared.read_labels(), prepared.record)
            np.testing.assert_array_equal(manifest.labels.to_values(channels), native)
            rows, labels = prepared.read_locations(), prepared.read_labels()
            assert len(rows)
            np.testing.assert_array_equal(labels[tuple(rows[:, 1:].T)], rows[:, 0])
            assert set(rows[:, 0]) == set(np.unique(labels)) - {0}
            assert max(np.bincount(rows[:, 0])) <= stage.LOCATIONS_PER_CLASS
            assert len(np.unique(rows, axis=0)) == len(rows)


def test_many_locations_are_thinned_by_the_cases_key_alone() -> None:
    labels = np.ones((60, 60), dtype=np.uint8)
    labels[:3, :3] = 2
    rows = stage._locations(labels, 3, "ab" * 32)
    assert np.bincount(rows[:, 0]).tolist() == [0, stage.LOCATIONS_PER_CLASS, 9]
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(rows, stage._locations(labels, 3, "ab" * 32))
    assert not np.array_equal(rows, stage._locations(labels, 3, "cd" * 32))
    assert rows[rows[:, 0] == 1][:, 1].max() > 50


def test_a_case_is_keyed_by_everything_it_depends_on(study: Any) -> None:
    manifest = read_manifest(study.manifest("flat"))
    case, grid = manifest.cases[0], open_store(study.index("flat"))[0]
    keys = {
        "same": stage.case_key(case, manifest, grid, "code"),
        "code": stage.case_key(case, manifest, grid, "other"),
        "grid": stage.case_key(case, manifest, replace(grid, spacing=(2.0, 2.0)), "code"),
        "statistics": stage.case_key(case, manifest, replace(grid, statistics=({"mean": 1.0},)), "code"),
        "image": stage.case_key(replace(case, images_sha256=("0" * 64,)), manifest, grid, "code"),
        "label": stage.case_key(replace(case, labels_sha256=("0" * 64,)), manifest, grid, "code"),
        # The same files, read with another table of labels, make other channels.
        "labels": stage.case_key(case, replace(manifest, labels=LabelTable.create({"ball": 1})), grid, "code"),
    }
    assert len(set(keys.values())) == len(keys)
    assert stage.case_key(replace(case, subject="other"), manifest, grid, "code") == keys["same"]


def test_two_jobs_never_write_one_store(study: Any, tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(BusyError):
        run_stage(study, "flat", tmp_path)
