"""Label maps as TIFF: plain pictures, OME-TIFF where there is a pixel size or a Z axis."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import MICROMETRES, Geometry

_OME_TYPES = {"f4": "float", "i1": "int8", "i2": "int16", "i4": "int32", "u1": "uint8", "u2": "uint16", "u4": "uint32"}


def tiff_bytes(path: Path, labels: NDArray[Any], geometry: Geometry, about: About = NOTHING) -> bytes:
    """A deflated grey TIFF: pages are slices; OME-XML holds the pixel size, JSON the axes of a single slice."""
    if geometry.unit == "px" and geometry.dims == 2:
        return _write(labels, "", about)
    if geometry.dims == 3 and labels.shape[0] == 1:
        return _write(labels, _shape_json(path, labels, geometry), about)
    return ome_tiff_bytes(path, labels, geometry, about)


def ome_tiff_bytes(path: Path, labels: NDArray[Any], geometry: Geometry, about: About = NOTHING) -> bytes:
    """A deflated OME-TIFF with a fresh description: type, shape and pixel size."""
    sizes = _sizes(path, geometry)
    if labels.dtype.str[1:] not in _OME_TYPES:
        labels = _narrow(path, labels)
    if geometry.dims == 3 and labels.shape[0] == 1:
        raise FormatError(path, "a volume of one slice, which OME-TIFF cannot distinguish from a picture", "write .tif")
    slices, rows, columns = labels.shape if labels.ndim == 3 else (1, *labels.shape)
    size = "".join(f' PhysicalSize{a}="{s!r}" PhysicalSize{a}Unit="&#181;m"' for a, s in sizes.items())
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://www.openmicroscopy.org/'
        'Schemas/OME/2016-06 http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{_OME_TYPES[labels.dtype.str[1:]]}" SizeX="{columns}" '
        f'SizeY="{rows}" SizeZ="{slices}" SizeC="1" SizeT="1"{size}><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f'<TiffData IFD="0" PlaneCount="{slices}"/></Pixels></Image></OME>'
    )
    return _write(labels, xml, about)


def _write(labels: NDArray[Any], description: str, about: About) -> bytes:
    """A TIFF of these labels; its resolution tags are those of the image, from which some programs take a size."""
    import tifffile

    tags, resolution = about.fields("TIFF"), {}
    if tags:
        pair = (tags["XResolution"], tags["YResolution"])
        resolution = {"resolution": pair, "resolutionunit": tags["ResolutionUnit"]}
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        labels,
        photometric="minisblack",
        compression="zlib",
        description=description or None,
        metadata=None,
        software=False,
        **resolution,
    )
    return out.getvalue()


def _shape_json(path: Path, labels: NDArray[Any], geometry: Geometry) -> str:
    sizes = {f"PhysicalSize{axis}": size for axis, size in _sizes(path, geometry).items()}
    return json.dumps({"shape": list(labels.shape), "axes": "ZYX", **sizes})


def _sizes(path: Path, geometry: Geometry) -> dict[str, float]:
    """Micrometres by axis, empty for a grid in pixels; TIFF cannot hold any other grid."""
    # A volume in mm has directions in the world, and axes in another order than pages.
    geometry = geometry.in_unit("um") if geometry.unit in MICROMETRES and geometry.dims == 2 else geometry
    scales = np.diag(geometry.affine)
    upright = np.array_equal(geometry.affine, np.diag(scales)) and (scales > 0).all()
    if geometry.dims not in (2, 3) or geometry.unit not in ("px", "um") or not upright:
        cause = f"a grid of {geometry.dims} axes in {geometry.unit} with orientation or origin, which TIFF cannot hold"
        raise FormatError(path, cause, "write .nii.gz, .nrrd or .mha")
    axes = "ZYX" if geometry.dims == 3 else "YX"
    return dict(zip(axes, geometry.spacing, strict=True)) if geometry.unit == "um" else {}


def _narrow(path: Path, labels: NDArray[Any]) -> NDArray[Any]:
    """64-bit integers in a type that OME-TIFF has."""
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    narrow = np.int32 if low < 0 else np.uint32
    if not np.iinfo(narrow).min <= low <= high <= np.iinfo(narrow).max:
        raise FormatError(path, f"labels {low} to {high}, OME-TIFF holds 32 bits", "write .nrrd or .nii.gz")
    return labels.astype(narrow)
