"""Large images are predicted slab by slab: the same labels as all at once, within bounded memory, and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.engine.build import build_network
from medseg.errors import DataError, ImagesFailed, PredictionError
from medseg.formats.errors import FormatError
from medseg.formats.limits import spooling
from medseg.formats.pieces import Pieces
from medseg.formats.plain import whole
from medseg.formats.read import open_image, read_labels
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.intensity import NORMALIZATIONS
from medseg.image.labels import LabelTable
from medseg.ingest.doubts import doubts_of_slabs, voxel_doubts
from medseg.predict import disk, files, memory, partial, scale, sinks, voxels
from medseg.predict.members import Member
from medseg.predict.pipeline import Pipeline
from medseg.predict.sinks import LabelFile, LabelMap
from medseg.preprocess import rows
from medseg.preprocess.prepare import prepare_image
from medseg.train.checkpoint import Checkpoint, write_checkpoint
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


def test_a_command_that_was_killed_goes_on(model: Path, tmp_path: Path, large: None, monkeypatch: Any) -> None:
    """With all that a command keeps beside the label map."""
    monkeypatch.setattr(partial, "NOTED_S", 0.0)
    images = channel_files(tmp_path / "in", ".nii", (24, 28, 90))
    (expected,) = files.predict_files(images, model, tmp_path / "whole")
    calls, real = list[int](), Member.__call__

    def counted(self: Member, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == limit:
            raise Killed
        return real(self, x)

    monkeypatch.setattr(Member, "__call__", counted)
    limit = 0
    files.predict_files(images, model, tmp_path / "counted")
    every, limit = len(calls), len(calls) * 2 // 3
    calls.clear()
    with pytest.raises(Killed):
        files.predict_files(images, model, tmp_path / "killed")
    calls.clear()
    limit = 0
    (found,) = files.predict_files(images, model, tmp_path / "killed")
    assert len(calls) < every
    assert found.read_bytes() == expected.read_bytes()


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


def test_a_killed_process_is_gone_on_with(tmp_path: Path, large: None) -> None:
    """By a signal, in the middle of the network's calls; then the same command once more."""
    script, image, out = tmp_path / "predict.py", tmp_path / "image.nii", tmp_path / "killed.nii"
    script.write_text(PROCESS)
    shape = (28, 34, 90)
    write_labels(image, picture(shape)[0], turned(shape, *TURNS[1]))
    pipe, calls = pipeline(3), list[int]()

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return pipe.members[0].network(x)

    counting = Pipeline(pipe.plan, TABLE, [Member(counted)], "cpu", "fp32")
    counting.run(open_image(image), "case", [LabelFile(tmp_path / "whole.nii")])
    words = [sys.executable, str(script), str(image), str(out)]
    # It imports this very file.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed = subprocess.run([*words, str(len(calls) * 2 // 3)], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    again = subprocess.run([*words, "0"], stdout=subprocess.PIPE, check=True, env=environment)
    assert int(again.stdout) < len(calls)
    assert out.read_bytes() == (tmp_path / "whole.nii").read_bytes()
    assert not partial.folder_of(out).exists()


# A process of its own predicts an image (1) into a file (2), and is killed at the nth call of the network (3).
PROCESS = """
import os, signal, sys
from pathlib import Path

from medseg.formats.read import open_image
from medseg.predict import partial, scale, sinks
from medseg.predict.members import Member
from medseg.predict.pipeline import Pipeline
from tests.unit.test_bounded import TABLE, pipeline

scale.LARGE = sinks.HELD_VOXELS = scale.ROOMY = 0
partial.NOTED_S = 0.0
image, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
pipe, calls = pipeline(3), 0

def network(x):
    global calls
    calls += 1
    if calls == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return pipe.members[0].network(x)

Pipeline(pipe.plan, TABLE, [Member(network)], "cpu", "fp32").run(
    open_image(image), "case", [sinks.LabelFile(out, key="k")]
)
print(calls)
"""


def test_an_image_that_is_at_fault_leaves_nothing(tmp_path: Path, large: None) -> None:
    shape = (30, 26, 40)
    source = Source.from_array(picture(shape), turned(shape, *TURNS[0]))
    pipe = pipeline(3)
    broken = Pipeline(pipe.plan, TABLE, [Member(lambda x: x.repeat(1, 3, 1, 1, 1) / 0 * 0)], "cpu", "fp32")
    with pytest.raises(PredictionError, match="not finite"):
        broken.run(source, "case", [LabelFile(tmp_path / "o" / "a.nii", key="k")])
    assert list((tmp_path / "o").iterdir()) == []


def test_voxels_that_are_no_numbers_are_counted(large: None) -> None:
    image = picture((40, 30), dtype="float32")
    image[0, [3, 20], 5] = np.nan
    source = Source.from_array(image, Geometry.from_spacing((40, 30), (1.0, 1.0)))
    with pytest.raises(DataError, match="case: 2 voxels are NaN"):
        labels_of(pipeline(2), source)


# Image files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of volumes with two channels."""
    torch.manual_seed(0)
    plan = tiny_plan("unet", 3, in_channels=2, normalization=("zscore", "percentile"), statistics=({}, {}))
    checkpoint = Checkpoint("d", ("a", "b"), TABLE, plan, 0, 0, "f", {})
    write_checkpoint(tmp_path / "model", checkpoint, build_network(plan))
    return tmp_path / "model"


def channel_files(folder: Path, suffix: str, shape: tuple[int, ...] = (24, 20, 40)) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for number, values in enumerate(picture(shape, 2)):
        write_labels(folder / f"c_000{number}{suffix}", values, turned(shape, *TURNS[1]))
    return [folder]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_files_of_channels_are_read_by_box(
    suffix: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = channel_files(tmp_path / "in", suffix)
    (expected,) = files.predict_files(images, model, tmp_path / "whole")
    request.getfixturevalue("large")
    monkeypatch.setattr(files, "LARGE", 0)

    def refused(self: Source) -> np.ndarray:
        raise AssertionError("read whole")

    monkeypatch.setattr(Source, "image", refused)
    (found,) = files.predict_files(images, model, tmp_path / "slabs")
    assert found.read_bytes() == expected.read_bytes()
    assert not [path for path in found.parent.iterdir() if path.name.endswith(".part")]


def test_what_is_unpacked_on_disk_is_checked_as_in_memory(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii.gz", picture((9, 8, 7))[0], turned((9, 8, 7), *TURNS[0]))
    data = (tmp_path / "a.nii.gz").read_bytes()
    expected = open_image(tmp_path / "a.nii.gz").image()
    with spooling(0):
        np.testing.assert_array_equal(open_image(tmp_path / "a.nii.gz").image(), expected)
        for damaged in (data[:-9], data[:-4] + b"abcd", data + b"more", data[:60] + b"\0" + data[61:]):
            (tmp_path / "b.nii.gz").write_bytes(damaged)
            with pytest.raises(FormatError):
                open_image(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("fill", [None, -5.0])
def test_doubts_about_voxels_are_the_same_slab_by_slab(fill: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "READ_VOXELS", 40)
    source = np.random.default_rng(0)
    for number in range(30):
        image = source.choice([0.0, 1.0, 7.0][: 1 + number % 3], size=(2, 9, 8)).astype(np.float32)
        image[1] = image[1] if number % 2 else 5.0
        image[source.random(image.shape) < 0.02 * (number % 4)] = source.choice([np.nan, np.inf, -np.inf])
        one = Source.from_array(image, Geometry.from_spacing((9, 8), (1.0, 1.0)))
        slabs = ((voxels._start(one, axis, place), part) for axis, place, part in rows.slabs(one))
        assert list(doubts_of_slabs(slabs, fill)) == list(voxel_doubts(image, fill))


# What it takes


def test_a_dry_run_says_what_an_image_takes_and_predicts_none(
    model: Path, tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGE", 0)
    monkeypatch.setattr(disk, "HELD_VOXELS", 0)
    channel_files(tmp_path / "in", ".nii.gz")
    words = ["predict", str(tmp_path / "in"), "--model", str(model), "-o", str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    said = r"c_0000\.nii\.gz and 1 more: 24 x 20 x 40 voxels, slab by slab: \d+\.\d\d GB of memory at most"
    assert re.search(said, result.output)
    assert "of disk for a while" in result.output
    assert not (tmp_path / "out").exists()


def test_memory_grows_with_the_plane_and_not_with_the_image(large: None) -> None:
    plan = pipeline(3).plan
    short, tall, wide = (
        Source.from_array(np.broadcast_to(np.uint8(1), (1, *shape)), turned(shape, *TURNS[0]))
        for shape in ((400, 400, 400), (400, 400, 4000), (1600, 1600, 400))
    )
    needs = [memory.streamed_bytes(1, replace(one, stored=Lazy(one)), plan)[0] for one in (short, tall, wide)]
    assert needs[0] == needs[1]
    assert needs[0] < needs[2] < 16 * needs[0]


class Lazy:
    """Voxels that no memory holds."""

    def __init__(self, source: Source) -> None:
        self.shape, self.dtype = source.stored.shape, source.stored.dtype
        self.pieces = Pieces(2, (1, 1, 1))

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        raise AssertionError("only its header is looked at")


def test_a_disk_that_is_too_small_is_said_before(
    model: Path, tmp_path: Path, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_disk", lambda folder: 1000)
    monkeypatch.setattr(disk, "HELD_VOXELS", 0)
    images = channel_files(tmp_path / "in", ".nii")
    with pytest.raises(ImagesFailed, match=r"needs about 0\.0 GB of disk for a while, and .*out has 0\.0 GB left"):
        files.predict_files(images, model, tmp_path / "out")


def test_slabs_are_cut_where_the_file_is_read_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pipeline(3).plan
    shape = (200, 200, 200)
    volume = Source.from_array(np.zeros((1, *shape), np.uint8, order="F"), turned(shape, *TURNS[1]))
    axes, _ = canonical_axes(volume.geometry)
    # Of a NIfTI the last axis of the file is the slowest, wherever it points.
    assert axes[scale.streamed_axis(volume, shape, plan)] == 2
    # Windows along a short axis would hold nearly all of the image.
    monkeypatch.setattr(scale, "ROOMY", 0)
    flat = (2000, 2000, 20)
    thick = Source.from_array(np.broadcast_to(np.uint8(0), (1, *flat)), turned(flat, *TURNS[0]))
    assert scale.streamed_axis(replace(thick, stored=Lazy(thick)), flat, plan) != 2


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
