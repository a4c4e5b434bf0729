"""Label maps as TIFF: plain pictures, OME-TIFF where there is a pixel size or a Z axis."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.plain import Fill, Labels, whole
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import MICROMETRES, Geometry

# Pixels of a page above which it is written in tiles, and pixels per axis of a tile.
TILED, TILE = 2**26, 512
# Bytes of uncompressed values from which on offsets have 64 bits.
BIG = 2**31

_OME_TYPES = {"f4": "float", "i1": "int8", "i2": "int16", "i4": "int32", "u1": "uint8", "u2": "uint16", "u4": "uint32"}


def write_tiff(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """A deflated grey TIFF: pages are slices; OME-XML holds the pixel size, JSON the axes of a single slice."""
    if geometry.unit == "px" and geometry.dims == 2:
        return _write(labels, "", about)
    if geometry.dims == 3 and labels.shape[0] == 1:
        return _write(labels, _shape_json(path, labels, geometry), about)
    return write_ome_tiff(path, labels, geometry, about)


def write_ome_tiff(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """A deflated OME-TIFF with a fresh description: type, shape and pixel size."""
    sizes = _sizes(path, geometry)
    if labels.dtype.str[1:] not in _OME_TYPES:
        labels = _narrow(path, whole(labels))
    if geometry.dims == 3 and labels.shape[0] == 1:
        raise FormatError(path, "a volume of one slice, which OME-TIFF cannot distinguish from a picture", "write .tif")
    slices, rows, columns = labels.shape if len(labels.shape) == 3 else (1, *labels.shape)
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


def _write(labels: Labels, description: str, about: About) -> Fill:
    """A TIFF of these labels; its resolution tags are those of the image, from which some programs take a size.

    Large pictures are written in tiles, as viewers need them; what may not fit into 32 bits is a BigTIFF.
    """
    tags, more = about.fields("TIFF"), dict[str, Any]()
    if tags:
        more = {"resolution": (tags["XResolution"], tags["YResolution"]), "resolutionunit": tags["ResolutionUnit"]}
    if math.prod(labels.shape[-2:]) > TILED:
        more["tile"] = (TILE, TILE)
    big = math.prod(labels.shape) * labels.dtype.itemsize > BIG

    def fill(file: BinaryIO) -> None:
        import tifffile

        with tifffile.TiffWriter(file, bigtiff=big) as tiff:
            tiff.write(
                whole(labels) if math.prod(labels.shape) <= TILED else _parts(labels, tiled="tile" in more),
                shape=labels.shape,
                dtype=labels.dtype,
                photometric="minisblack",
                compression="zlib",
                description=description or None,
                metadata=None,
                software=False,
                **more,
            )

    return fill


def _parts(labels: Labels, *, tiled: bool) -> Iterator[NDArray[Any]]:
    """The pages, or the tiles of all pages, one after the other."""
    rows, columns = labels.shape[-2:]
    for page in np.ndindex(labels.shape[:-2]):
        lead = tuple(slice(k, k + 1) for k in page)
        if not tiled:
            yield labels[(*lead, slice(None), slice(None))].reshape(rows, columns)
            continue
        for row in range(0, rows, TILE):
            # All tiles of a row of them, so that what lies on disk is read once.
            strip = labels[(*lead, slice(row, row + TILE), slice(None))].reshape(-1, columns)
            for column in range(0, columns, TILE):
                part = strip[:, column : column + TILE]
                yield np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1])))


def _shape_json(path: Path, labels: Labels, geometry: Geometry) -> str:
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
