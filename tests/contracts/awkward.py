"""Images whose headers programs read in different ways, full of texts that name a patient, by suffix and by name."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import tifffile
from scipy.spatial.transform import Rotation

SHAPE = (7, 6, 5)
# What must not be in any output.
CANARY = "CANARY"
TURN = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix()
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = TURN @ np.diag([0.7, 1.3, 4.1]), (33.123456789, -140.5, 71.25)
MIRRORED = AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0])
MOVED = AFFINE.copy()
MOVED[:3, 3] += (40.0, 3.0, -11.0)


def rough(noise: float) -> np.ndarray:
    """Axes that are nearly at right angles."""
    affine = AFFINE.copy()
    affine[:3, :3] *= 1 + np.random.default_rng(0).normal(0, noise, (3, 3))
    return affine


ROUGH = rough(2e-5)
SHEARED = AFFINE.copy()
SHEARED[:3, :3] = SHEARED[:3, :3] @ np.array([[1.0, 0.03, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

Forms = tuple[np.ndarray | None, int, np.ndarray | None, int]


def voxels(shape: tuple[int, ...], dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(7).integers(0, 200, shape).astype(dtype)


def nifti(path: Path, forms: Forms, shape: tuple[int, ...] = SHAPE, *, two: bool = False, **fields: Any) -> None:
    """A NIfTI file with sform, its code, qform, its code; ``fields`` (and ``values``) are set as they are."""
    cls, pair = (nibabel.Nifti2Header if two else nibabel.Nifti1Header), path.suffix == ".hdr"
    endian, values = fields.pop("endian", "<"), fields.pop("values", voxels(shape))
    header = cls(endianness=endian)
    header.set_data_dtype(np.dtype("int16").newbyteorder(endian))
    header.set_data_shape(shape)
    header["pixdim"][1 : 1 + len(shape)] = (0.7, 1.3, 4.1, 2.5, 1.0)[: len(shape)]
    sform, scode, qform, qcode = forms
    if qform is not None:
        header.set_qform(qform, 1)
    if sform is not None:
        header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = scode, qcode
    header["descrip"], header["aux_file"], header["intent_name"] = f"{CANARY}^DESCRIP", f"{CANARY}.aux", f"{CANARY}-i"
    if not two:
        header["db_name"] = f"{CANARY}-db"
    header["xyzt_units"] = 2
    for name, value in fields.items():
        if name == "pixdim":
            for axis, size in value.items():
                header["pixdim"][axis] = size
        else:
            header[name] = value
    header["magic"] = (b"ni" if pair else b"n+") + (b"2\0\r\n\x1a\n" if two else b"1")
    extension = b"\1\0\0\0" + np.array([32, 6], np.dtype("i4").newbyteorder(endian)).tobytes()
    extension += f"{CANARY} comment".encode().ljust(24, b"\0")
    header["vox_offset"] = 0 if pair else cls.sizeof_hdr + len(extension)
    body = values.astype(np.dtype("i2").newbyteorder(endian)).tobytes(order="F")
    if pair:
        path.write_bytes(bytes(header.binaryblock) + extension)
        path.with_suffix(".img").write_bytes(body)
        return
    data = bytes(header.binaryblock) + extension + body
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


BOTH: Forms = (AFFINE, 1, AFFINE, 1)
NONE: Forms = (None, 0, None, 0)
NIFTI: Mapping[str, Callable[[Path], None]] = {
    "no forms": lambda p: nifti(p, NONE),
    "no forms, matrices left in": lambda p: nifti(p, (AFFINE, 0, MOVED, 0)),
    "no forms, mirrored by qfac": lambda p: nifti(p, NONE, pixdim={0: -1.0}),
    "sform alone": lambda p: nifti(p, (AFFINE, 2, None, 0)),
    "sform alone, pixdim left at 1": lambda p: nifti(p, (AFFINE, 1, None, 0), pixdim={1: 1.0, 2: 1.0, 3: 1.0}),
    "qform alone": lambda p: nifti(p, (None, 0, MIRRORED, 1)),
    "qform alone, qfac 0": lambda p: nifti(p, (None, 0, AFFINE, 1), pixdim={0: 0.0}),
    "codes of templates": lambda p: nifti(p, (MIRRORED, 4, MIRRORED, 3)),
    "forms that contradict": lambda p: nifti(p, (AFFINE, 2, MOVED, 1)),
    "forms that contradict, qform of the scanner": lambda p: nifti(p, (MOVED, 1, MIRRORED, 2)),
    "nearly orthonormal": lambda p: nifti(p, (ROUGH, 1, AFFINE, 1)),
    "nearly orthonormal, sform alone": lambda p: nifti(p, (ROUGH, 1, None, 0)),
    "sheared": lambda p: nifti(p, (SHEARED, 1, None, 0)),
    "sheared beside a qform": lambda p: nifti(p, (SHEARED, 2, AFFINE, 1)),
    "no unit": lambda p: nifti(p, BOTH, xyzt_units=0),
    "micrometres and seconds": lambda p: nifti(p, BOTH, xyzt_units=3 | 8),
    "NIfTI-2": lambda p: nifti(p, BOTH, two=True),
    "NIfTI-2 without forms": lambda p: nifti(p, NONE, two=True),
    "big-endian": lambda p: nifti(p, (MIRRORED, 1, MOVED, 3), endian=">"),
    "channels": lambda p: nifti(p, BOTH, (*SHAPE, 3), pixdim={4: 2.25}),
    "channels without forms": lambda p: nifti(p, NONE, (*SHAPE, 2)),
    "an axis of length 1": lambda p: nifti(p, (MIRRORED, 1, MIRRORED, 1), (*SHAPE, 1)),
    "a vector": lambda p: nifti(p, (MIRRORED, 1, MIRRORED, 1), (*SHAPE, 1, 3)),
    "one slice": lambda p: nifti(p, (MIRRORED, 1, MIRRORED, 1), (7, 6, 1)),
    "a picture": lambda p: nifti(p, BOTH, (7, 6)),
    "a picture without forms": lambda p: nifti(p, NONE, (7, 6)),
}

NRRD_3 = {"dimension": "3", "sizes": "7 6 5", "kinds": "domain domain domain"}
VECTORS = {"space directions": "(0.7,0.1,0) (-0.2,1.3,0) (0,0,4.1)", "space origin": "(-33.125,40.5,1e2)"}
LPS = {"space": "left-posterior-superior", **VECTORS}


def nrrd(path: Path, fields: Mapping[str, str], *lines: str) -> None:
    sizes = [int(n) for n in fields["sizes"].split()]
    head = ["NRRD0005", f"# {CANARY} comment", "type: short", *(f"{name}: {text}" for name, text in fields.items())]
    head += ["endian: little", "encoding: raw", f"content: {CANARY} content", f"Patient:={CANARY}", *lines]
    body = voxels(tuple(sizes)).astype("<i2").tobytes(order="F")
    if path.suffix == ".nhdr":
        path.with_suffix(".raw").write_bytes(body)
        path.write_text("\n".join([*head, f"data file: {path.with_suffix('.raw').name}"]) + "\n")
    else:
        path.write_bytes(("\n".join(head) + "\n\n").encode() + body)


def space(name: str) -> dict[str, str]:
    return {**NRRD_3, **({"space dimension": "3"} if not name else {"space": name}), **VECTORS}


NRRD: Mapping[str, Callable[[Path], None]] = {
    **{
        f"space {name or 'unnamed'}": (lambda p, name=name: nrrd(p, space(name)))  # type: ignore[misc]
        for name in ("", "scanner-xyz", "3D-right-handed", "3D-left-handed", "LPS", "left-posterior-superior")
    },
    **{
        f"space {name}": (lambda p, name=name: nrrd(p, space(name)))  # type: ignore[misc]
        for name in ("RAS", "right-anterior-superior", "LAS", "left-anterior-superior")
    },
    "micrometres": lambda p: nrrd(p, {**NRRD_3, **LPS, "space units": '"um" "um" "um"'}),
    "micrometres, space unnamed": lambda p: nrrd(p, {**space(""), "space units": '"microns" "microns" "microns"'}),
    "spacings": lambda p: nrrd(p, {**NRRD_3, "spacings": "0.7 1.3 4.1"}),
    "spacings with units": lambda p: nrrd(p, {**NRRD_3, "spacings": "0.7 1.3 4.1", "units": '"mm" "mm" "mm"'}),
    "spacings from a place": lambda p: nrrd(
        p, {**NRRD_3, "spacings": "0.7 1.3 4.1", "axis mins": "10 20 -30.5", "centers": "node node node"}
    ),
    "cells from a place": lambda p: nrrd(
        p, {**NRRD_3, "spacings": "0.7 1.3 4.1", "axis mins": "10 20 -30.5", "centers": "cell cell cell"}
    ),
    "no size": lambda p: nrrd(p, NRRD_3),
    "centers": lambda p: nrrd(p, {**NRRD_3, **LPS, "centers": "node node cell", "thicknesses": "1 2 3"}),
    "channels first": lambda p: nrrd(
        p,
        {
            "dimension": "4",
            "space": "LPS",
            "sizes": "2 7 6 5",
            "kinds": "list domain domain domain",
            "space directions": f"none {VECTORS['space directions']}",
            "space origin": VECTORS["space origin"],
            "centers": "??? cell cell cell",
        },
    ),
    "channels last, spacings": lambda p: nrrd(
        p,
        {
            "dimension": "4",
            "sizes": "7 6 5 2",
            "kinds": "domain domain domain list",
            "spacings": "0.7 1.3 4.1 nan",
            "labels": f'"{CANARY}" "" "" ""',
        },
    ),
    "a picture": lambda p: nrrd(
        p,
        {
            "dimension": "2",
            "space dimension": "2",
            "sizes": "7 6",
            "space directions": "(0.6,0.3) (-0.4,0.8)",
            "space origin": "(3,-5)",
        },
    ),
    "a picture with spacings": lambda p: nrrd(p, {"dimension": "2", "sizes": "7 6", "spacings": "0.25 0.5"}),
}

MATRIX = " ".join(repr(float(v)) for v in (np.diag([-1, -1, 1]) @ TURN).T.ravel())
META_3 = {"NDims": "3", "DimSize": "7 6 5", "ElementType": "MET_SHORT"}


def metaimage(path: Path, fields: Mapping[str, str]) -> None:
    sizes = tuple(int(n) for n in fields["DimSize"].split())
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    lines = ["ObjectType = Image", f"Comment = {CANARY}", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"{key} = {text}" for key, text in fields.items()]
    lines += [f"Name = {CANARY}", f"Patient_Name = {CANARY}"]
    body = voxels((channels, *sizes)).astype("<i2").tobytes(order="F")
    if path.suffix == ".mhd":
        path.with_suffix(".raw").write_bytes(body)
        path.write_text("\n".join([*lines, f"ElementDataFile = {path.with_suffix('.raw').name}"]) + "\n")
    else:
        path.write_bytes(("\n".join([*lines, "ElementDataFile = LOCAL"]) + "\n").encode() + body)


def meta(**fields: str) -> Callable[[Path], None]:
    return lambda p: metaimage(p, {**META_3, **fields})


METAIMAGE: Mapping[str, Callable[[Path], None]] = {
    "oblique": meta(TransformMatrix=MATRIX, Offset="-33.5 40.125 7", ElementSpacing="0.7 1.3 4.1"),
    "center of rotation": meta(
        TransformMatrix=MATRIX,
        Offset="-33.5 40.125 7",
        CenterOfRotation="10 20 30",
        AnatomicalOrientation="LPI",
        ElementSpacing="0.7 1.3 4.1",
    ),
    "no matrix": meta(Offset="1 2 3", ElementSpacing="0.7 1.3 4.1"),
    "no matrix, an orientation": meta(AnatomicalOrientation="RAS", Offset="1 2 3", ElementSpacing="0.7 1.3 4.1"),
    "no offset": meta(TransformMatrix=MATRIX, ElementSpacing="0.7 1.3 4.1"),
    "other names": meta(Orientation=MATRIX, Position="-33.5 40.125 7", ElementSpacing="0.7 1.3 4.1"),
    "element size": meta(TransformMatrix=MATRIX, Offset="1 2 3", ElementSize="0.7 1.3 4.1"),
    "size beside spacing": meta(TransformMatrix=MATRIX, ElementSize="1 2 3", ElementSpacing="0.7 1.3 4.1"),
    "no size": meta(TransformMatrix=MATRIX, Offset="1 2 3"),
    "nothing": meta(),
    "micrometres": meta(TransformMatrix=MATRIX, DistanceUnits="um", ElementSpacing="0.7 1.3 4.1"),
    "unit unknown": meta(TransformMatrix=MATRIX, DistanceUnits="?", ElementSpacing="0.7 1.3 4.1"),
    "nearly orthonormal": meta(
        TransformMatrix="0.99999 0.001 0 -0.00101 1.00001 0 0 0 1", Offset="1 2 3", ElementSpacing="0.7 1.3 4.1"
    ),
    "channels": meta(TransformMatrix=MATRIX, ElementSpacing="0.7 1.3 4.1", ElementNumberOfChannels="2"),
    "a picture": meta(NDims="2", DimSize="7 6", TransformMatrix="0 1 -1 0", Offset="5 6", ElementSpacing="0.5 0.25"),
    "a picture without size": meta(NDims="2", DimSize="7 6"),
}


def tiff(shape: tuple[int, ...] = (6, 7), **options: Any) -> Callable[[Path], None]:
    return lambda p: tifffile.imwrite(p, voxels(shape, "uint8"), **{"software": CANARY, **options})


def unitless(path: Path, unit: int | None) -> None:
    """A TIFF with a resolution and no unit, or one that does not exist."""
    tiff(resolution=(300, 150), resolutionunit=2)(path)
    data = bytearray(path.read_bytes())
    directory = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[directory : directory + 2], "little")
    entries = range(directory + 2, directory + 2 + 12 * count, 12)
    entry = next(at for at in entries if int.from_bytes(data[at : at + 2], "little") == 296)
    if unit is None:
        data[entry : entry + 2] = (297).to_bytes(2, "little")  # the number of a page
        data[entry + 4 : entry + 8] = (1).to_bytes(4, "little")
    else:
        data[entry + 8 : entry + 10] = unit.to_bytes(2, "little")
    path.write_bytes(data)


TIFF: Mapping[str, Callable[[Path], None]] = {
    "resolution, no tag of a unit": lambda p: unitless(p, None),
    "resolution of unit 0": lambda p: unitless(p, 0),
    "300 dpi": tiff(resolution=(300, 150), resolutionunit=2),
    "per centimetre": tiff(resolution=(28346, 14000), resolutionunit=3),
    "resolution without unit": tiff(resolution=(3, 7), resolutionunit=1),
    "no resolution": tiff(description=CANARY),
    "ImageJ": tiff(imagej=True, resolution=(4.2, 2.1), metadata={"unit": "um", "Info": CANARY}),
    "ImageJ stack": tiff(
        (5, 6, 7), imagej=True, resolution=(4.2, 2.1), metadata={"axes": "ZYX", "unit": "micron", "spacing": 3.5}
    ),
    "ImageJ channels": tiff((5, 6, 7), imagej=True, resolution=(4.2, 2.1), metadata={"axes": "CYX", "unit": "um"}),
    "tifffile's stack": tiff((5, 6, 7), metadata={"axes": "ZYX"}),
    "one slice": tiff((1, 6, 7), metadata={"axes": "ZYX"}, resolution=(300, 300), resolutionunit=2),
}
OME: Mapping[str, Callable[[Path], None]] = {
    "micrometres": tiff(ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.33, "PhysicalSizeY": 0.5}),
    "nanometres": tiff(
        (5, 6, 7),
        ome=True,
        resolution=(72, 72),
        resolutionunit=2,
        metadata={
            "axes": "ZYX",
            **{f"PhysicalSize{a}": s for a, s in zip("XYZ", (330.0, 500.0, 2000.0), strict=True)},
            **{f"PhysicalSize{a}Unit": "nm" for a in "XYZ"},
        },
    ),
    "no size": tiff((5, 6, 7), ome=True, metadata={"axes": "ZYX"}),
}
PICTURES = {
    suffix: {"grey": lambda p, encode=encode: p.write_bytes(encode(voxels((6, 7), "uint8"))) and None}  # type: ignore[misc]
    for suffix, encode in (
        (".png", imagecodecs.png_encode),
        (".jpg", imagecodecs.jpeg8_encode),
        (".jpeg", imagecodecs.jpeg8_encode),
        (".bmp", imagecodecs.bmp_encode),
        (".gif", imagecodecs.gif_encode),
    )
}

# Suffix -> images of that format.
AWKWARD: Mapping[str, Mapping[str, Callable[[Path], None]]] = {
    **dict.fromkeys((".nii", ".nii.gz", ".hdr"), NIFTI),
    **dict.fromkeys((".nrrd", ".nhdr", ".seg.nrrd"), NRRD),
    **dict.fromkeys((".mha", ".mhd"), METAIMAGE),
    **dict.fromkeys((".tif", ".tiff"), TIFF),
    **dict.fromkeys((".ome.tif", ".ome.tiff"), OME),
    **PICTURES,
}
