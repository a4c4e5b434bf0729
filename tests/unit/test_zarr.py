"""OME-Zarr in detail: versions, axes, codecs, shards, bad metadata; what zarr and ome-zarr wrote is read."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.errors import DatasetFaults
from medseg.formats.content import ListedBytes
from medseg.formats.errors import FormatError
from medseg.formats.read import open_content, open_image, read_content, read_image, read_labels
from medseg.formats.source import Source
from medseg.formats.table import format_of, label_suffix
from medseg.ingest import run as ingest
from medseg.ingest.layouts.found import walk
from medseg.measure.pairing import find_pairs
from tests.configurations import config as configured
from tests.zarr_samples import by_library, write_files, zarr_files

RNG = np.random.default_rng(0)
DEEP = RNG.integers(1, 999, (5, 9, 7)).astype(np.uint16)


def opened(tmp_path: Path, files: dict[str, bytes], name: str = "case.ome.zarr") -> Source:
    return open_image(write_files(tmp_path / name, files))


# As libraries write it


@pytest.mark.parametrize("name", ["v04", "v05"])
def test_what_ome_zarr_wrote(name: str, tmp_path: Path) -> None:
    found = open_image(by_library(tmp_path / "case.ome.zarr", name))
    np.testing.assert_array_equal(found.image(), np.arange(180).reshape(2, 3, 5, 6))
    assert found.dtype == np.uint16
    assert (found.geometry.spacing, found.geometry.unit) == ((2.0, 0.5, 0.25), "um")
    assert found.channel_names == ("DAPI", "GFP")
    assert (found.notes, found.remarks) == ((), ())


def test_shards_that_zarr_wrote(tmp_path: Path) -> None:
    found = open_image(by_library(tmp_path / "case.zarr", "shards"))
    np.testing.assert_array_equal(found.image(), np.arange(90).reshape(1, 3, 5, 6))
    np.testing.assert_array_equal(found.read([slice(1, 2), slice(3, 5), slice(1, 6)]), found.image()[:, 1:2, 3:5, 1:6])
    assert found.geometry.spacing == (2.0, 0.5, 0.25)


# Versions, axes, sizes


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("yx", (9, 7), (1, 9, 7)),
        ("zyx", (5, 9, 7), (1, 5, 9, 7)),
        ("cyx", (5, 9, 7), (5, 9, 7)),
        ("czyx", (2, 5, 9, 7), (2, 5, 9, 7)),
        ("tczyx", (1, 2, 5, 9, 7), (2, 5, 9, 7)),
        ("tczyx", (1, 2, 1, 9, 7), (2, 9, 7)),
        ("zcyx", (5, 2, 9, 7), (2, 5, 9, 7)),
        ("yxc", (9, 7, 3), (3, 9, 7)),
    ],
)
def test_axes(version: int, axes: str, shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    voxels = RNG.integers(0, 999, shape).astype(np.uint16)
    found = opened(tmp_path, zarr_files(voxels, axes, version=version, scale=np.arange(2, 2 + len(shape)) / 4))
    order = [axes.index(axis) for axis in "czyx" if axis in axes]
    plain = voxels.transpose(*order, *(k for k in range(len(axes)) if k not in order)).reshape(expected)
    np.testing.assert_array_equal(found.image(), plain)
    space = "zyx" if len(expected) == 4 else "yx"
    assert found.geometry.spacing == tuple((2 + axes.index(axis)) / 4 for axis in space)
    assert found.geometry.unit == "um"
    dropped = [axis for axis in axes if axis not in f"c{space}"]
    assert [remark for remark in found.remarks if "dropped" in remark] == [
        f"axis {axis} of length 1 dropped" for axis in dropped
    ]


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("micrometer", 1.0),
        ("nanometer", 1e-3),
        ("millimeter", 1e3),
        ("angstrom", 1e-4),
        ("meter", 1e6),
        ("Micrometer", 1.0),
        ("µm", 1.0),
    ],
)
def test_units(unit: str, factor: float, tmp_path: Path) -> None:
    found = opened(tmp_path, zarr_files(DEEP, "zyx", scale=(2, 3, 4), unit=unit)).geometry
    np.testing.assert_allclose(found.spacing, np.array([2, 3, 4]) * factor)
    assert found.unit == "um"


@pytest.mark.parametrize("unit", ["", "second", "pixel", "parsnip"])
def test_a_scale_without_a_unit_of_length_is_not_used(unit: str, tmp_path: Path) -> None:
    found = opened(tmp_path, zarr_files(DEEP, "zyx", scale=(2, 3, 4), unit=unit))
    assert found.geometry.unit == "px"
    assert found.remarks == ("scale [2.0, 3.0, 4.0] without a unit of length on every axis: not used",)


def test_scales_of_array_and_image_are_multiplied_and_a_translation_is_left_aside(tmp_path: Path) -> None:
    files = zarr_files(DEEP, "zyx", version=2, scale=(2, 3, 4))
    record = json.loads(files[".zattrs"])
    image = record["multiscales"][0]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    image["datasets"][0]["coordinateTransformations"].append({"type": "translation", "translation": [0, 10, 20]})
    files[".zattrs"] = json.dumps(record).encode()
    found = opened(tmp_path, files)
    assert found.geometry.spacing == (2.0, 1.5, 2.0)
    assert found.remarks == ("translation [0.0, 5.0, 10.0] left aside: voxels count from the first one",)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "float32", "float64", "float16", "bool"])
@pytest.mark.parametrize("version", [2, 3])
def test_number_types(dtype: str, version: int, tmp_path: Path) -> None:
    voxels = (DEEP % 100).astype(dtype)
    found = opened(tmp_path, zarr_files(voxels, "zyx", version=version))
    np.testing.assert_array_equal(found.image()[0], voxels)
    assert found.dtype == {"float16": np.float32, "bool": np.uint8}.get(dtype, np.dtype(dtype))


# Chunks


def repacked(files: dict[str, bytes], pack: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """Chunks packed in another way."""
    return {
        k: (v if k.endswith((".zarray", ".zattrs", ".json")) else bytes(pack(gzip.decompress(v))))
        for k, v in files.items()
    }


def lz4(data: bytes) -> bytes:
    return bytes(imagecodecs.lz4_encode(data, header=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "blosc": lambda data: imagecodecs.blosc_encode(data, typesize=2, shuffle=1),
    "zstd": imagecodecs.zstd_encode,
    "lz4": lz4,
    "zlib": imagecodecs.zlib_encode,
    "gzip": gzip.compress,
    "bz2": imagecodecs.bz2_encode,
}


@pytest.mark.parametrize("name", PACKERS)
def test_compressors(name: str, tmp_path: Path) -> None:
    two = zarr_files(DEEP, "zyx", version=2, array={"compressor": {"id": name}})
    np.testing.assert_array_equal(opened(tmp_path, repacked(two, PACKERS[name]), "two.zarr").image()[0], DEEP)
    three = zarr_files(
        DEEP, "zyx", array={"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": name}]}
    )
    np.testing.assert_array_equal(opened(tmp_path, repacked(three, PACKERS[name]), "three.zarr").image()[0], DEEP)


@pytest.mark.parametrize("name", PACKERS)
def test_chunks_that_are_cut_or_of_another_size_are_refused(name: str, tmp_path: Path) -> None:
    files = repacked(zarr_files(DEEP, "zyx", version=2, array={"compressor": {"id": name}}), PACKERS[name])
    chunk = "0/1/1/1"
    other = bytes(PACKERS[name](bytes(2 * 4**3 + 8)))
    for number, data in enumerate(
        (files[chunk][:-1], files[chunk][: len(files[chunk]) // 2], b"", other, b"\xff" * 50)
    ):
        with pytest.raises(FormatError, match=r"case\d\.zarr: "):
            opened(tmp_path, files | {chunk: data}, f"case{number}.zarr").image()


def test_order_of_bytes_and_axes(tmp_path: Path) -> None:
    files = zarr_files(DEEP, "zyx", version=2, packed=False, chunks=(5, 9, 7), array={"dtype": ">u2", "order": "F"})
    files["0/0/0/0"] = DEEP.astype(">u2").tobytes(order="F")
    np.testing.assert_array_equal(opened(tmp_path, files, "two.zarr").image()[0], DEEP)
    codecs = [
        {"name": "transpose", "configuration": {"order": [2, 0, 1]}},
        {"name": "bytes", "configuration": {"endian": "big"}},
    ]
    files = zarr_files(DEEP, "zyx", packed=False, chunks=(5, 9, 7), array={"codecs": codecs})
    files["0/c/0/0/0"] = DEEP.astype(">u2").transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(opened(tmp_path, files, "three.zarr").image()[0], DEEP)


@pytest.mark.parametrize("packed", [False, True])
def test_shards(packed: bool, tmp_path: Path) -> None:
    voxels = DEEP * (DEEP > 300)
    voxels[:2, :4, :4] = 0
    files = zarr_files(voxels, "zyx", chunks=(1, 2, 2), shards=(2, 4, 4), packed=packed)
    found = opened(tmp_path, files)
    np.testing.assert_array_equal(found.image()[0], voxels)
    for box in itertools.product((slice(1, 4), slice(4, 5)), (slice(0, 9), slice(3, 6)), (slice(2, 3), slice(0, 7))):
        np.testing.assert_array_equal(found.read(box)[0], voxels[box])
    name = "0/c/1/1/0"
    data = files[name]
    for number, bad in enumerate((data[:-1], data[1:], data[:30], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])):
        with pytest.raises(FormatError, match=r"shard|chunk"):
            opened(tmp_path, files | {name: bad}, f"case{number}.zarr").image()


def test_chunks_that_are_not_stored_have_the_fill_value(tmp_path: Path) -> None:
    files = zarr_files(DEEP, "zyx", version=2, chunks=(5, 4, 4), array={"fill_value": 7})
    del files["0/0/1/1"]
    found = opened(tmp_path, files)
    expected = DEEP.copy()
    expected[:, 4:8, 4:] = 7
    np.testing.assert_array_equal(found.image()[0], expected)
    assert found.remarks == ("chunks that are not stored are filled with 7, as the array says",)
    empty = {name: data for name, data in files.items() if "zar" in name or "zat" in name}
    assert (opened(tmp_path, empty, "empty.zarr").labels() == 7).all()


def test_a_box_reads_its_chunks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = RNG.integers(0, 9999, (16, 64, 64)).astype(np.uint16)
    found = opened(tmp_path, zarr_files(voxels, "zyx", chunks=(4, 16, 16), packed=False))
    taken: list[int] = []
    read = ListedBytes._read
    monkeypatch.setattr(ListedBytes, "_read", lambda self, at, size: taken.append(size) or read(self, at, size))
    np.testing.assert_array_equal(found.read([slice(0, 4), slice(10, 20), slice(5, 9)])[0], voxels[:4, 10:20, 5:9])
    assert taken == [4 * 16 * 16 * 2] * 2


def test_a_chunk_that_was_replaced_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path / "case.zarr", zarr_files(DEEP, "zyx", version=2))
    found = open_image(path)
    (path / "0/0/0/0").write_bytes(b"x")
    with pytest.raises(FormatError, match="changed while it was read"):
        found.image()


# What belongs to an image


def test_smaller_resolutions_and_labels_do_not_belong_to_it(tmp_path: Path) -> None:
    files = zarr_files(DEEP, "zyx", version=2)
    path = write_files(tmp_path / "case.ome.zarr", files)
    before = open_content(path).sha256
    assert read_content(path).sha256 == before
    write_files(
        path, {"1/.zarray": b"{}", "1/0/0/0": b"x", "labels/.zattrs": b'{"labels": ["cells"]}', ".zgroup": b"{}"}
    )
    assert open_content(path).sha256 == before
    assert next(iter(read_content(path).files)) == ".zattrs"
    write_files(path, {"0/9/9/9": b"x"})
    assert open_content(path).sha256 != before


def test_labels_inside_an_image_are_an_image_of_their_own(tmp_path: Path) -> None:
    path = write_files(tmp_path / "case.ome.zarr", zarr_files(DEEP, "zyx", version=2))
    write_files(path / "labels", {".zattrs": b'{"labels": ["cells"]}', ".zgroup": b"{}"})
    inner = write_files(path / "labels/cells", zarr_files(DEEP, "zyx", version=2, attributes={"image-label": {}}))
    np.testing.assert_array_equal(read_labels(inner)[0], DEEP)
    assert label_suffix(inner) == ".ome.tif"
    with pytest.raises(FormatError, match=r"a group of OME-Zarr labels.*labels/cells"):
        read_labels(path / "labels")


def test_series_of_bioformats2raw(tmp_path: Path) -> None:
    path = write_files(
        tmp_path / "case.zarr", {".zattrs": b'{"bioformats2raw.layout": 3}', "OME/METADATA.ome.xml": b"x"}
    )
    write_files(path / "0", zarr_files(DEEP, "zyx", version=2))
    np.testing.assert_array_equal(read_image(path)[0][0], DEEP)
    write_files(path / "1", zarr_files(DEEP, "zyx", version=2))
    with pytest.raises(FormatError, match=r"several images \(series\).*name the folder of one of them: .*case\.zarr/0"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path / "1")[0][0], DEEP)


def test_links_are_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path / "case.zarr", zarr_files(DEEP, "zyx", version=2))
    (tmp_path / "elsewhere").write_bytes(b"x")
    (path / "0/0/0/1").unlink()
    os.symlink(tmp_path / "elsewhere", path / "0/0/0/1")
    with pytest.raises(FormatError, match="0/0/0/1 is a link"):
        open_image(path)


def test_a_folder_of_slices_is_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    assert format_of(tmp_path / "series").open.endswith("open_dicom")
    assert format_of(write_files(tmp_path / "plain", zarr_files(DEEP, "zyx"))).open.endswith("open_zarr")


# In a data set


def test_a_data_set_of_zarr_is_checked_and_measured(tmp_path: Path) -> None:
    """Folders are images for the layouts, the check and the pairing of files, and label maps, too."""
    labels = np.zeros((40, 48), np.uint16)
    labels[5:15, 5:15], labels[20:30, 22:40] = 1, 2
    for number in range(4):
        image = RNG.integers(0, 200, labels.shape).astype(np.uint16) + 400 * (labels > 0).astype(np.uint16)
        for place, voxels in (("images", image), ("masks", np.roll(labels, number, axis=1))):
            files = zarr_files(voxels, "yx", version=2 + number % 2, scale=(0.5, 0.5), chunks=(16, 16))
            write_files(tmp_path / "cells" / place / f"c{number}.ome.zarr", files)
    config = tmp_path / "my.yaml"
    config.write_text(
        f"experiment: trial\ndata_root: {tmp_path}\n"
        "datasets:\n  cells: {path: cells, labels: {cell: 1}, instances: true}\n"
        "folds: {count: 2, run: [0]}\nbudget: {steps: 4}\nmodels: {unet: {network: unet}}\n"
    )
    done = CliRunner().invoke(app, ["ingest", "--check", "--config", str(config), "--dataset", "cells"])
    assert done.exit_code == 0, done.output
    assert "4 cases of 4 subjects, 2-D" in done.output
    assert "0.5 x 0.5 um" in done.output
    assert walk(tmp_path / "cells", "images") == [f"images/c{k}.ome.zarr" for k in range(4)]
    pairs = find_pairs(tmp_path / "cells/images", tmp_path / "cells/masks")
    assert [pair.name for pair in pairs] == [f"c{k}" for k in range(4)]
    (one,) = find_pairs(tmp_path / "cells/images/c1.ome.zarr", tmp_path / "cells/masks/c1.ome.zarr")
    assert one.name == "c1"
    (one,) = find_pairs(tmp_path / "cells/images/c1.ome.zarr", tmp_path / "cells/masks")
    assert one.mask.name == "c1.ome.zarr"


# Metadata that make no sense


def changed(place: str, value: Any, version: int = 2) -> dict[str, bytes]:
    """An image with something else at a place in the metadata of the image (``ome``) or of its array (``array``)."""
    files = zarr_files(DEEP, "zyx", version=version)
    which, *keys = place.split("/")
    name = {("ome", 2): ".zattrs", ("array", 2): "0/.zarray", ("array", 3): "0/zarr.json"}[which, version]
    record: Any = json.loads(files[name])
    inner = record
    for key in keys[:-1]:
        inner = inner[int(key) if key.isdigit() else key]
    last = keys[-1]
    inner[int(last) if last.isdigit() else last] = value
    return files | {name: json.dumps(record).encode()}


BAD: list[tuple[str, Any, int, str]] = [
    ("ome/multiscales", [], 2, "0 images"),
    ("ome/multiscales", 5, 2, "damaged metadata of OME-Zarr"),
    ("ome/multiscales/0/datasets", [], 2, "damaged metadata of OME-Zarr"),
    ("ome/multiscales/0/datasets/0/path", "../x", 2, "outside the folder"),
    ("ome/multiscales/0/datasets/0/path", "1", 2, "no file 1/.zarray"),
    ("ome/multiscales/0/axes/0/name", "w", 2, "axes w, y, x; expected y and x"),
    ("ome/multiscales/0/axes/0/name", "x", 2, "axes x, y, x"),
    ("ome/multiscales/0/axes", ["y", "z", "x"], 2, "axes y, z, x"),
    ("ome/multiscales/0/axes", ["y", "x"], 2, "a scale of 3 numbers for 2 axes"),
    ("ome/multiscales/0/datasets/0/coordinateTransformations/0/scale", [0, 1, 1], 2, "impossible scale"),
    ("ome/multiscales/0/datasets/0/coordinateTransformations/0/scale", ["a", 1, 1], 2, "damaged metadata"),
    ("ome/multiscales/0/datasets/0/coordinateTransformations/0/type", "affine", 2, "kind 'affine', expected a scale"),
    ("array/dtype", "<c8", 2, "numbers of type"),
    ("array/dtype", [["r", "|u1"]], 2, "numbers of type"),
    ("array/dtype", "<u9", 2, "damaged metadata of the array"),
    ("array/compressor/id", "jpeg", 2, "chunks packed by 'jpeg', expected blosc, zstd"),
    ("array/filters", [{"id": "delta"}], 2, "chunks with filters"),
    ("array/shape", [5, 9], 2, "expected 2 to 5 axes"),
    ("array/shape", [5, 9, 0], 2, "expected 2 to 5 axes"),
    ("array/shape", [5, 9, 7.5], 2, "damaged metadata of the array"),
    ("array/chunks", [0, 1, 1], 2, "expected 2 to 5 axes"),
    ("array/fill_value", 70000, 2, "fill_value 70000"),
    ("array/fill_value", "0x7fc00000", 2, "fill_value '0x7fc00000', expected a number"),
    ("array/dimension_separator", "-", 2, "names of chunks"),
    ("array/data_type", "complex64", 3, "numbers of type complex64"),
    ("array/chunk_grid/name", "rectilinear", 3, "no array of chunks of one shape"),
    ("array/codecs/0/name", "vlen-utf8", 3, "expected 'bytes'"),
    ("array/codecs/0/configuration/endian", "middle", 3, "damaged metadata of the array"),
    ("array/node_type", "group", 3, "no array of chunks"),
]


@pytest.mark.parametrize(("place", "value", "version", "words"), BAD)
def test_metadata_that_make_no_sense_are_refused(
    place: str, value: Any, version: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        opened(tmp_path, changed(place, value, version))
    assert str(caught.value).startswith(f"{tmp_path / 'case.ome.zarr'}: ")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "neither zarr.json nor .zattrs"),
        ({".zattrs": b"{}"}, "without the metadata of OME-Zarr"),
        ({".zattrs": b"[1]"}, "no JSON object"),
        ({".zattrs": b"[" * 100_000}, "no JSON"),
        ({".zattrs": b'{"plate": {}}'}, r"an OME-Zarr plate or well.*A/1/0"),
        ({"zarr.json": b'{"zarr_format": 3, "node_type": "array"}'}, "without the metadata of OME-Zarr"),
    ],
)
def test_folders_without_an_image_are_named(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "case.zarr").mkdir()
    with pytest.raises(FormatError, match=words):
        opened(tmp_path, files, "case.zarr")


def test_time_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="5 time points; keep one time point per image"):
        opened(tmp_path, zarr_files(DEEP, "tyx"))


def test_a_file_called_zarr_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "case.zarr").write_bytes(b"PK\x03\x04" + bytes(99))
    with pytest.raises(FormatError, match="no OME-Zarr"):
        open_image(tmp_path / "case.zarr")


def moved(files: dict[str, bytes], translation: list[float]) -> dict[str, bytes]:
    """An image that begins elsewhere."""
    record = json.loads(files["zarr.json"])
    image = record["attributes"]["ome"]["multiscales"][0]
    image["datasets"][0]["coordinateTransformations"].append({"type": "translation", "translation": translation})
    return {**files, "zarr.json": json.dumps(record).encode()}


@pytest.mark.parametrize(
    ("image", "label", "apart"),
    [
        ([4, 6], [4, 6], None),
        ([4, 6], [0, 0], None),
        ([4, 6], [4.01, 6], None),
        ([4, 6], [4, 7], 2),
        ([0, 0], [3, 0], 6),
    ],
)
def test_a_label_that_says_it_lies_elsewhere_is_a_fault(
    image: list[float], label: list[float], apart: int | None, tmp_path: Path
) -> None:
    voxels = RNG.integers(1, 99, (12, 10)).astype(np.uint8)
    for case, seed in (("a", 0), ("b", 1)):
        picture = np.random.default_rng(seed).integers(1, 99, voxels.shape).astype(np.uint8)
        write_files(tmp_path / f"data/images/{case}.zarr", moved(zarr_files(picture, "yx", scale=(0.5, 0.5)), image))
        mask = (picture > 50).astype(np.uint8)
        write_files(tmp_path / f"data/masks/{case}.zarr", moved(zarr_files(mask, "yx", scale=(0.5, 0.5)), label))
    config = configured(tmp_path, "all", labels={"cell": 1}, allow=["same-origin"])
    if apart is None:
        assert len(ingest.check(config, "data").cases) == 2
        return
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config, "data")
    assert {f.code for f in caught.value.faults} == {"affine-mismatch"}
    assert f"its translation is {apart} voxels from that of images/a.zarr" in caught.value.faults[0].cause
