"""Axes and channels of a data set: declared once, followed by check, manifest and every later reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from medseg.errors import DatasetFaults, Fault
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.cases import open_case_image, read_case_image, reading_facts
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.run import check, run
from medseg.reading import Reading
from tests.unit.test_sizes import config

RNG = np.random.default_rng(3)


def planes(count: int) -> np.ndarray:
    """A stack whose planes differ by orders of magnitude."""
    return np.stack([RNG.integers(1, 40 * 8**k, (40, 44)) for k in range(count)]).astype(np.uint16)


def write(folder: Path, stacks: list[np.ndarray], names: list[list[str]] | None = None, **options: Any) -> None:
    labels = np.zeros((40, 44), np.uint8)
    labels[4:12, 4:12], labels[20:30, 20:30] = 1, 2
    for k, stack in enumerate(stacks):
        image = folder / "data" / "images" / (f"f{k}.ome.tif" if names else f"f{k}.tif")
        image.parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / "masks").mkdir(parents=True, exist_ok=True)
        metadata = {"axes": "CYX", "Channel": {"Name": names[k]}} if names else None
        tifffile.imwrite(image, stack, photometric="minisblack", metadata=metadata, ome=bool(names) or None, **options)
        tifffile.imwrite(folder / "data" / "masks" / f"f{k}.tif", labels)


def checked(folder: Path, **section: Any) -> Manifest:
    return check(config(folder, **section), "d")


def faults(folder: Path, **section: Any) -> list[Fault]:
    with pytest.raises(DatasetFaults) as caught:
        check(config(folder, **section), "d")
    return list(caught.value.faults)


def image_of(manifest: Manifest, folder: Path, case: str = "f0") -> np.ndarray:
    image = read_case_image(manifest.case(case), folder / "data")
    source = open_case_image(manifest.case(case), folder / "data")
    np.testing.assert_array_equal(source.read([slice(3, 9), slice(None)]), image[:, 3:9])
    return image


def test_undeclared_pages_of_flat_labels_are_one_fault_whose_advice_works(tmp_path: Path) -> None:
    stacks = [planes(2) for _ in range(3)]
    write(tmp_path, stacks)
    found = faults(tmp_path)
    assert [f.code for f in found] == ["tiff-pages"] * 3
    assert "the label map is one plane, so they may be channels: `axes: CYX`" in found[0].cause
    assert {f.code for f in faults(tmp_path, allow=["tiff-pages"])} == {"shape-mismatch"}
    manifest = checked(tmp_path, axes="CYX")
    assert manifest.channels == ("channel0", "channel1")
    assert manifest.dims == 2
    np.testing.assert_array_equal(image_of(manifest, tmp_path), stacks[0])


def test_what_was_declared_is_in_the_manifest_and_in_the_keys(tmp_path: Path) -> None:
    stacks = [planes(3) for _ in range(3)]
    write(tmp_path, stacks)
    section = {"axes": "CYX", "channels": {"b": 2, "a": 0}}
    run(config(tmp_path, **section), "d", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "manifest.tsv")
    assert manifest.channels == ("b", "a")
    assert manifest.reading == Reading(axes="CYX", channels=(2, 0), names=("b", "a"))
    case = manifest.case("f1")
    assert case.reading == Reading(axes="CYX", channels=(2, 0))
    np.testing.assert_array_equal(image_of(manifest, tmp_path, "f1"), stacks[1][[2, 0]])
    other = checked(tmp_path, axes="CYX", channels={"b": 0, "a": 2})
    assert reading_facts(case, manifest.labels) != reading_facts(other.case("f1"), other.labels)


def test_nothing_declared_leaves_nothing_in_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, [planes(1)[0] for _ in range(3)])
    manifest = checked(tmp_path)
    assert {case.reading for case in manifest.cases} == {Reading()}
    assert "reading" not in reading_facts(manifest.cases[0], manifest.labels)


def test_channels_are_called_as_the_files_call_them(tmp_path: Path) -> None:
    stacks = [planes(3) for _ in range(3)]
    write(tmp_path, stacks, [["DAPI", "GFP", "Cy5"]] * 3)
    assert checked(tmp_path).channels == ("DAPI", "GFP", "Cy5")
    manifest = checked(tmp_path, channels=["Cy5", "DAPI"])
    assert manifest.channels == ("Cy5", "DAPI")
    np.testing.assert_array_equal(image_of(manifest, tmp_path), stacks[0][[2, 0]])
    manifest = checked(tmp_path, channels={"nuclei": "DAPI"})
    assert manifest.channels == ("nuclei",)
    np.testing.assert_array_equal(image_of(manifest, tmp_path), stacks[0][:1])


def test_files_in_another_order_are_a_fault_whose_advice_works(tmp_path: Path) -> None:
    stacks = [planes(2) for _ in range(4)]
    stacks[3] = stacks[3][::-1]
    write(tmp_path, stacks, [["DAPI", "GFP"]] * 3 + [["GFP", "DAPI"]])
    (fault,) = faults(tmp_path)
    assert (fault.code, fault.case) == ("channel-order", "f3")
    assert "calls its channels GFP, DAPI; most have DAPI, GFP" in fault.cause
    assert "`channels: [DAPI, GFP]`" in fault.fix
    manifest = checked(tmp_path, channels=["DAPI", "GFP"])
    np.testing.assert_array_equal(image_of(manifest, tmp_path, "f3"), stacks[3][::-1])
    # By number, one of them would be another stain.
    assert [f.code for f in faults(tmp_path, channels={"nuclei": 0})] == ["channel-order"]
    assert len(checked(tmp_path, channels={"nuclei": "DAPI"}).cases) == 4


def test_more_channels_than_names_are_refused_with_a_choice(tmp_path: Path) -> None:
    write(tmp_path, [planes(3) for _ in range(3)], [["DAPI", "GFP", "Cy5"]] * 3)
    found = faults(tmp_path, channels=["DAPI", "membrane"])
    assert {f.code for f in found} == {"channels"}
    assert "3 channels (DAPI, GFP, Cy5) of 40 x 44 voxels, expected 2 (DAPI, membrane)" in found[0].cause
    assert "`channels: {DAPI: DAPI, membrane: 1}`" in found[0].fix
    assert checked(tmp_path, channels={"DAPI": "DAPI", "membrane": 1}).channels == ("DAPI", "membrane")


@pytest.mark.parametrize(("wanted", "channels"), [("grey", ("grey",)), ("rgb", ("red", "green", "blue"))])
def test_grey_beside_colour_is_brought_together_on_request(
    wanted: str, channels: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path, [planes(1)[0] for _ in range(4)])
    colours = np.moveaxis(planes(3), 0, -1)
    tifffile.imwrite(tmp_path / "data" / "images" / "f3.tif", colours, photometric="rgb", metadata=None)
    found = faults(tmp_path)
    assert [f.case for f in found] == ["f3"]
    assert "`channels: grey` or `channels: rgb`" in found[0].fix
    manifest = checked(tmp_path, channels=wanted)
    assert manifest.channels == channels
    assert {image_of(manifest, tmp_path, f"f{k}").shape[0] for k in range(4)} == {len(channels)}


def test_files_per_channel_are_chosen_too(tmp_path: Path) -> None:
    """By number or by the name that the data set gives."""
    import json

    grid = Geometry.create((12, 11, 10), np.diag([1.0, 1.0, 2.0, 1.0]))
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:5, 2:5, 2:5], labels[7:9, 7:9, 7:9] = 1, 2
    parts = []
    for k in range(3):
        parts.append([RNG.integers(0, 90 * 20**c, grid.shape).astype(np.int16) for c in range(3)])
        for c, values in enumerate(parts[-1]):
            write_labels(tmp_path / "data" / "imagesTr" / f"p{k}_000{c}.nii.gz", values, grid)
        write_labels(tmp_path / "data" / "labelsTr" / f"p{k}.nii.gz", labels, grid)
    index = {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}, "numTraining": 3, "file_ending": ".nii.gz"}
    index["labels"] = {"background": 0, "a": 1, "b": 2}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(index))
    section = {"layout": "nnunet", "labels": None, "instances": False}
    for wanted in ({"late": "FLAIR", "early": 0}, {"late": 2, "early": "T1"}):
        manifest = checked(tmp_path, **section, channels=wanted)
        assert manifest.channels == ("late", "early")
        image = read_case_image(manifest.case("p1"), tmp_path / "data")
        np.testing.assert_array_equal(image, np.stack([parts[1][2], parts[1][0]]))
    found = faults(tmp_path, **section, channels={"x": "PD"})
    assert {f.code for f in found} == {"channels"}
    assert "no channel 'PD': there are 3 files: T1, T2, FLAIR" in found[0].cause
