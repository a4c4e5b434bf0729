"""Large images are predicted slab by slab: the same labels as all at once, within bounded memory, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg.formats.plain import whole
from medseg.formats.read import open_image, read_labels
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.intensity import NORMALIZATIONS
from medseg.image.labels import LabelTable
from medseg.predict import partial, scale, sinks
from medseg.predict.members import Member
from medseg.predict.pipeline import Pipeline
from medseg.predict.sinks import LabelFile, LabelMap
from medseg.preprocess import rows
from medseg.preprocess.prepare import prepare_image
from tests.plans import tiny_plan

TABLE = LabelTable.create({"ball": 1, "rod": 3})
STATS = {"mean": 50.0, "std": 20.0, "p00_5": -100.0, "p99_5": 200.0}
TURNS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, 1))]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image counts as large, is read a few rows at a time, and its label map made on disk."""
    monkeypatch.setattr(scale, "LARGE", 0)
    monkeypatch.setattr(scale, "ROOMY", 0)
    monkeypatch.setattr(rows, "READ_VOXELS", 700)
    monkeypatch.setattr(sinks, "HELD_VOXELS", 0)


def pipeline(dims: int, channels: int = 1, **changes: Any) -> Pipeline:
    """A network of random weights, in which every voxel of a window counts."""
    changes = {"in_channels": channels, "statistics": (STATS,) * channels, **changes}
    changes.setdefault("normalization", ("none",) * channels)
    plan = tiny_plan("unet", dims, **changes)
    torch.manual_seed(0)
    network = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, 3, 5, padding=2).eval()
    return Pipeline(plan, TABLE, [Member(network)], "cpu", "fp32")


def picture(shape: tuple[int, ...], channels: int = 1, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Blobs on black, with black holes in them, in a corner of the image."""
    source = np.random.default_rng(seed)
    image = source.gamma(2.0, size=(channels, *shape)) * 20
    image[source.random(image.shape) < 0.3] = 0
    for axis, size in enumerate(shape):
        for channel in image:
            np.moveaxis(channel, axis, 0)[: size // 6] = 0
            np.moveaxis(channel, axis, 0)[size - size // 9 :] = 0
    return image.clip(0, 250).astype(dtype)


def turned(shape: tuple[int, ...], axes: tuple[int, ...], signs: tuple[int, ...], sizes: Any = (1, 1, 1)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(sizes)[:, list(axes)] * np.array(signs)
    return Geometry.create(shape, affine)


def labels_of(pipe: Pipeline, source: Source) -> np.ndarray:
    kept = LabelMap()
    pipe.run(source, "case", [kept])
    return kept.values


# The law


@pytest.mark.parametrize("rule", NORMALIZATIONS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_slab_by_slab_gives_the_labels_of_all_at_once(
    rule: str, dims: int, dtype: str, request: pytest.FixtureRequest
) -> None:
    shape = (70, 45) if dims == 2 else (40, 22, 31)
    source = Source.from_array(picture(shape, 2, dtype), Geometry.from_spacing(shape, (1.0,) * dims, "mm"))
    pipe = pipeline(dims, 2, normalization=(rule, "zscore"))
    expected = labels_of(pipe, source)
    request.getfixturevalue("large")
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(labels_of(pipe, source), expected)


@pytest.mark.parametrize(("axes", "signs"), TURNS)
@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.7, 1.6, 1.1), (1.0, 1.0, 4.0)])
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (0.8, 1.2, 1.0), (1.1, 0.9, 5.0)])
def test_volumes_of_any_orientation_and_spacing(
    axes: tuple, signs: tuple, sizes: tuple, target: tuple, request: pytest.FixtureRequest
) -> None:
    shape = (30, 26, 22)
    source = Source.from_array(picture(shape), turned(shape, axes, signs, sizes))
    pipe = pipeline(3, spacing=target, normalization=("percentile",))
    expected = labels_of(pipe, source)
    request.getfixturevalue("large")
    np.testing.assert_array_equal(labels_of(pipe, source), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_network_of_pictures_on_slices(axis: int, request: pytest.FixtureRequest) -> None:
    shape = (22, 26, 24)
    source = Source.from_array(picture(shape), turned(shape, *TURNS[1], (0.7, 1.6, 1.1)))
    spacing = tuple(0.0 if a == axis else 1.0 for a in range(3))
    pipe = pipeline(2, spacing=spacing, normalization=("zscore_nonzero",), patch=(16, 16))
    expected = labels_of(pipe, source)
    request.getfixturevalue("large")
    np.testing.assert_array_equal(labels_of(pipe, source), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (90, 3), (33, 33)])
def test_pictures_smaller_than_a_window(shape: tuple[int, int], request: pytest.FixtureRequest) -> None:
    image = np.random.default_rng(1).integers(0, 200, (1, *shape)).astype(np.uint8)
    source = Source.from_array(image, Geometry.from_spacing(shape, (1.0, 1.0)))
    expected = labels_of(pipeline(2), source)
    request.getfixturevalue("large")
    np.testing.assert_array_equal(labels_of(pipeline(2), source), expected)


def test_an_image_of_zeros(request: pytest.FixtureRequest) -> None:
    source = Source.from_array(np.zeros((1, 40, 40), np.uint8), Geometry.from_spacing((40, 40), (1.0, 1.0)))
    pipes = [pipeline(2, normalization=(rule,)) for rule in NORMALIZATIONS]
    expected = [labels_of(pipe, source) for pipe in pipes]
    request.getfixturevalue("large")
    for pipe, labels in zip(pipes, expected, strict=True):
        np.testing.assert_array_equal(labels_of(pipe, source), labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rows_are_those_of_the_whole_along_any_axis_from_any_row(axis: int, large: None) -> None:
    shape = (31, 24, 27)
    source = Source.from_array(picture(shape, 2, "int16"), turned(shape, *TURNS[1], (0.7, 1.6, 1.1)))
    grid = pipeline(3, 2, spacing=(1.0, 1.0, 1.0), normalization=("zscore_nonzero", "rescale")).plan.grid
    expected, record = prepare_image(source.image(), source.geometry, grid)
    surveyed = rows.survey(source, grid, "case")
    assert surveyed.record == record
    for begin in (0, 7, expected.shape[axis + 1] - 1):
        found = np.concatenate(list(surveyed.along(axis).blocks(begin)), axis=axis + 1)
        wanted = expected.take(range(begin, expected.shape[axis + 1]), axis=axis + 1)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


# Files: read and written by box


def of_file(path: Path, image: np.ndarray, geometry: Geometry) -> Source:
    write_labels(path, image, geometry)  # grey values are integers, too
    return open_image(path)


@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".ome.tif", ".png"]
)
def test_files_get_the_bytes_that_all_at_once_gives(
    suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    picture_format = suffix in (".tif", ".ome.tif", ".png")
    shape = (61, 44) if picture_format else (25, 31, 20)
    geometry = Geometry.from_spacing(shape, (1.0, 1.0)) if picture_format else turned(shape, *TURNS[2])
    source = of_file(tmp_path / f"a{suffix}", picture(shape)[0], geometry)
    pipe = pipeline(len(shape))
    pipe.run(source, "case", [LabelFile(tmp_path / "whole" / f"a{suffix}")])
    request.getfixturevalue("large")
    pipe.run(source, "case", [LabelFile(tmp_path / "slabs" / f"a{suffix}")])
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "slabs").iterdir()} == expected


@pytest.mark.parametrize("shape", [(70, 90), (3, 70, 90)])
def test_large_pictures_are_written_in_tiles(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    from medseg.formats.tiff import label

    monkeypatch.setattr(label, "TILED", 1000)
    monkeypatch.setattr(label, "TILE", 32)
    monkeypatch.setattr(label, "BIG", 100)
    labels = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    write_labels(tmp_path / "a.tif", labels, Geometry.from_spacing(shape, (1.0,) * len(shape)))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        assert (file.pages[0].is_tiled, file.pages[0].tilelength) == (True, 32)
        np.testing.assert_array_equal(file.asarray(), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif")[0], labels)


# Going on


class Killed(BaseException):
    """What ends a process ends it without a word to anybody."""


@pytest.mark.parametrize("calls", [1, 6, 9])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.4, 0.8, 1.3)])
def test_a_killed_prediction_goes_on_with_the_same_bits(
    calls: int, spacing: tuple, tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "NOTED_S", 0.0)
    shape = (18, 20, 90)
    source = of_file(tmp_path / "a.nii", picture(shape)[0], turned(shape, *TURNS[1]))
    whole_pipe = pipeline(3, spacing=spacing)
    whole_pipe.run(source, "case", [LabelFile(tmp_path / "whole.nii", key="k")])
    counts: dict[str, int] = {}

    def counting(limit: int | None) -> Pipeline:
        pipe = pipeline(3, spacing=spacing)
        network = pipe.members[0].network
        counts["now"] = 0

        def counted(x: torch.Tensor) -> torch.Tensor:
            counts["now"] += 1
            if counts["now"] == limit:
                raise Killed
            return network(x)

        return Pipeline(pipe.plan, TABLE, [Member(counted)], "cpu", "fp32")

    counting(None).run(source, "case", [LabelFile(tmp_path / "again.nii", key="k")])
    every = counts["now"]
    path, limit = tmp_path / "killed.nii", every * calls // 10 + 1
    with pytest.raises(Killed):
        counting(limit).run(source, "case", [LabelFile(path, key="k")])
    assert not path.exists()
    counting(None).run(source, "case", [LabelFile(path, key="k")])
    assert counts["now"] < every if calls > 1 else counts["now"] <= every
    assert path.read_bytes() == (tmp_path / "whole.nii").read_bytes()
    assert not partial.folder_of(path).exists()


def test_what_was_made_of_something_else_is_not_gone_on_with(
    tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "NOTED_S", 0.0)
    shape = (30, 26, 40)
    source = of_file(tmp_path / "a.nii", picture(shape)[0], turned(shape, *TURNS[0]))
    path, folder = tmp_path / "out.nii", partial.folder_of(tmp_path / "out.nii")
    pipe, sink = pipeline(3), LabelFile(path, key="one")
    frame, _ = pipe.maps(source, "case")
    with pytest.raises(Killed), sink.open(frame) as take:
        take(sinks.Slab(slice(0, 2), None, np.full(_rows(frame, 2), 1, np.uint8)))
        raise Killed
    assert sink.done(frame) == 2
    assert LabelFile(path, key="two").done(frame) == 0
    assert LabelFile(path).done(frame) == 0
    pipe.run(source, "case", [LabelFile(path, key="two")])
    pipe.run(source, "case", [LabelFile(tmp_path / "plain.nii")])
    assert path.read_bytes() == (tmp_path / "plain.nii").read_bytes()
    assert not folder.exists()


def _rows(frame: sinks.Frame, count: int) -> tuple[int, ...]:
    return tuple(count if a == frame.axis else n for a, n in enumerate(frame.record.shape))


@pytest.mark.parametrize("damage", ["", "{}", json.dumps({"key": 1})])
def test_a_journal_that_is_damaged_counts_for_nothing(
    damage: str, tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (30, 26, 40)
    source = Source.from_array(picture(shape), turned(shape, *TURNS[0]))
    path, pipe = tmp_path / "out.nii", pipeline(3)
    folder = partial.folder_of(path)
    folder.mkdir()
    (folder / partial.JOURNAL).write_text(damage)
    (folder / partial.LABELS).write_bytes(b"12")
    pipe.run(source, "case", [LabelFile(path, key="k")])
    np.testing.assert_array_equal(read_labels(path)[0], labels_of(pipe, source))


def test_a_label_map_on_disk_reads_like_an_array(tmp_path: Path, large: None) -> None:
    shape = (12, 10, 9)
    source = Source.from_array(picture(shape), turned(shape, *TURNS[2]))
    frame, slabs = pipeline(3).maps(source, "case")
    found = np.zeros(frame.record.shape, np.uint8)
    with open(tmp_path / "labels", "w+b") as file:
        room = partial.LabelRoom(file, frame.record, TABLE, "F")
        for place, _ in slabs:
            part = np.random.default_rng(place.start).integers(0, 3, _rows(frame, place.stop - place.start), np.uint8)
            room.write(place, frame.axis, part)
            found[(slice(None),) * frame.axis + (place,)] = part
        from medseg.preprocess.prepare import restore_labels

        np.testing.assert_array_equal(whole(room), TABLE.to_values(restore_labels(found, frame.record)))
