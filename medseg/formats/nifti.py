"""NIfTI-1.1 and NIfTI-2: single files, plain and gzipped, and header with data file (nifti.nimh.nih.gov).

The header is parsed and bounded first; then exactly the bytes it needs are taken, and the gzip stream is read
to its end, where its checksum and length are: readers that stop at the last voxel accept damaged files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.formats.content import Content, Data, part_from, rest_of
from medseg.formats.errors import FormatError
from medseg.formats.limits import MAX_DEFLATE_RATIO, check_claim, check_stream
from medseg.formats.nifti_label import data_file, nifti_world
from medseg.formats.nifti_plane import add_third_axis, in_plane
from medseg.formats.raw import raw_voxels
from medseg.formats.source import Source
from medseg.formats.streams import peek_gzip, unpack_voxels
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry

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


def _nifti_header(path: Path, start: bytes, *, pair: bool) -> Any:
    """The checked header that ``start`` begins with; ``pair``: its voxels are in another file."""
    import nibabel

    if len(start) < nibabel.Nifti1Header.sizeof_hdr:
        raise FormatError(path, f"truncated: {len(start)} bytes of content, too few for a NIfTI header")
    for cls, magic in ((nibabel.Nifti1Header, b"1\0"), (nibabel.Nifti2Header, b"2\0")):
        size = cls.sizeof_hdr
        if len(start) < size:
            continue
        header = cls(start[:size], check=False)
        found = bytes(header["magic"].item()).ljust(4, b"\0")
        if int(header["sizeof_hdr"]) != size or found[:4] not in (b"n+" + magic, b"ni" + magic):
            continue
        if pair != (found[:2] == b"ni"):
            fix = "rename it to .nii" if pair else "name the pair .hdr and .img"
            raise FormatError(path, f"a NIfTI header of {'one file' if pair else 'a pair of files'}", fix)
        code, bits = int(header["datatype"]), int(header["bitpix"])
        if code not in _NIFTI_TYPES:
            raise FormatError(
                path, f"NIfTI datatype code {code}, expected integers or real numbers", "convert the file"
            )
        if bits != 8 * np.dtype(_NIFTI_TYPES[code]).itemsize:
            raise FormatError(path, f"bitpix {bits} contradicts datatype code {code}")
        offset = float(header["vox_offset"])
        least = 0 if pair else size + 4
        if not (math.isfinite(offset) and offset >= least and offset == int(offset)):
            raise FormatError(path, f"vox_offset {offset:g}, expected an integer from {least}")
        return header
    raise FormatError(path, "no NIfTI header")


def _nifti_shape(path: Path, header: Any) -> tuple[tuple[int, ...], int, tuple[str, ...]]:
    """``((X, Y, Z) or (X, Y), channels, remarks)``.

    The fifth axis holds the components of vectors, as the standard says and ITK writes them; beside it, a single slice
    is a picture, as it is for ITK. Else a fourth axis holds channels. Axes of length 1 at the end are dropped.
    """
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise FormatError(path, f"impossible dimensions {dim}")
    axes = tuple(dim[1 : dim[0] + 1])
    shape = list(axes)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) == 5 and shape[3] == 1:
        space = shape[:2] if shape[2] == 1 else shape[:3]
        return tuple(space), shape[4], (f"axes {axes}: the fifth holds {shape[4]} channels",)
    if len(shape) not in (2, 3, 4):
        cause = f"axes {axes}, expected 2 or 3, and a fourth or fifth for channels"
        raise FormatError(path, cause, "store one time point per file")
    dropped = len(axes) - len(shape)
    remarks = (f"axes {axes}: {dropped} of length 1 at the end dropped",) if dropped else ()
    return tuple(shape[:3]), (shape[3] if len(shape) == 4 else 1), remarks


Notes = tuple[tuple[str, str], ...]
Affines = dict[str, NDArray[np.float64]]


def _nifti_affine(path: Path, header: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], Notes, Affines]:
    """The affine, doubts, and the affines of a header that contradicts itself: sform, else qform, else pixdim alone."""
    if len(shape) == 2:
        return _plane_affine(path, header, shape)
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise FormatError(path, f"impossible voxel size {sizes.tolist()}", "correct the header")
    if float(header["pixdim"][0]) == 0.0:
        header["pixdim"][0] = 1.0
    sform, qform = _form(header, "sform", shape), _form(header, "qform", shape)
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not has_sform and not has_qform:
        note = "neither sform nor qform is set: orientation unknown, axes taken as RAS"
        return np.diag([*sizes, 1.0]), (("no-orientation", note),), {}
    if has_sform and sform is None:
        raise FormatError(path, "sform is singular or not finite", "correct the header")
    if sform is None:
        if qform is None:
            raise FormatError(path, "qform makes no sense", "correct the header")
        return qform, (), {}
    affines = {"sform": sform}
    if has_qform and qform is None:
        return sform, (("orientation", "qform makes no sense, sform does"),), affines
    if qform is not None:
        gap = Geometry.create(shape, sform).corner_distance_voxels(Geometry.create(shape, qform))
        cause = f"sform and qform differ by {gap:.3g} voxels at a corner"
        affines["qform"] = qform
    else:
        lengths = np.linalg.norm(sform[:3, :3], axis=0)
        gap = float(np.max(np.abs(sizes / lengths - 1.0) * (np.array(shape) - 1)))
        cause = f"sform has voxels of {_listed(lengths)}, pixdim says {_listed(sizes)}"
    return (sform, (("orientation", cause),), affines) if gap > AFFINE_TOLERANCE_VOXELS else (sform, (), {})


def _plane_affine(path: Path, header: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], Notes, Affines]:
    """As ``_nifti_affine`` for a picture (X, Y): its place in its own plane, which has no orientation to doubt."""
    add_third_axis(header)
    affine, notes, affines = _nifti_affine(path, header, (*shape, 1))
    kept = tuple(note for note in notes if note[0] != "no-orientation")
    return in_plane(affine), kept, {name: in_plane(one) for name, one in affines.items()}


def _form(header: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """The affine of sform or qform if its code is set and it makes a grid."""
    from nibabel.spatialimages import HeaderDataError

    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(header.get_sform() if name == "sform" else header.get_qform(), dtype=np.float64)
        Geometry.create(shape, affine)
    except (ValueError, GeometryError, HeaderDataError):
        return None
    return affine


def _listed(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)


def _nifti_scaling(path: Path, header: Any) -> tuple[float, float, tuple[str, ...]]:
    """(slope, intercept, remarks); a slope of 0 means none by the standard, NaN and Inf by custom."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or not math.isfinite(slope):
        return 1.0, 0.0, (f"scl_slope {slope:g}: taken as no scaling",)
    intercept = 0.0 if math.isnan(intercept) else intercept
    if not math.isfinite(intercept):
        raise FormatError(path, f"scl_slope {slope:g}, scl_inter {intercept:g}", "correct the header")
    return slope, intercept, ()


def open_nifti(path: Path, content: Content) -> Source:
    """Open ``.nii``; see ``medseg.formats.read.open_image`` for the contract."""
    header = _nifti_header(path, content.main[:1024], pair=False)
    return _opened(path, header, content.main, packed=False)


def open_nifti_gz(path: Path, content: Content) -> Source:
    """Open ``.nii.gz``; see ``medseg.formats.read.open_image`` for the contract."""
    header = _nifti_header(path, peek_gzip(path, content.main, 1024), pair=False)
    return _opened(path, header, content.main, packed=True)


def pair_companions(path: Path, data: Data) -> Sequence[str]:
    """The data file of a header: of its name, ending in ``.img``."""
    return (data_file(path),)


def open_pair(path: Path, content: Content) -> Source:
    """Open ``.hdr`` with its ``.img``; see ``medseg.formats.read.open_image`` for the contract."""
    header = _nifti_header(path, content.main[:1024], pair=True)
    if content.companion is None:
        raise FormatError(path, "a header without its .img file", "keep both in one folder")
    _check_extensions(path, content.main, header)
    return _opened(path, header, content.companion, packed=False)


def _check_extensions(path: Path, data: Data, header: Any) -> None:
    """Raise ``FormatError`` if a header in a file of its own is followed by anything but whole extensions."""
    at = int(header["sizeof_hdr"])
    if len(data) == at:
        return
    marked = data[at : at + 1] == b"\x01"
    at += 4
    while marked and at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little" if header.endianness == "<" else "big")
        if size < 16 or size % 16:
            break
        at += size
    if at != len(data):
        behind = len(data) - int(header["sizeof_hdr"])
        raise FormatError(path, f"{behind} bytes that are no extension follow the header")


def _opened(path: Path, header: Any, data: Data, *, packed: bool) -> Source:
    """The voxels in ``data`` as the header describes them."""
    world = nifti_world(header)
    shape, channels, dropped = _nifti_shape(path, header)
    dtype = np.dtype(_NIFTI_TYPES[int(header["datatype"])]).newbyteorder(header.endianness)
    offset = int(header["vox_offset"])
    size = offset + math.prod(shape) * channels * dtype.itemsize
    if packed:
        check_stream(path, size, len(data) * MAX_DEFLATE_RATIO)
        plain = rest_of(unpack_voxels(path, part_from(data, 0), size, "gzip"), offset)
    else:
        check_claim(path, size, len(data))
        if len(data) != size:
            raise FormatError(path, f"{len(data)} bytes of content, the header needs exactly {size}")
        plain = part_from(data, offset)
    affine, notes, orientations = _nifti_affine(path, header, shape)
    slope, intercept, scaling = _nifti_scaling(path, header)
    unit_code = int(header["xyzt_units"]) & 7
    if unit_code == 1:  # metres
        millimetres = np.diag([*[1000.0] * (len(affine) - 1), 1.0])
        affine = millimetres @ affine
        orientations = {name: millimetres @ form for name, form in orientations.items()}
    return Source(
        path,
        raw_voxels(plain, dtype, (*shape, channels), len(shape)),
        affine,
        "um" if unit_code == 3 else "mm",
        slope,
        intercept,
        notes=notes,
        remarks=dropped + scaling,
        orientations=orientations,
        world=world,
    )
