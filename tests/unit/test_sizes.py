"""Sizes of voxels: each with its unit, compared within a data set, and the likely cause of one that cannot be right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile

from medseg.config import Config
from medseg.errors import DataError, DatasetFaults, Fault
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.cases import open_case_image, read_case_image
from medseg.ingest.manifest import Manifest
from medseg.ingest.run import check, run
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.plan.plan import Grid
from medseg.preprocess.memory import require_fit

RNG = np.random.default_rng(5)


def config(folder: Path, **section: Any) -> Config:
    data = {"layout": "pairs", "path": "data", "labels": {"cell": 1}, "instances": True, "subject": "case"} | section
    return Config.model_validate(
        {
            "experiment": "e",
            "data_root": str(folder),
            "datasets": {"d": data},
            "models": {"m": {"network": "unet"}},
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": 2},
        }
    )


def cell(folder: Path, name: str, size: float | None, unit: str = "um") -> None:
    """A picture with three cells; ``size``: of a pixel, as ImageJ writes it."""
    for part in ("images", "masks"):
        (folder / "data" / part).mkdir(parents=True, exist_ok=True)
    pixels, labels = RNG.integers(0, 4000, (60, 70)).astype(np.uint16), np.zeros((60, 70), np.uint16)
    for number, at in enumerate((5, 25, 45), start=1):
        labels[at : at + 9, at : at + 9] = number
    options: dict[str, Any] = {}
    if size is not None:
        options = {"imagej": True, "resolution": (1 / size, 1 / size), "metadata": {"unit": unit}}
    tifffile.imwrite(folder / "data" / "images" / f"{name}.tif", pixels, **options)
    tifffile.imwrite(folder / "data" / "masks" / f"{name}.tif", labels)


def faults(folder: Path, **section: Any) -> list[Fault]:
    with pytest.raises(DatasetFaults) as caught:
        check(config(folder, **section), "d")
    return list(caught.value.faults)


def checked(folder: Path, **section: Any) -> Manifest:
    return check(config(folder, **section), "d")


def followed(fault: Fault) -> list[str]:
    """The ways out that a fault prints, between back quotes."""
    return re.findall(r"`([a-z]+: [^`]+)`", fault.fix)


def as_section(line: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(line)
    return found


def test_a_set_with_and_without_sizes_is_one_fault_whose_ways_out_work(tmp_path: Path) -> None:
    for k in range(6):
        cell(tmp_path, f"f{k}", 0.325 if k < 3 else None)
    (fault,) = faults(tmp_path)
    assert (fault.code, fault.case) == ("unit", "-")
    assert "3 of 6 cases state no voxel size (f3, f4, f5), the others do (f0, f1, f2; 0.325 x 0.325 um)" in fault.cause
    ways = followed(fault)
    assert ways == ["spacing: [0.325, 0.325]", "sizes: pixels", "exclude: [f3, f4, f5]"]
    units = [{case.geometry.unit for case in checked(tmp_path, **as_section(way)).cases} for way in ways]
    assert units == [{"um"}, {"px"}, {"um"}]
    assert len(faults(tmp_path, allow=["empty-label"])) == 1


def test_pixels_everywhere_and_sizes_everywhere_are_sound(tmp_path: Path) -> None:
    for k in range(4):
        cell(tmp_path, f"f{k}", None)
    assert {case.geometry.unit for case in checked(tmp_path).cases} == {"px"}
    for k in range(4):
        cell(tmp_path, f"f{k}", 0.3 + 0.2 * k)
    assert {case.geometry.unit for case in checked(tmp_path).cases} == {"um"}


def test_spacing_may_be_in_millimetres(tmp_path: Path) -> None:
    for k in range(4):
        cell(tmp_path, f"f{k}", None)
    manifest = checked(tmp_path, spacing=[0.002, 0.001], unit="mm")
    assert {case.geometry.spacing for case in manifest.cases} == {(2.0, 1.0)}
    assert manifest.cases[0].geometry.unit == "um"
    assert manifest.reading.spacing_um == (2.0, 1.0)


@pytest.mark.parametrize(
    ("size", "unit", "cause"),
    [
        (1 / 300, "inch", "a voxel of 84.67 x 84.67 um is 261 times larger .*300 dots per inch"),
        (0.325, "cm", "1e+04 times larger .*centimetres taken for micrometres"),
        (0.325, "mm", "1e+03 times larger .*millimetres taken for micrometres"),
        (0.325, "nm", "1e+03 times smaller .*micrometres for nanometres"),
        (2.0, "um", "6.15 times larger"),
    ],
)
def test_a_size_far_from_the_others_is_flagged_with_its_cause(
    size: float, unit: str, cause: str, tmp_path: Path
) -> None:
    for k in range(5):
        cell(tmp_path, f"f{k}", 0.325)
    cell(tmp_path, "f5", size, unit)
    (fault,) = faults(tmp_path)
    assert (fault.code, fault.case, fault.file) == ("voxel-size", "f5", "images/f5.tif")
    assert re.search(cause.replace("+", r"\+"), fault.cause)
    assert "the median of the data set (0.325 x 0.325 um)" in fault.cause
    assert len(checked(tmp_path, exclude=["f5"]).cases) == 5
    assert len(checked(tmp_path, allow=["voxel-size"]).cases) == 6
    every = checked(tmp_path, sizes="spacing", spacing=[0.325, 0.325])
    assert {case.geometry.spacing for case in every.cases} == {(0.325, 0.325)}
    np.testing.assert_array_equal(
        read_case_image(every.case("f5"), tmp_path / "data")[0],
        tifffile.imread(tmp_path / "data" / "images" / "f5.tif"),
    )
    assert open_case_image(every.case("f5"), tmp_path / "data").geometry == every.case("f5").geometry


@pytest.mark.parametrize("size", [0.07, 1.6])
def test_other_magnifications_are_no_fault(size: float, tmp_path: Path) -> None:
    for k in range(5):
        cell(tmp_path, f"f{k}", 0.325)
    cell(tmp_path, "f5", size)
    assert len(checked(tmp_path).cases) == 6


def volume(folder: Path, name: str, spacing: tuple[float, ...], unit: str = "mm", axes: str = "xyz") -> None:
    for part in ("images", "masks"):
        (folder / "data" / part).mkdir(parents=True, exist_ok=True)
    shape = {"xyz": (20, 18, 12), "zxy": (12, 20, 18)}[axes]
    affine = np.diag([*spacing, 1.0])
    labels = np.zeros(shape, np.int16)
    labels[4:8, 4:8, 4:8], labels[9:11, 12:14, 9:11] = 1, 2
    for part, values in (("images", RNG.integers(0, 900, shape).astype(np.int16)), ("masks", labels)):
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units({"mm": "mm", "um": "micron"}[unit])
        nibabel.save(image, folder / "data" / part / f"{name}.nii.gz")


def test_slices_of_any_thickness_and_direction_are_no_fault(tmp_path: Path) -> None:
    for k, thickness in enumerate((0.7, 1.0, 1.0, 1.25, 2.5, 5.0, 8.0)):
        volume(tmp_path, f"v{k}", (0.8, 0.8, thickness))
    volume(tmp_path, "v7", (5.0, 0.8, 0.8), axes="zxy")
    assert len(checked(tmp_path).cases) == 8


def test_millimetres_and_micrometres_are_converted(tmp_path: Path) -> None:
    for k in range(3):
        volume(tmp_path, f"v{k}", (0.8, 0.8, 2.0))
    volume(tmp_path, "v3", (800.0, 800.0, 2000.0), "um")
    manifest = checked(tmp_path)
    assert {case.geometry.unit for case in manifest.cases} == {"mm"}
    assert manifest.case("v3").geometry.spacing == pytest.approx((0.8, 0.8, 2.0))
    # Read as it is: nothing is resampled between units.
    image = read_case_image(manifest.case("v3"), tmp_path / "data")
    stored = np.asarray(nibabel.load(tmp_path / "data" / "images" / "v3.nii.gz").dataobj)
    np.testing.assert_array_equal(image[0], stored)
    source = open_case_image(manifest.case("v3"), tmp_path / "data")
    assert source.geometry == manifest.case("v3").geometry
    run(config(tmp_path), "d", tmp_path / "out")


def test_volumes_with_and_without_a_world_do_not_mix(tmp_path: Path) -> None:
    """Axis Z of a TIFF is the first of three, axis X of a NIfTI is."""
    for k in range(3):
        volume(tmp_path, f"v{k}", (0.8, 0.8, 2.0))
    grid = Geometry.from_spacing((12, 18, 20), (2000.0, 800.0, 800.0), "um")
    labels = np.zeros(grid.shape, np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    write_labels(tmp_path / "data" / "images" / "w.tif", RNG.integers(0, 250, grid.shape).astype(np.uint8), grid)
    write_labels(tmp_path / "data" / "masks" / "w.tif", labels, grid)
    (fault,) = faults(tmp_path)
    assert (fault.code, fault.case) == ("dims-mismatch", "w")
    assert "no directions in the world (axes Z, Y, X), unlike most" in fault.cause


def test_a_grid_in_millimetres_is_written_to_tiff_in_micrometres(tmp_path: Path) -> None:
    from medseg.formats.read import read_labels

    grid = Geometry.from_spacing((6, 5), (0.002, 0.001), "mm")
    write_labels(tmp_path / "a.tif", np.eye(6, 5, dtype=np.uint8), grid)
    found = read_labels(tmp_path / "a.tif")[1]
    assert (found.unit, found.spacing) == ("um", pytest.approx((2.0, 1.0)))
    assert grid.corner_distance_voxels(found) < 1e-9


def test_a_range_says_what_is_beyond_it() -> None:
    sizes = VoxelSizes.of(Geometry.from_spacing((9, 9, 9), (s, s, 5 * s), "mm") for s in (0.5, 1.0))
    assert str(sizes) == "0.5-1 x 0.5-1 x 2.5-5 mm"
    for spacing, unit, found in (
        ((4.9, 4.9, 9.0), "mm", ""),
        ((0.11, 0.11, 0.3), "mm", ""),
        ((5.1, 5.1, 9.0), "mm", "5.1 times larger"),
        ((0.09, 0.09, 1.0), "mm", "5.56 times smaller"),
        ((1.0, 1.0, 51.0), "mm", "10.2 times larger"),
        ((500.0, 500.0, 2500.0), "um", ""),
        ((5.0, 5.0, 25.0), "um", "100 times smaller"),
        ((1.0, 1.0, 1.0), "px", ""),
    ):
        doubt = sizes.doubt(Geometry.from_spacing((9, 9, 9), spacing, unit), "those of the model's training")
        assert found in doubt, (spacing, unit)
        assert bool(doubt) == bool(found), (spacing, unit, doubt)


def test_the_middle_of_two_halves_is_between_them() -> None:
    sizes = VoxelSizes.of(Geometry.from_spacing((9, 9), (s, s), "um") for s in (0.3, 0.3, 30.0, 30.0))
    assert sizes.middle.low == pytest.approx((3.0, 3.0))
    assert VoxelSizes.of(Geometry.from_spacing((9, 9), (s, s), "um") for s in (0.1, 0.3, 0.3, 9.0)).median == (0.3, 0.3)


def test_a_case_that_does_not_fit_names_its_voxel_size(tmp_path: Path) -> None:
    """84.67 um are the cause; the memory that their resampling takes is the symptom."""
    for k in range(5):
        cell(tmp_path, f"f{k}", 0.325)
    cell(tmp_path, "f5", 1 / 300, "inch")
    cases = checked(tmp_path, allow=["voxel-size"]).cases
    grid = Grid("um", False, (0.325, 0.325), ("percentile",), ({},))
    with pytest.raises(DataError) as caught:
        require_fit({"f5": 231 * 10**9, "f1": 10**6}, 10 * 10**9, cases, grid)
    words = str(caught.value)
    assert "case 'f5': voxels of 84.67 x 84.67 um are resampled to 0.325 x 0.325 um" in words
    assert "300 dots per inch" in words
    assert "host_gb" not in words
    with pytest.raises(DataError, match="host_gb"):
        require_fit({"f1": 231 * 10**9}, 10 * 10**9, cases, grid)
