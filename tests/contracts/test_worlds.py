"""A prediction lies where its image does, whichever program opens both: 0 mm apart, at every corner, for every row of
FORMATS and every header that programs read in ways of their own. And nothing of a patient goes from one to the other.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile

from medseg.config import Config
from medseg.evaluate.predicted import read_prediction
from medseg.files import sha256_file
from medseg.formats.read import open_image
from medseg.formats.source import Source
from medseg.formats.table import FOLDER, FORMATS, label_suffix
from medseg.formats.world import About, World
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest import run as ingest
from medseg.ingest.cases import open_case_image
from medseg.ingest.manifest import read_manifest
from medseg.predict.record import PredictedCase
from medseg.predict.sinks import LabelFile
from tests.contracts.awkward import AFFINE, AWKWARD, CANARY, MIRRORED, MOVED, PICTURES, ROUGH, SHAPE, nifti, rough
from tests.stand_in import sink_labels
from tests.zarr_samples import write_zarr

TABLE = LabelTable.create({"liver": 1, "kidney": 2})
# What is in files of other programs than these.
ELSEWHERE = {".dcm", ".zip", FOLDER, ".zarr", ".ome.zarr"}
# Millimetres: positions are printed from numbers that are bit for bit the same.
SAME = 1e-9


def labels_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 3, shape).astype(np.uint8)


def predict(image: Path, out: Path) -> np.ndarray:
    """Write a label map as a prediction of an image is written, and return its values."""
    return predicted(open_image(image), out)


def predicted(source: Source, out: Path) -> np.ndarray:
    """As ``predict``, of an opened image."""
    values = labels_of(source.geometry.shape)
    sink_labels(source, values, TABLE, [LabelFile(out)])
    return values


def corners(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*[(0, n - 1) for n in shape])


def by_nibabel(path: Path, dims: int) -> np.ndarray:
    """Corners of the first ``dims`` axes in mm; nibabel reads NIfTI alone."""
    image: Any = nibabel.load(path)
    shape = image.shape[:dims]
    places = [[*c, *[0] * (3 - dims), 1] for c in corners(shape)]
    return np.array(places) @ image.affine.T


def by_itk(path: Path, dims: int) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    shape, rest = image.GetSize()[:dims], image.GetDimension() - dims
    places = [image.TransformIndexToPhysicalPoint([*c, *[0] * rest]) for c in corners(shape)]
    return np.array([[*place, 0.0][:3] for place in places])


def by_tifffile(path: Path, dims: int) -> np.ndarray:
    """Micrometres per axis of OME-XML or ImageJ, and the resolution tags; TIFF has no places."""
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        tags = [page.tags.valueof(282), page.tags.valueof(283)]
        sizes = [float("nan")] * 3
        if file.is_ome:
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
            unit = {"nm": 1e-3, "µm": 1.0}
            sizes = [
                float(pixels.get(f"PhysicalSize{a}", "nan")) * unit[pixels.get(f"PhysicalSize{a}Unit", "µm")]
                for a in "ZYX"
            ]
        elif file.is_imagej and (file.imagej_metadata or {}).get("unit"):
            sizes = [(file.imagej_metadata or {}).get("spacing", np.nan), *(b / a for a, b in reversed(tags))]
        ratios = [pair[0] / pair[1] if pair else 0.0 for pair in tags]
    unit = page.tags.valueof(296, 1)
    # A unit that does not exist is none.
    return np.array([*sizes[3 - dims :], *ratios, max(1, int(unit)) if tags[0] else 0])


READERS: dict[str, tuple[Callable[[Path, int], np.ndarray], tuple[str, ...]]] = {
    "nibabel": (by_nibabel, (".nii", ".nii.gz", ".hdr")),
    "SimpleITK": (by_itk, tuple(set(FORMATS) - ELSEWHERE)),
    "tifffile": (by_tifffile, (".tif", ".tiff", ".ome.tif", ".ome.tiff")),
}
CASES = [(suffix, name) for suffix, images in AWKWARD.items() for name in images]


def bytes_of(path: Path) -> bytes:
    """All bytes of an output, those of compressed streams unpacked as well."""
    out = b""
    for file in sorted(path.parent.glob(f"{path.name.split('.')[0]}.*")):
        data = file.read_bytes()
        out += data
        for at in range(len(data)):
            if data[at : at + 2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda"):
                try:
                    out += zlib.decompressobj(47).decompress(data[at:])
                except zlib.error:
                    continue
    return out


def test_every_row_is_tested() -> None:
    assert AWKWARD.keys() | ELSEWHERE == FORMATS.keys()


@pytest.mark.parametrize(("suffix", "name"), CASES, ids=[f"{s} {n}" for s, n in CASES])
def test_a_prediction_is_where_its_image_is(suffix: str, name: str, tmp_path: Path) -> None:
    image = tmp_path / f"image{suffix}"
    AWKWARD[suffix][name](image)
    out = tmp_path / f"out{label_suffix(image)}"
    values = predict(image, out)
    source, found = open_image(image), open_image(out)
    np.testing.assert_array_equal(found.labels(), values)
    assert found.geometry == source.geometry
    assert found.notes == source.notes
    assert CANARY.encode() in bytes_of(image) or suffix in PICTURES
    assert CANARY.encode() not in bytes_of(out)
    read = 0
    for reader, suffixes in READERS.values():
        if suffix not in suffixes:
            continue
        try:
            expected = reader(image, values.ndim)
        except (RuntimeError, nibabel.spatialimages.HeaderDataError):
            continue  # it cannot read the image itself
        read += 1
        np.testing.assert_allclose(reader(out, values.ndim), expected, rtol=0, atol=SAME)
    assert read or suffix == ".gif"


@pytest.mark.parametrize("suffix", [".zarr", ".ome.zarr"])
def test_labels_of_an_ome_zarr_have_its_voxel_size(suffix: str, tmp_path: Path) -> None:
    grid = Geometry.from_spacing((5, 7, 6), (2.0, 0.3, 0.25), "um")
    image = tmp_path / f"image{suffix}"
    write_zarr(image, labels_of(grid.shape), grid)
    out = tmp_path / f"out{label_suffix(image)}"
    predict(image, out)
    np.testing.assert_array_equal(by_tifffile(out, 3)[:3], grid.spacing)


GRIDS = {
    "oblique": Geometry.create(SHAPE, AFFINE),
    "mirrored": Geometry.create(SHAPE, MIRRORED),
    "far away": Geometry.create(SHAPE, AFFINE + np.pad([[1234.5], [-987.25], [3333.125]], ((0, 1), (3, 0)))),
    "nearly orthonormal": Geometry.create((300, 300, 90), ROUGH),
    "more roughly so": Geometry.create((30, 30, 9), rough(3e-3)),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".nrrd", ".seg.nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_prediction_in_another_format_is_in_one_place_for_all(suffix: str, name: str, tmp_path: Path) -> None:
    """Its header is our own: every field of it says the same, whichever a program takes."""
    grid, path = GRIDS[name], tmp_path / f"out{suffix}"
    write_labels(path, np.zeros(grid.shape, np.uint8), grid, About(World("another", {}), {1: "liver"}))
    places = np.array([[*c, 1] for c in corners(grid.shape)]) @ grid.affine.T
    # Single precision is all that NIfTI-1 has; its qform has no axes that are not at right angles.
    nifti_1 = suffix in READERS["nibabel"][1]
    limit = 2e-4 if nifti_1 else SAME
    limit = 0.05 * max(grid.spacing) if nifti_1 and name == "more roughly so" else limit
    np.testing.assert_allclose(by_itk(path, 3) * [-1, -1, 1], places[:, :3], rtol=0, atol=limit)
    if nifti_1:
        np.testing.assert_allclose(by_nibabel(path, 3), places, rtol=0, atol=2e-4)


def test_a_contradiction_that_was_settled_is_read_in_the_same_way(tmp_path: Path) -> None:
    """The header of a prediction contradicts itself as that of its image does; so do those of a case of two files."""
    root = tmp_path / "data/d"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for seed, case in enumerate("ab"):
        for channel in (0, 1):
            noise = np.random.default_rng([seed, channel]).integers(0, 999, SHAPE)
            nifti(root / f"imagesTr/{case}_000{channel}.nii", (AFFINE, 2, MOVED, 1), values=noise)
        nifti(root / f"labelsTr/{case}.nii", (AFFINE, 2, MOVED, 1), values=labels_of(SHAPE))
    names = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "liver": 1, "kidney": 2}}
    (root / "dataset.json").write_text(json.dumps({**names, "numTraining": 2, "file_ending": ".nii"}))
    config = Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(tmp_path / "data"),
            "datasets": {"d": {"path": "d", "orientation": "qform"}},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
        }
    )
    ingest.run(config, "d", tmp_path / "out", workers=1)
    case = read_manifest(tmp_path / "out/manifest.tsv").case("a")
    np.testing.assert_allclose(case.geometry.affine, MOVED, atol=1e-4)
    source = open_case_image(case, root)
    assert source.shape[0] == 2
    values = predicted(source, tmp_path / "a.nii")
    np.testing.assert_array_equal(by_itk(tmp_path / "a.nii", 3), by_itk(root / case.images[0], 3))
    entry = PredictedCase("a.nii", sha256_file(tmp_path / "a.nii"))
    found, _ = read_prediction(tmp_path, case, entry, TABLE)
    np.testing.assert_array_equal(found, values)


FIELDS = ("pixdim", "xyzt_units", "sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x")
FIELDS += ("qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "sizeof_hdr")


@pytest.mark.parametrize("name", AWKWARD[".nii"])
def test_fields_of_nifti_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    image, out = tmp_path / "image.nii", tmp_path / "out.nii"
    AWKWARD[".nii"][name](image)
    predict(image, out)
    headers = []
    for path in (image, out):
        data = path.read_bytes()
        two = int.from_bytes(data[:4], "little") == 540
        cls = nibabel.Nifti2Header if two else nibabel.Nifti1Header
        headers.append(cls(data[: cls.sizeof_hdr], check=False))
    for field in FIELDS:
        np.testing.assert_array_equal(headers[0][field], headers[1][field], err_msg=field)
    assert int(headers[1]["intent_code"]) == 0
