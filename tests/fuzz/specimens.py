"""Small valid files of every format, made on the fly, for the fuzzer to damage."""

from __future__ import annotations

import functools
import gzip
import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import tifffile

from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from tests.pictures import bits, indexed, picture
from tests.zarr_samples import zarr_files

AFFINE = np.array([[1.5, 0.0, 0.0, 33.0], [0.0, 1.2, -0.9, -40.5], [0.0, 0.9, 1.2, 7.25], [0.0, 0.0, 0.0, 1.0]])
Files = dict[str, bytes]


def _own(suffix: str, shape: tuple[int, ...], unit: str, dtype: str) -> Files:
    """What the project itself writes."""
    sizes = [0.5, 0.25, 0.75][: len(shape)]
    oblique = len(shape) == 3 and unit == "mm"
    geometry = Geometry.create(shape, AFFINE, "mm") if oblique else Geometry.from_spacing(shape, sizes, unit)
    if unit == "px":
        geometry = Geometry.from_spacing(shape, [1.0] * len(shape), "px")
    labels = np.random.default_rng(len(shape)).integers(0, 99, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"case{suffix}"
        write_labels(path, labels, geometry)
        names = [path.name, *sorted(p.name for p in path.parent.iterdir() if p.name != path.name)]
        return {name: (path.parent / name).read_bytes() for name in names}


def _tiff(voxels: np.ndarray, **options: Any) -> Files:
    out = io.BytesIO()
    tifffile.imwrite(out, voxels, **options)
    return {"case.tif": out.getvalue()}


def _text(name: str, lines: str, body: bytes) -> Files:
    return {name: lines.encode() + body}


def _nifti(suffix: str) -> list[Files]:
    voxels = np.random.default_rng(3).normal(0, 50, (5, 6, 4)).astype(np.float32)
    made = [_own(suffix, (7, 6, 5), "mm", "int16")]
    if suffix == ".nii":
        header = nibabel.Nifti1Header(endianness=">")
        made.append({"case.nii": nibabel.Nifti1Image(voxels, AFFINE, header).to_bytes()})
        made.append({"case.nii": nibabel.Nifti2Image(voxels[..., None, None], AFFINE).to_bytes()})
        made.append({"case.nii": nibabel.Nifti1Image(voxels[:, :, None, None], AFFINE).to_bytes()})
        made.append({"case.nii": nibabel.Nifti1Image(voxels[..., 0], AFFINE).to_bytes()})
    if suffix == ".nii.gz":
        plain = nibabel.Nifti1Image(voxels, AFFINE).to_bytes()
        made.append({"case.nii.gz": b"".join(gzip.compress(part, 1) for part in (plain[:352], plain[352:], b""))})
    return made


def _nrrd() -> list[Files]:
    head = "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 3 4 5\n"
    head += "space directions: none (1,0,0) (0,1.5,0) (0,0,2)\nkinds: list domain domain domain\nendian: big\n"
    made = [_own(".nrrd", (7, 6, 5), "mm", "uint16"), _own(".nrrd", (9, 8), "um", "uint8")]
    made.append(_text("case.nrrd", head + "encoding: raw\nspace origin: (1,2,3)\nname:=value\n\n", bytes(240)))
    packed = imagecodecs.bz2_encode(bytes(240))
    made.append(_text("case.nrrd", head + "encoding: bzip2\nspace origin: (1,2,3)\n\n", packed))
    plain = "NRRD0001\n# remark\ntype: float\ndimension: 3\nsizes: 3 4 5\nspacings: 1 1 2\nencoding: raw\n"
    return [*made, _text("case.nrrd", f"{plain}endian: little\n\n", bytes(240))]


def _seg_nrrd() -> list[Files]:
    """Segments as 3D Slicer lists them: in one layer, and in two."""
    fields = "NRRD0004\ntype: uchar\nspace: left-posterior-superior\nencoding: raw\nspace origin: (1,2,3)\n"
    keys = "Segment0_Name:=liver\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
    keys += "Segment1_Name:=kidney\nSegment1_LabelValue:=2\nSegment1_Layer:="
    one = "dimension: 3\nsizes: 3 4 5\nspace directions: (1,0,0) (0,1.5,0) (0,0,2)\nkinds: domain domain domain\n"
    two = one.replace("dimension: 3\nsizes: ", "dimension: 4\nsizes: 2 ").replace("directions: ", "directions: none ")
    two = two.replace("kinds: ", "kinds: list ")
    return [
        _text("case.seg.nrrd", f"{fields}{one}{keys}0\n\n", bytes([0, 1, 2]) * 20),
        _text("case.seg.nrrd", f"{fields}{two}{keys}1\n\n", bytes([0, 0, 1, 0, 0, 2]) * 20),
    ]


def _metaimage() -> list[Files]:
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementByteOrderMSB = True\nOffset = 1 2 3\n"
    head += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 1 1.5 2\nDimSize = 3 4 5\n"
    head += "ElementNumberOfChannels = 2\nElementType = MET_SHORT_ARRAY\nElementDataFile = LOCAL\n"
    return [
        _own(".mha", (7, 6, 5), "mm", "uint16"),
        _own(".mha", (9, 8), "um", "uint8"),
        _text("case.mha", head, bytes(240)),
    ]


def _png() -> list[Files]:
    rng = np.random.default_rng(2)
    pictures: list[np.ndarray] = [rng.integers(0, 255, (9, 7, c)).astype(np.uint8) for c in (1, 3)]
    pictures.append(np.dstack([pictures[1], np.full((9, 7), 255, np.uint8)]))
    pictures.append(rng.integers(0, 65535, (9, 7)).astype(np.uint16))
    table = io.BytesIO()
    indexed(pictures[0][..., 0] % 16, rng.integers(0, 255, (16, 3))).save(table, "PNG")
    return [
        *({"case.png": bytes(imagecodecs.png_encode(pixels))} for pixels in pictures),
        {"case.png": table.getvalue()},
    ]


def _pictures(suffix: str) -> list[Files]:
    """Grey, colours, a colour table, two values; of JPEG grey, colours, several scans."""
    rng = np.random.default_rng(6)
    colour = rng.integers(0, 255, (23, 17, 3)).astype(np.uint8)
    made: list[tuple[Any, dict[str, Any]]] = [(colour[..., 0], {}), (colour, {})]
    if suffix == ".jpg":
        made += [(colour, {"progressive": True}), (colour, {"subsampling": 0, "optimize": True})]
    else:
        made += [(indexed(colour[..., 0] % 16, rng.integers(0, 255, (16, 3))), {}), (colour[..., 0] > 99, {})]
    return [{f"case{suffix}": picture(suffix, pixels, **options)} for pixels, options in made]


def _tif() -> list[Files]:
    rng = np.random.default_rng(4)
    flat, deep = rng.integers(0, 99, (33, 27)).astype(np.uint8), rng.integers(0, 99, (3, 20, 22)).astype(np.uint16)
    colour = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    ij: dict[str, Any] = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    return [
        _tiff(flat, metadata=None),
        _tiff(flat, compression="lzw", rowsperstrip=8, byteorder=">"),
        _tiff(deep, photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"}, predictor=True),
        _tiff(deep, imagej=True, resolution=(2.0, 2.0), metadata=ij),
        _tiff(colour, photometric="rgb", tile=(16, 16), compression="zstd", bigtiff=True),
        _tiff(colour, photometric="rgb", compression="jpeg"),
        _tiff(np.eye(20, dtype=bool), compression="packbits"),
        *({"case.tif": bits(compression)} for compression in ("group4", "group3")),
        _tiff(deep.astype(np.float32), photometric="minisblack"),
        _tiff(flat, photometric="palette", colormap=rng.integers(0, 65535, (3, 256)).astype(np.uint16)),
    ]


def _slice() -> Files:
    """One CT slice."""
    import pydicom

    from tests.faults.sets import write_series

    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), np.arange(30, dtype=np.int16).reshape(6, 5, 1))
        found = pydicom.dcmread(next(Path(folder).iterdir()))
    # The identifiers follow from the folder's name, which is another one each time.
    found.SeriesInstanceUID, found.SOPInstanceUID, found.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.3",
        "1.2.4",
        "1.2.4",
    )
    out = io.BytesIO()
    pydicom.dcmwrite(out, found, enforce_file_format=True)
    return {"case.dcm": out.getvalue()}


def _contours() -> Files:
    """Two structures, one with a hole."""
    from tests.dicom_contours import GRID, loops, structure_set

    outer = np.zeros(GRID.shape, bool)
    outer[1:7, 1:7, 1:4] = True
    outer[3:5, 3:5, 2] = False
    inner = np.zeros(GRID.shape, bool)
    inner[3:5, 3:5, 2] = True
    return {"case.dcm": structure_set({"outer": loops(outer), "inner": loops(inner)})}


def _zipped(files: Files) -> Files:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return {"case.zip": out.getvalue()}


def _ome() -> list[Files]:
    made = [_own(".ome.tif", shape, "um", "uint16") for shape in ((4, 12, 10), (21, 17))]
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((2, 3, 16, 16), np.uint8), ome=True, metadata={"axes": "CZYX", "PhysicalSizeX": 0.5})
    return [*made, {"case.ome.tif": out.getvalue()}]


def _zarr() -> list[Files]:
    rng = np.random.default_rng(12)
    deep = rng.integers(0, 99, (2, 6, 7)).astype(np.uint16)
    made = [
        zarr_files(deep, "zyx", version=2, scale=(2, 0.5, 0.5)),
        zarr_files(deep, "cyx", packed=False),
        zarr_files(deep.astype(np.float32), "zyx", chunks=(1, 2, 2), shards=(2, 4, 4), packed=False),
        *(zarr_files(deep, "zyx", version=2, array={"compressor": {"id": name}}) for name in ("blosc", "zstd", "lz4")),
    ]
    packers = (
        imagecodecs.blosc_encode,
        imagecodecs.zstd_encode,
        lambda data: imagecodecs.lz4_encode(data, header=True),
    )
    for files, pack in zip(made[3:], packers, strict=True):
        for name in [name for name in files if "/." not in name and not name.startswith(".")]:
            files[name] = bytes(pack(gzip.decompress(files[name])))
    return [{f"case.ome.zarr/{name}": data for name, data in files.items()} for files in made]


# Suffix -> makes valid files (once); the first name of each is the one that is read.
SPECIMENS: dict[str, Callable[[], list[Files]]] = {
    ".nii": functools.cache(lambda: _nifti(".nii")),
    ".nii.gz": functools.cache(lambda: _nifti(".nii.gz")),
    ".hdr": functools.cache(lambda: [_own(".hdr", (7, 6, 5), "mm", "int16")]),
    ".nrrd": functools.cache(_nrrd),
    ".seg.nrrd": functools.cache(_seg_nrrd),
    ".nhdr": functools.cache(lambda: [_own(".nhdr", (7, 6, 5), "mm", "uint16")]),
    ".mha": functools.cache(_metaimage),
    ".mhd": functools.cache(lambda: [_own(".mhd", (7, 6, 5), "mm", "uint16")]),
    ".png": functools.cache(_png),
    ".jpg": functools.cache(lambda: _pictures(".jpg")),
    ".bmp": functools.cache(lambda: _pictures(".bmp")),
    ".gif": functools.cache(lambda: _pictures(".gif")),
    ".tif": functools.cache(_tif),
    ".ome.tif": functools.cache(_ome),
    ".ome.zarr": functools.cache(_zarr),
    ".dcm": functools.cache(lambda: [_own(".dcm", (7, 6, 5), "mm", "uint8"), _slice(), _contours()]),
    ".zip": functools.cache(lambda: [_own(".zip", (7, 6, 5), "mm", "uint8"), _zipped(_slice())]),
}
