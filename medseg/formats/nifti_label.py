"""Label maps as NIfTI: a fresh header, with the fields of the image's that say where voxels are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medseg.formats.headers import require_axes
from medseg.formats.plain import Files, Fill, Labels, filled, first_axis_fastest, gzipped
from medseg.formats.world import NOTHING, About, World
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry

# By these programs place voxels; the axes of ``pixdim`` beyond the third are time and channels, kept for completeness.
_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
# A qform may be this far from the sform, in voxels at a corner: no reader finds a contradiction, and those that take no
# sform with axes nearly at right angles (the Insight Toolkit's) still read the file.
QFORM_ERROR = AFFINE_TOLERANCE_VOXELS / 2


def nifti_world(header: Any) -> World:
    """Both forms and their codes, voxel sizes and units of a header, before anything in it is corrected."""
    return World("NIfTI", {"sizeof_hdr": int(header["sizeof_hdr"]), **{n: np.array(header[n]) for n in _FIELDS}})


def write_nifti(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """A NIfTI file; texts and extensions of the input's header may name the patient, so none of them is copied."""
    return filled(_pieces(path, labels, geometry, about))


def write_nifti_gz(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """The same, gzipped."""
    return gzipped(_pieces(path, labels, geometry, about))


def _pieces(path: Path, labels: Labels, geometry: Geometry, about: About) -> Iterator[bytes]:
    header = _fresh_header(path, labels, geometry, about)
    start = bytes(header.binaryblock.ljust(header.single_vox_offset, b"\x00"))
    return itertools.chain([start], first_axis_fastest(labels))


def write_pair(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Files:
    """The same as header and data file."""
    header = _fresh_header(path, labels, geometry, about)
    header["vox_offset"] = 0
    header["magic"] = bytes(header["magic"].item()).replace(b"n+", b"ni")
    return {path.name: filled([bytes(header.binaryblock)]), data_file(path): filled(first_axis_fastest(labels))}


def data_file(path: Path) -> str:
    """Name of the data file of a header: that of the header, ending in ``.img``."""
    return f"{path.name[: -len('.hdr')]}{'.IMG' if path.name.endswith('.HDR') else '.img'}"


def _fresh_header(path: Path, labels: Labels, geometry: Geometry, about: About) -> Any:
    import nibabel

    require_axes(path, geometry)
    fields = about.fields("NIfTI")
    small = fields.get("sizeof_hdr", nibabel.Nifti1Header.sizeof_hdr) == nibabel.Nifti1Header.sizeof_hdr
    small = small and max(labels.shape) < 2**15
    header = (nibabel.Nifti1Header if small else nibabel.Nifti2Header)(endianness="<")
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(labels.shape)
    if fields:
        for name in _FIELDS:
            header[name] = fields[name]
    else:
        _set_forms(header, labels.shape, geometry)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = b"n+1" if small else b"n+2\x00\r\n\x1a\n"
    return header


def _set_forms(header: Any, shape: tuple[int, ...], geometry: Geometry) -> None:
    """Write a grid as sform and qform, so that programs that look at one only agree."""
    affine = geometry.affine
    if geometry.dims == 2:
        # A picture lies in the plane of the first two axes of the world.
        affine = np.insert(np.insert(affine, 2, 0.0, axis=0), 2, (0.0, 0.0, 1.0, 0.0), axis=1)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    # A qform cannot hold shear: better none than one that contradicts the sform.
    volume = Geometry.create((*shape, 1)[:3], affine)
    if volume.corner_distance_voxels(Geometry.create(volume.shape, header.get_qform())) > QFORM_ERROR:
        header["qform_code"] = 0
    header.set_xyzt_units("micron" if geometry.unit == "um" else "mm")
