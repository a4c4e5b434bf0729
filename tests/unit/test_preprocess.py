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

from medseg.errors import BusyError, ConfigError, DataError
from medseg.files import sha256_file, sha256_part, writer_lock
from medseg.formats.read import read_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest, write_manifest
from medseg.plan.plan import Grid
from medseg.preprocess import cases as preparing
from medseg.preprocess import run as stage
from medseg.preprocess.arrays import CHUNK
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import prepare_image, prepare_labels, restore_labels
from medseg.preprocess.store import PreparedCase, kept_case, open_store, write_case
from medseg.records import write_record
from medseg.results.folders import IngestFolder
from medseg.shards import Shard

SHAPE = (30, 26, 18)
# Axis order and signs of a grid whose axes are tilted besides.
TURNS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, 1)), ((0, 2, 1), (1, -1, -1))]


def grid_plan(spacing: tuple[float, ...], normalization: str = "none", channels: int = 1) -> Grid:
    return Grid("mm", True, spacing, (normalization,) * channels, ({},) * channels)


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


def test_an_axis_may_keep_each_images_own_spacing() -> None:
    """Target 0.0: what a 2-D model on volumes wants along the axis of its slices."""
    for depth, spacing in ((7, 5.0), (11, 3.3)):
        geometry = Geometry.from_spacing((20, 18, depth), (1.0, 1.0, spacing), "mm")
        image = np.arange(1, 20 * 18 * depth + 1, dtype=np.float32).reshape(1, 20, 18, depth)
        finer, record = prepare_image(image, geometry, grid_plan((0.5, 1.0, 0.0)))
        assert finer.shape == (1, 40, 18, depth)
        same, _ = prepare_image(image, geometry, grid_plan((1.0, 1.0, 0.0)))
        np.testing.assert_array_equal(same, image)
        labels = np.arange(depth, dtype=np.uint8) * np.ones((20, 18, 1), np.uint8)
        np.testing.assert_array_equal(prepare_labels(labels, record)[0, 0], np.arange(depth))


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_far_slices_are_never_mixed(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """On an anisotropic grid every prepared slice comes from one stored slice, and so do its labels."""
    geometry = tilted(axes, signs, (0.9, 0.9, 4.5))
    numbers = np.arange(SHAPE[2]) * np.ones((*SHAPE[:2], 1))
    coarse = axes[2]
    target = tuple(2.0 if a == coarse else 0.7 for a in range(3))
    image, record = prepare_image(numbers[None] + 1, geometry, grid_plan(target))
    labels = prepare_labels(numbers.astype(np.uint8), record)
    assert record.prepared_shape[coarse] == round(SHAPE[2] * 4.5 / 2)
    np.testing.assert_allclose(image[0], labels + 1.0, rtol=1e-6)
    # Isotropic enough, slices are blended.
    blended, _ = prepare_image(numbers[None] + 1, tilted(axes, signs, (0.9, 0.9, 2.5)), grid_plan((0.9, 0.9, 1.5)))
    assert len(np.unique(blended.round(3))) > SHAPE[2]


def test_channels_must_be_those_of_the_grid() -> None:
    with pytest.raises(ValueError, match="shorter"):
        prepare_image(np.ones((2, 5, 5)), Geometry.from_spacing((5, 5), (1, 1)), grid_plan((1.0, 1.0)))


def test_record_json_round_trip() -> None:
    _, record = prepare_image(np.ones((1, *SHAPE)), tilted(*TURNS[1], (0.9, 1.2, 2.0)), grid_plan((1.0, 1.0, 1.5)))
    assert InverseRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


# The store


def some_case(path: Path, dims: int = 3, channels: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (CHUNK + 6, 9, 11)[:dims] if dims == 3 else (70, 33)
    rng = np.random.default_rng(3)
    image = rng.normal(0, 2, (channels, *shape)).astype(np.float32)
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    rows = np.column_stack([labels[labels > 0], np.argwhere(labels > 0)]).astype(np.int32)
    record = InverseRecord(Geometry.from_spacing(shape, (1.0,) * dims), tuple(range(dims)), (False,) * dims,
                           (0,) * dims, shape, shape)  # fmt: skip
    write_case(path, "key", image, labels, rows, record)
    return image, labels, rows


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_cases_read_back(tmp_path: Path, dims: int, channels: int) -> None:
    image, labels, rows = some_case(tmp_path / "c.case", dims, channels)
    case = PreparedCase.open(tmp_path / "c.case")
    assert (case.id, case.shape) == ("c", labels.shape)
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
        some_case(tmp_path / f"{name}.case")
    assert (tmp_path / "a.case").read_bytes() == (tmp_path / "b.case").read_bytes()


@pytest.mark.parametrize("value", [70_000.0, 4e5, -1e6])
def test_intensities_beyond_half_precision_do_not_become_infinite(tmp_path: Path, value: float) -> None:
    """16-bit pictures with normalization `none` go to 65535: in float16 that is infinity, and then NaN losses."""
    image = np.full((1, 8, 8), value, dtype=np.float32)
    record = InverseRecord(Geometry.from_spacing((8, 8), (1, 1)), (0, 1), (False, False), (0, 0), (8, 8), (8, 8))
    try:
        write_case(tmp_path / "c.case", "key", image, np.zeros((8, 8), np.uint8), np.zeros((0, 3), np.int32), record)
    except DataError as error:
        assert "normalization" in str(error)
        return
    stored = PreparedCase.open(tmp_path / "c.case").read_image()
    np.testing.assert_allclose(stored, image, rtol=1e-3)


PARTS = ("image", "labels", "locations")


def spoil(path: Path, name: str) -> None:
    """Flip a bit in the middle of one of the arrays of a case, or of its ``facts``."""
    data, parts = bytearray(path.read_bytes()), PreparedCase.open(path).parts
    end = max(part.start + part.size for part in parts.values())
    start, size = (parts[name].start, parts[name].size) if name in parts else (end, len(data) - end)
    data[start + size // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [*PARTS, "facts", "digit", "cut", "longer", "key", "gone", "empty", "{}", "objects"])
def test_only_whole_cases_of_the_right_key_are_reused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.case"
    some_case(path)
    assert kept_case(path, "key") is not None
    data = path.read_bytes()
    if damage == "digit":
        # Still JSON, but another crop box.
        path.write_bytes(data.replace(b'"start":[0', b'"start":[1'))
        assert path.read_bytes() != data
    elif damage in (*PARTS, "facts"):
        spoil(path, damage)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-5], "longer": data + b"0", "empty": b"", "{}": b"{}"}.get(damage, data))
    assert kept_case(path, "other" if damage == "key" else "key", objects=damage == "objects") is None


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    for text in ("{}", '{"cases": {"a": {}}}', "[]", "no json", '{"digest": "x"}', '{"digest": 1, "cases": {}}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match=r"index\.json"):
            open_store(tmp_path / "index.json")


@pytest.mark.parametrize("damage", [*PARTS, "gone", "cut"])
def test_damaged_files_are_never_read(study: Any, tmp_path: Path, damage: str) -> None:
    shutil.copytree(study.index("flat").parent, tmp_path / "s")
    _, cases, _ = open_store(tmp_path / "s" / "index.json")
    path = tmp_path / "s" / "f1.case"
    data = path.read_bytes()
    if damage in PARTS:
        spoil(path, damage)
    else:
        path.unlink()
    if damage == "cut":
        path.write_bytes(data[: cases["f1"].parts["image"].size // 2])
    for case_id, case in cases.items():
        for name, read in zip(PARTS, (case.read_image, case.read_labels, case.read_locations), strict=True):
            if case_id == "f1" and damage in (name, "gone", "cut"):
                with pytest.raises(DataError, match=rf"f1\.case: missing, or its {name} damaged.*index\.json"):
                    read()
            else:
                read()


def test_a_file_replaced_after_its_first_reading_is_checked_again(study: Any, tmp_path: Path) -> None:
    shutil.copytree(study.index("flat").parent, tmp_path / "s")
    _, cases, _ = open_store(tmp_path / "s" / "index.json")
    cases["f0"].read_labels()
    (tmp_path / "s" / "f0.case").unlink()
    shutil.copy(tmp_path / "s" / "f1.case", tmp_path / "s" / "f0.case")
    with pytest.raises(DataError, match="damaged"):
        cases["f0"].read_labels()


def test_a_digest_is_taken_once(study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from medseg.preprocess import store

    shutil.copytree(study.index("flat").parent, tmp_path / "s")
    taken: list[tuple[Any, ...]] = []
    monkeypatch.setattr(store, "sha256_part", lambda *part: (taken.append(part), sha256_part(*part))[1])
    _, cases, _ = open_store(tmp_path / "s" / "index.json")
    for _ in range(3):
        cases["f0"].read_image((slice(0, 2), slice(0, 2)))
    part = cases["f0"].parts["image"]
    assert taken == [(tmp_path / "s" / "f0.case", part.start, part.size)]


def test_a_store_has_one_file_per_case(study: Any) -> None:
    made = [path.name for path in study.index("flat").parent.iterdir() if not path.name.startswith(".")]
    assert sorted(made) == ["f0.case", "f1.case", "f2.case", "f3.case", "index.json"]


def test_what_another_version_or_configuration_left_is_removed_and_nothing_else(study: Any, tmp_path: Path) -> None:
    """A store of folders, one of them with somebody's own file, and a case that is no longer in the data set."""
    out = tmp_path / "s"
    for case in ("f0", "f1", "gone"):
        (out / case).mkdir(parents=True)
        for name in ("case.json", "image.b2nd", "label.b2nd", "locations.npy"):
            (out / case / name).write_text("earlier")
    (out / "f1" / "notes.txt").write_text("own")
    (out / "own").mkdir()
    (out / "gone.case").write_text("a case that was left out since")
    write_record(out / "index.json", {"dataset": "flat", "grid": {}, "cases": {"f0": {"record": {}, "sha256": {}}}})
    with pytest.raises(DataError, match="not an index that this version of medseg writes"):
        open_store(out / "index.json")
    run_stage(study, "flat", out)
    assert {name: d for name, d in digests(out).items() if name != "f1/notes.txt"} == digests(
        study.index("flat").parent
    )
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["f1", "own"]
    assert sorted(path.name for path in (out / "f1").iterdir()) == ["notes.txt"]


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


def test_cases_that_are_added_are_all_that_is_prepared(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_manifest(study.manifest("flat"))
    write_manifest(replace(whole, cases=whole.cases[:3]), tmp_path / "ingest")
    out, made = tmp_path / "s", []
    few = IngestFolder(tmp_path / "ingest").manifest
    stage.run(study.config, "unet", few, study.fingerprint("flat"), out, "code", 1)
    prepare = stage.prepare_case
    monkeypatch.setattr(stage, "prepare_case", lambda case, *more: (made.append(case.id), prepare(case, *more))[1])
    run_stage(study, "flat", out)
    assert made == [case.id for case in whole.cases[3:]]
    assert digests(out) == digests(study.index("flat").parent)


def inodes(out: Path) -> dict[str, tuple[int, int]]:
    """Changes for a file that was written anew; the number of a file that was removed may be given to the next."""
    found = {c: (out / f"{c}.case").stat() for c in ("f0", "f1", "f2", "f3")}
    return {c: (one.st_ino, one.st_mtime_ns) for c, one in found.items()}


@pytest.mark.parametrize("damage", [*PARTS, "facts", "gone"])
def test_what_is_damaged_is_rebuilt_and_nothing_else(study: Any, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "s"
    shutil.copytree(study.index("flat").parent, out)
    before, written = digests(out), inodes(out)
    if damage == "gone":
        (out / "f1.case").unlink()
    else:
        spoil(out / "f1.case", damage)
    run_stage(study, "flat", out)
    assert digests(out) == before
    assert {c for c, inode in inodes(out).items() if inode != written[c]} == {"f1"}


def test_other_code_or_another_grid_rebuilds_all(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    shutil.copytree(study.index("flat").parent, out)
    before, written = digests(out), inodes(out)
    run_stage(study, "flat", out, code="other")
    assert digests(out) != before
    assert not set(inodes(out).values()) & set(written.values())
    written = inodes(out)
    model = study.config.models["unet"]
    fixed = model.plan.model_copy(update={"normalization": "zscore"})
    config = study.config.model_copy(update={"models": {"unet": model.model_copy(update={"plan": fixed})}})
    stage.run(config, "unet", study.manifest("flat"), study.fingerprint("flat"), out, "other", 1)
    assert not set(inodes(out).values()) & set(written.values())


def test_a_changed_file_rebuilds_its_entry_and_nothing_else(study: Any, tmp_path: Path) -> None:
    """From the files on: `ingest` sees the new bytes, and the fingerprint of the others stays what it was."""
    from medseg.formats.read import read_image
    from medseg.formats.write import write_labels
    from medseg.ingest import run as ingest

    data, out = tmp_path / "data", tmp_path / "s"
    shutil.copytree(study.folder("flat"), data / "flat")
    shutil.copytree(study.index("flat").parent, out)
    config = study.config.model_copy(update={"data_root": str(data)})
    image, geometry = read_image(data / "flat" / "images" / "f2.png")
    image[0, 5, 5] += 1
    write_labels(data / "flat" / "images" / "f2.png", image[0], geometry)
    written = inodes(out)
    with pytest.raises(DataError, match=r"f2\.png: changed"):
        stage.run(config, "unet", study.manifest("flat"), study.fingerprint("flat"), tmp_path / "new", "code", 1)
    ingest.run(config, "flat", tmp_path / "ingest")
    manifest = tmp_path / "ingest" / "manifest.tsv"
    stage.run(config, "unet", manifest, study.fingerprint("flat"), out, "code", 1)
    assert {c for c, inode in inodes(out).items() if inode != written[c]} == {"f2"}
    stored = open_store(out / "index.json")[1]["f2"].read_image()
    assert not np.array_equal(stored, open_store(study.index("flat"))[1]["f2"].read_image())


# Shards


def test_shards_give_the_store_of_one_job(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "s"
    inputs = (study.config, "unet", study.manifest("flat"), study.fingerprint("flat"), out, "code", 2)
    for index in (2, 0, 1):
        with pytest.raises(DataError, match=r"shards .*1/3.* are not done.*medseg preprocess --shard"):
            stage.join(*inputs, 3)
        stage.run(*inputs, Shard(index, 3))
        done = json.loads((out / f"shard-{index}-of-3.json").read_text())
        assert done["cases"] == ["f0", "f1", "f2", "f3"][index::3]
        assert not (out / "index.json").exists()
    written = inodes(out)
    stage.join(*inputs, 3)
    assert inodes(out) == written
    made = {name: digest for name, digest in digests(out).items() if not name.startswith("shard-")}
    assert made == digests(study.index("flat").parent)


def test_more_shards_than_cases_is_no_harm(study: Any, tmp_path: Path) -> None:
    inputs = (study.config, "unet", study.manifest("flat"), study.fingerprint("flat"), tmp_path, "code", 1)
    stage.run(*inputs, Shard(8, 9))
    assert json.loads((tmp_path / "shard-8-of-9.json").read_text())["cases"] == []


def test_shards_write_side_by_side_but_none_twice(study: Any, tmp_path: Path) -> None:
    inputs = (study.config, "unet", study.manifest("flat"), study.fingerprint("flat"), tmp_path, "code", 1)
    with writer_lock(tmp_path / ".shard-0-of-2"):
        stage.run(*inputs, Shard(1, 2))
        with pytest.raises(BusyError):
            stage.run(*inputs, Shard(0, 2))


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/2/3", "0/0", " 0/2", "1.0/2", "9999999/99999999"])
def test_shards_that_make_no_sense_are_refused(text: str) -> None:
    assert Shard.parse("0/1") == Shard(0, 1)
    assert Shard.parse("11/12") == Shard(11, 12)
    with pytest.raises(ConfigError, match="expected i/n"):
        Shard.parse(text)


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
            assert max(np.bincount(rows[:, 0])) <= preparing.LOCATIONS_PER_CLASS
            assert len(np.unique(rows, axis=0)) == len(rows)


def test_many_locations_are_thinned_by_the_cases_id_alone() -> None:
    labels = np.ones((60, 60), dtype=np.uint8)
    labels[:3, :3] = 2
    rows = preparing.sample_locations(labels, 3, "case1")
    assert np.bincount(rows[:, 0]).tolist() == [0, preparing.LOCATIONS_PER_CLASS, 9]
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(rows, preparing.sample_locations(labels, 3, "case1"))
    assert not np.array_equal(rows, preparing.sample_locations(labels, 3, "case2"))
    assert rows[rows[:, 0] == 1][:, 1].max() > 50


def test_a_case_is_keyed_by_everything_it_depends_on(study: Any) -> None:
    manifest = read_manifest(study.manifest("flat"))
    case, grid = manifest.cases[0], open_store(study.index("flat"))[0]
    keys = {
        "same": preparing.case_key(case, manifest, grid, "code"),
        "code": preparing.case_key(case, manifest, grid, "other"),
        "grid": preparing.case_key(case, manifest, replace(grid, spacing=(2.0, 2.0)), "code"),
        "statistics": preparing.case_key(case, manifest, replace(grid, statistics=({"mean": 1.0},)), "code"),
        "image": preparing.case_key(replace(case, images_sha256=("0" * 64,)), manifest, grid, "code"),
        "label": preparing.case_key(replace(case, labels_sha256=("0" * 64,)), manifest, grid, "code"),
        # The same bytes lie on another grid where the pixel size is configured, and are read as the case says.
        "geometry": preparing.case_key(replace(case, geometry=case.geometry.resampled((9, 9))), manifest, grid, "code"),
        "fill": preparing.case_key(replace(case, fill=-1.0), manifest, grid, "code"),
        "orientation": preparing.case_key(replace(case, orientation="qform"), manifest, grid, "code"),
        "series": preparing.case_key(replace(case, series="2"), manifest, grid, "code"),
        "format": preparing.case_key(replace(case, images=("f0.ome.tif",)), manifest, grid, "code"),
        # The same files, read with another table of labels, make other channels.
        "labels": preparing.case_key(case, replace(manifest, labels=LabelTable.create({"ball": 1})), grid, "code"),
    }
    assert len(set(keys.values())) == len(keys)
    for change in ({"subject": "other"}, {"site": "other"}, {"images": ("moved.png",)}):
        assert preparing.case_key(replace(case, **change), manifest, grid, "code") == keys["same"]


def test_two_jobs_never_write_one_store(study: Any, tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(BusyError):
        run_stage(study, "flat", tmp_path)


def test_shards_by_hand(study: Any, tmp_path: Path) -> None:
    """The commands that the workflow runs."""
    from typer.testing import CliRunner

    from medseg.cli.commands import app
    from medseg.files import write_json

    config = tmp_path / "config.json"
    write_json(config, study.config.model_dump(mode="json"))
    options = ["preprocess", "--config", str(config), "--model", "unet", "--code", "code", "--out", str(tmp_path / "s")]
    options += ["--manifest", str(study.manifest("solid")), "--fingerprint", str(study.fingerprint("solid"))]
    for shard in (["--shard", "0/2"], ["--shard", "1/2"], []):
        done = CliRunner().invoke(app, [*options, *shard])
        assert done.exit_code == 0, done.output
    made = {name: digest for name, digest in digests(tmp_path / "s").items() if not name.startswith("shard-")}
    assert made == digests(study.index("solid").parent)
    assert isinstance(CliRunner().invoke(app, [*options, "--shard", "2/2"]).exception, ConfigError)
