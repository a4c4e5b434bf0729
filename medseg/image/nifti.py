"""NIfTI-1.1 and NIfTI-2, single files, plain and gzipped (nifti.nimh.nih.gov).

The header is parsed and bounded first; then exactly the bytes it needs are taken, and the gzip stream is read
to its end, where checksum and length stand: readers that stop at the last voxel accept damaged files.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.image.content import Content
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry
from medseg.image.stored import MAX_DEFLATE_RATIO, FormatError, Stored, check_size

# Datatype code of the header -> numpy type; complex, colour and 128-bit types are refused.
_NIFTI_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}


def _gunzip(path: Path, data: bytes, limit: int) -> bytes:
    """At most ``limit`` decompressed bytes; if fewer come, the stream must end there, checksum included."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, limit)
    except zlib.error as error:
        raise FormatError(path, f"damaged gzip stream ({error})") from None
    if len(plain) == limit:
        return plain
    if not stream.eof:
        raise FormatError(path, f"truncated: the gzip stream breaks off after {len(plain)} bytes of content")
    if stream.unused_data:
        raise FormatError(path, f"{len(stream.unused_data)} bytes follow the end of the gzip stream")
    return plain


def _nifti_header(path: Path, start: bytes) -> Any:
    """The checked header of a single-file NIfTI that begins with ``start``."""
    import nibabel

    if len(start) < nibabel.Nifti1Header.sizeof_hdr:
        raise FormatError(path, f"truncated: {len(start)} bytes of content, too few for a NIfTI header")
    for cls, magic in ((nibabel.Nifti1Header, b"n+1"), (nibabel.Nifti2Header, b"n+2")):
        size = cls.sizeof_hdr
        if len(start) < size:
            continue
        header = cls(start[:size], check=False)
        if int(header["sizeof_hdr"]) != size or bytes(header["magic"].item())[:3] != magic:
            continue
        code, bits = int(header["datatype"]), int(header["bitpix"])
        if code not in _NIFTI_TYPES:
            raise FormatError(
                path, f"NIfTI datatype code {code}, expected integers or real numbers", "convert the file"
            )
        if bits != 8 * np.dtype(_NIFTI_TYPES[code]).itemsize:
            raise FormatError(path, f"bitpix {bits} contradicts datatype code {code}")
        offset = float(header["vox_offset"])
        if not (math.isfinite(offset) and offset >= size + 4 and offset == int(offset)):
            raise FormatError(path, f"vox_offset {offset:g}, expected an integer from {size + 4}")
        return header
    raise FormatError(path, "no NIfTI header (single file, magic n+1 or n+2)")


def _nifti_shape(path: Path, header: Any) -> tuple[tuple[int, ...], int]:
    """``((X, Y, Z), channels)``; trailing axes of length 1 are dropped, a fourth axis holds channels."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise FormatError(path, f"impossible dimensions {dim}")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) not in (3, 4):
        raise FormatError(path, f"axes {tuple(shape)}, expected 3 (or a fourth for channels)", "convert the file")
    return tuple(shape[:3]), (shape[3] if len(shape) == 4 else 1)


def _nifti_affine(path: Path, header: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], str]:
    """The affine, and what is doubtful about it: sform, else qform, else pixdim alone (methods 3, 2, 1)."""
    from nibabel.spatialimages import HeaderDataError

    if float(header["pixdim"][0]) == 0.0:
        header["pixdim"][0] = 1.0
    qform: NDArray[np.float64] | None = None
    if int(header["qform_code"]) > 0:
        try:
            qform = np.asarray(header.get_qform(), dtype=np.float64)
            Geometry.create(shape, qform)
        except (ValueError, GeometryError, HeaderDataError):
            qform = None
    if int(header["sform_code"]) > 0:
        sform = np.asarray(header.get_sform(), dtype=np.float64)
        if int(header["qform_code"]) <= 0:
            return sform, ""
        if qform is None:
            return sform, "qform makes no sense; sform is used"
        try:
            gap = Geometry.create(shape, sform).corner_distance_voxels(Geometry.create(shape, qform))
        except GeometryError as error:
            raise FormatError(path, f"sform: {error}", "correct the header") from None
        if gap > AFFINE_TOLERANCE_VOXELS:
            return sform, f"sform and qform differ by {gap:.3g} voxels at a corner; sform is used"
        return sform, ""
    if qform is not None:
        return qform, ""
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise FormatError(path, f"no orientation and impossible voxel size {sizes.tolist()}", "correct the header")
    return np.diag([*sizes, 1.0]), "neither sform nor qform is set: orientation unknown, axes taken as RAS"


def _nifti_scaling(path: Path, header: Any) -> tuple[float, float]:
    """(slope, intercept); a slope of 0 or NaN means none, by the standard and by custom."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or math.isnan(slope):
        return 1.0, 0.0
    intercept = 0.0 if math.isnan(intercept) else intercept
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise FormatError(path, f"scl_slope {slope:g}, scl_inter {intercept:g}", "correct the header")
    return slope, intercept


def _peek(path: Path, data: bytes) -> bytes:
    """The first decompressed KiB, enough for any header."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data[: 1 << 16], 1024)
    except zlib.error as error:
        raise FormatError(path, f"damaged gzip stream ({error})") from None


def read_nifti(path: Path, content: Content) -> Stored:
    """Read ``.nii``; see ``medseg.image.formats.read_stored`` for the contract."""
    data = content.main
    if data[:2] == b"\x1f\x8b":
        raise FormatError(path, "the content is gzip data", "rename it to .nii.gz if it is NIfTI")
    return _decode(path, data, packed=False)


def read_nifti_gz(path: Path, content: Content) -> Stored:
    """Read ``.nii.gz``; see ``medseg.image.formats.read_stored`` for the contract."""
    data = content.main
    if data[:2] != b"\x1f\x8b":
        raise FormatError(path, "the content is no gzip data", "rename it to .nii if it is NIfTI")
    return _decode(path, data, packed=True)


def _decode(path: Path, data: bytes, *, packed: bool) -> Stored:
    header = _nifti_header(path, _peek(path, data) if packed else data[:1024])
    shape, channels = _nifti_shape(path, header)
    dtype = np.dtype(_NIFTI_TYPES[int(header["datatype"])]).newbyteorder(header.endianness)
    offset = int(header["vox_offset"])
    size = offset + math.prod(shape) * channels * dtype.itemsize
    check_size(path, size, len(data) * MAX_DEFLATE_RATIO if packed else len(data))
    # One byte more than needed: only then zlib reaches the end of the stream and checks its checksum.
    content = _gunzip(path, data, size + 1) if packed else data
    if len(content) != size:
        raise FormatError(path, f"{len(content)} bytes of content, the header needs exactly {size}")
    affine, note = _nifti_affine(path, header, shape)
    slope, intercept = _nifti_scaling(path, header)
    unit_code = int(header["xyzt_units"]) & 7
    if unit_code == 1:
        raise FormatError(path, "world coordinates in metres, expected millimetres", "correct the header")
    flat = np.frombuffer(content, dtype, math.prod(shape) * channels, offset)
    voxels = np.moveaxis(flat.reshape((*shape, channels), order="F"), -1, 0)
    native = np.ascontiguousarray(voxels, dtype=dtype.newbyteorder("="))
    return Stored(path, native, affine, "um" if unit_code == 3 else "mm", slope, intercept, note=note)


def nifti_bytes(path: Path, labels: NDArray[Any], geometry: Geometry) -> bytes:
    """A NIfTI file with a fresh header: the input's may name the patient, so nothing of it goes along."""
    import nibabel

    if geometry.dims != 3:
        raise FormatError(path, f"a grid of {geometry.dims} axes in NIfTI, expected 3", "write .png or .tif")
    small = max(labels.shape) < 2**15
    header = nibabel.Nifti1Header() if small else nibabel.Nifti2Header()
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(labels.shape)
    header.set_sform(geometry.affine, 1)
    header.set_qform(geometry.affine, 1)
    # A qform cannot hold shear: better none than one that contradicts the sform.
    if geometry.corner_distance_voxels(Geometry.create(labels.shape, header.get_qform())) > 1e-3:
        header["qform_code"] = 0
    header.set_xyzt_units("micron" if geometry.unit == "um" else "mm")
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = b"n+1" if small else b"n+2\x00\r\n\x1a\n"
    start = header.binaryblock.ljust(header.single_vox_offset, b"\x00")
    return bytes(start) + labels.astype(labels.dtype.newbyteorder("=")).tobytes(order="F")


def nifti_gz_bytes(path: Path, labels: NDArray[Any], geometry: Geometry) -> bytes:
    """The same, gzipped, without name and time."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
        stream.write(nifti_bytes(path, labels, geometry))
    return packed.getvalue()
