"""Under `instances: true`, numbers are checked to be objects; what was found is printed with counts."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.measure import label

from medseg.errors import DatasetFaults, Fault
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.run import check
from tests.unit.test_sizes import config, followed

RNG = np.random.default_rng(9)
PIXELS = Geometry.from_spacing((96, 112), (1.0, 1.0))


def cells(count: int = 9) -> np.ndarray:
    """Numbered discs that touch nowhere."""
    numbers = np.zeros(PIXELS.shape, np.uint16)
    y, x = np.ogrid[:96, :112]
    for k in range(count):
        row, column = 14 + 30 * (k // 3), 16 + 36 * (k % 3)
        numbers[(y - row) ** 2 + (x - column) ** 2 <= int(RNG.integers(36, 81))] = k + 1
    return numbers


def written(folder: Path, change: Callable[[np.ndarray], np.ndarray], cases: int = 4, changed: int = 4) -> None:
    for k in range(cases):
        numbers = cells()
        numbers = change(numbers) if k < changed else numbers
        for part, values in (("images", RNG.integers(1, 250, PIXELS.shape).astype(np.uint8)), ("masks", numbers)):
            path = folder / "data" / part / f"f{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(imagecodecs.png_encode(values.astype(np.uint8)))


def faults(folder: Path, **section: Any) -> list[Fault]:
    with pytest.raises(DatasetFaults) as caught:
        check(config(folder, **section), "d")
    return list(caught.value.faults)


def binary(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers > 0, 255, 0)


def classes(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers > 0, numbers % 2 + 1, 0)


def jpeg(numbers: np.ndarray) -> np.ndarray:
    """A binary mask that once was a JPEG file."""
    out = io.BytesIO()
    Image.fromarray(binary(numbers).astype(np.uint8)).save(out, "JPEG", quality=80)
    return np.asarray(Image.open(out))


def test_a_binary_mask_is_named_and_both_ways_out_work(tmp_path: Path) -> None:
    written(tmp_path, binary)
    found = faults(tmp_path)
    assert [(f.code, f.case) for f in found] == [("not-objects", f"f{k}") for k in range(4)]
    assert "one object, number 255, in 9 parts: looks like a binary mask" in found[0].cause
    ways = followed(found[0])
    assert ways == ["instances: false", "labels: {cell: 255}"]
    manifest = check(config(tmp_path, **yaml.safe_load(ways[0]), **yaml.safe_load(ways[1])), "d")
    assert not manifest.labels.instances
    for path in sorted((tmp_path / "data" / "masks").iterdir()):
        mask = imagecodecs.png_decode(path.read_bytes())
        parts = eval(found[0].fix.split("`")[1], {"skimage": __import__("skimage.measure"), "mask": mask})
        np.testing.assert_array_equal(parts, label(mask, connectivity=1))
        path.write_bytes(imagecodecs.png_encode(parts.astype(np.uint8)))
    assert check(config(tmp_path), "d").labels.instances


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (classes, "2 numbers (1 to 2) in 9 parts: looks like a map of classes or of intensities"),
        (jpeg, "looks like a mask that was stored with loss (JPEG), its values crowd at 0 and 255"),
    ],
)
def test_maps_that_number_nothing(change: Callable[[np.ndarray], np.ndarray], words: str, tmp_path: Path) -> None:
    written(tmp_path, change)
    found = faults(tmp_path)
    assert {f.code for f in found} == {"not-objects"}
    assert len(found) == 4
    assert words in found[0].cause
    assert len(check(config(tmp_path, allow=["not-objects"]), "d").cases) == 4


def test_one_binary_mask_among_numbered_ones(tmp_path: Path) -> None:
    written(tmp_path, binary, changed=1)
    assert [f.case for f in faults(tmp_path)] == ["f0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda numbers: numbers,
        lambda numbers: np.where(numbers == 5, 1, 0),
        lambda numbers: np.where(numbers == 5, 255, 0),
        lambda numbers: np.where(np.arange(112) % 60 == 30, 0, numbers),
    ],
    ids=["numbered", "one object", "one object of 255", "objects cut in two"],
)
def test_objects_are_no_fault(change: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    written(tmp_path, change)
    assert len(check(config(tmp_path), "d").cases) == 4


def test_slices_that_were_numbered_one_by_one_are_no_fault(tmp_path: Path) -> None:
    """Each number has a part in every slice; binary volumes have many parts in one."""
    grid = Geometry.from_spacing((5, 96, 112), (1.0, 1.0, 1.0), "um")
    for k in range(3):
        numbers = np.stack([np.roll(cells(), 30 * z, axis=1) for z in range(5)])
        for part, values in (("images", RNG.integers(1, 250, grid.shape)), ("masks", numbers)):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            write_labels(tmp_path / "data" / part / f"f{k}.tif", values.astype(np.uint8), grid)
    assert len(check(config(tmp_path), "d").cases) == 3
    write_labels(tmp_path / "data" / "masks" / "f0.tif", (numbers > 0).astype(np.uint8), grid)
    (fault,) = faults(tmp_path)
    assert (fault.code, fault.case) == ("not-objects", "f0")


def test_the_summary_counts_objects_and_what_is_strange(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def strange(numbers: np.ndarray) -> np.ndarray:
        numbers[numbers == 9] = 1
        numbers[95, 111] = 40
        numbers[95, 0] = 41
        return numbers

    def large(numbers: np.ndarray) -> np.ndarray:
        numbers[:] = 0
        numbers[:60, :60] = 3
        return numbers

    written(tmp_path, strange, cases=5, changed=2)
    path = tmp_path / "data" / "masks" / "f4.png"
    path.write_bytes(imagecodecs.png_encode(large(cells()).astype(np.uint8)))
    check(config(tmp_path), "d")
    told = capfd.readouterr().err
    assert "objects per image 1-10, median 9, 39 in all; diameter median" in told
    assert "2 objects in several parts far from one another, in 2 of 5 cases, first object 1 of f0" in told
    assert "4 objects of one voxel, in 2 of 5 cases, first object 40 of f0" in told
    assert "1 object larger than 25% of the image, in 1 of 5 cases, first object 3 of f4" in told


def test_sizes_of_objects_have_the_unit_of_the_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid = Geometry.from_spacing((40, 40), (0.5, 0.5), "um")
    for k in range(2):
        numbers = np.zeros(grid.shape, np.uint8)
        numbers[4:14, 4:14] = 1
        for part, values in (("images", RNG.integers(1, 250, grid.shape).astype(np.uint8)), ("masks", numbers)):
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            write_labels(tmp_path / "data" / part / f"f{k}.tif", values, grid)
    check(config(tmp_path), "d")
    diameter = 2 * np.sqrt(100 * 0.25 / np.pi)
    assert f"objects per image 1, median 1, 2 in all; diameter median {diameter:.4g} um" in capfd.readouterr().err
