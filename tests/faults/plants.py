"""Ways to damage sound data sets: per fault of the catalogue, what is done and what must be said about it."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import tifffile

from medseg.formats.read import read_image, read_labels

Damage = Callable[[Path], Any]


@dataclass(frozen=True)
class Plant:
    """A fault.

    Attributes:
        ids: entries of the catalogue that it shows.
        code: what ``medseg ingest`` calls it.
        kind: a key of ``tests.faults.sets.KINDS``.
        case: case id in the fault.
        damage: what is done to the data set's folder.
        words: parts of the cause.
        section: what the configuration says besides.
    """

    ids: str
    code: str
    kind: str
    case: str
    damage: Damage
    words: tuple[str, ...] = ()
    section: dict[str, Any] = field(default_factory=dict)


# Tools


def picture(path: Path) -> np.ndarray:
    return np.moveaxis(read_image(path)[0], 0, -1).squeeze()


def store_png(path: Path, values: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(values))


def store_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write voxels with nibabel, on the grid of the file that is there unless another is given."""
    known = read_image(path)[1].affine if affine is None else affine
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(values, known, dtype=values.dtype).to_bytes()))


def change_voxel(path: Path, value: float, dtype: str) -> None:
    values = read_image(path)[0][0].astype(dtype)
    values[2, 3, 4] = value
    store_nifti(path, values)


def change_index(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((root / "dataset.json").read_text())
    change(index)
    (root / "dataset.json").write_text(json.dumps(index))


def listing(**entry: Any) -> Damage:
    return lambda root: change_index(root, lambda index: index["training"].append(entry))


def patch_header(path: Path, offset: int, form: str, *values: float) -> None:
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))


def patched(file: str, offset: int, form: str, *values: float) -> Damage:
    return lambda root: patch_header(root / file, offset, form, *values)


def rewritten(file: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda root: (root / file).write_bytes(change((root / file).read_bytes()))


def stored(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Change the voxels of a NIfTI file or the pixels of a PNG."""

    def damage(root: Path) -> None:
        path = root / file
        if path.suffix == ".png":
            store_png(path, np.ascontiguousarray(change(picture(path))))
        else:
            store_nifti(path, change(read_image(path)[0][0]))

    return damage


def regridded(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Change the affine of a NIfTI file."""

    def damage(root: Path) -> None:
        image, grid = read_image(root / file)
        store_nifti(root / file, image[0], change(grid.affine))

    return damage


def moved(affine: np.ndarray, voxels: float) -> np.ndarray:
    out = affine.copy()
    out[:3, 3] += out[:3, 0] * voxels
    return out


def both(first: Damage, second: Damage) -> Damage:
    return lambda root: (first(root), second(root))


def rename(root: Path, old: str, new: str) -> None:
    for folder in ("images", "masks"):
        (root / folder / f"{old}.png").rename(root / folder / f"{new}.png")


def copy_case(root: Path, old: str, new: str) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / f"{old}.png", root / folder / f"{new}.png")


def patch_slices(root: Path, change: Callable[[int, Any], None]) -> None:
    """Change the DICOM slices of case 001, in their order."""
    import pydicom

    for number, file in enumerate(sorted((root / SERIES).iterdir())):
        slice_ = pydicom.dcmread(file)
        change(number, slice_)
        slice_.save_as(file)


def slices(change: Callable[[int, Any], None]) -> Damage:
    return lambda root: patch_slices(root, change)


# Case 001 of each kind
O1, C1, N1, T1, D1, J1 = "organs_001", "cells_001", "nifti_001", "tiff_001", "dicom_001", "objects_001"
X1 = "channels_001"
IMAGE, LABEL = f"imagesTr/{O1}.nii.gz", f"labelsTr/{O1}.nii.gz"
PICTURE, MASK = f"images/{C1}.png", f"masks/{C1}.png"
PLAIN, PLAIN_LABEL = f"images/{N1}.nii", f"masks/{N1}.nii"
TIFF, TIFF_MASK = f"images/{T1}.tif", f"masks/{T1}.tif"
MR, PET = f"imagesTr/{X1}_0000.nii.gz", f"imagesTr/{X1}_0001.nii.gz"
SERIES = f"images/{D1}"
STACK = "images/stacks_001.tif"


def organ(ids: str, code: str, damage: Damage, *words: str, **section: Any) -> Plant:
    return Plant(ids, code, "organs", O1, damage, words, section)


def cell(ids: str, code: str, damage: Damage, *words: str, **section: Any) -> Plant:
    return Plant(ids, code, "cells", C1, damage, words, section)


def plain(ids: str, code: str, damage: Damage, *words: str, **section: Any) -> Plant:
    return Plant(ids, code, "nifti", N1, damage, words, section)


def series(ids: str, code: str, damage: Damage, *words: str, **section: Any) -> Plant:
    return Plant(ids, code, "dicom", D1, damage, words, section)


# How files are found and paired


def plant_unlisted(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(root / folder / f"{O1}.nii.gz", root / folder / "new.nii.gz")


def plant_case_twins(root: Path) -> None:
    copy_case(root, C1, C1.upper())
    # Another picture: a darker one would be a fault of its own.
    pixels = picture(root / PICTURE)
    store_png(
        root / "images" / f"{C1.upper()}.png", np.random.default_rng(0).permuted(pixels.ravel()).reshape(pixels.shape)
    )


def as_jpeg(root: Path) -> None:
    """Store a mask as JPEG, in which no number is what it was."""
    values = (picture(root / MASK) * 40 % 256).astype(np.uint8)
    (root / MASK).unlink()
    (root / f"masks/{C1}.jpg").write_bytes(imagecodecs.jpeg_encode(values, level=90))


def plant_link(root: Path) -> None:
    target = root.parent / "elsewhere.png"
    (root / PICTURE).rename(target)
    (root / PICTURE).symlink_to(target)


def entry(image: str) -> Damage:
    return listing(image=image, label=f"./{LABEL}")


PAIRING: dict[str, Plant] = {
    "pairs: image without label": cell("", "image-without-label", lambda r: (r / MASK).unlink()),
    "listed: image without label": organ("", "image-without-label", lambda r: (r / LABEL).unlink()),
    "new image in imagesTr": Plant(
        "", "image-without-label", "organs", "new", lambda r: shutil.copy(r / IMAGE, r / "imagesTr/new.nii.gz")
    ),
    "objects: no masks": Plant("", "image-without-label", "objects", J1, lambda r: shutil.rmtree(r / J1 / "masks")),
    "pairs: label without image": cell("", "label-without-image", lambda r: (r / PICTURE).unlink()),
    "listed: label without image": organ("", "label-without-image", lambda r: (r / IMAGE).unlink()),
    "new label in labelsTr": Plant(
        "", "label-without-image", "organs", "new", lambda r: shutil.copy(r / LABEL, r / "labelsTr/new.nii.gz")
    ),
    "listed, nothing there": Plant(
        "", "missing", "organs", "ghost", listing(image="./imagesTr/ghost.nii.gz", label="./labelsTr/ghost.nii.gz")
    ),
    "no folder masks": Plant("", "missing", "cells", "-", lambda r: shutil.rmtree(r / "masks")),
    "no dataset.json": Plant("", "missing", "organs", "-", lambda r: (r / "dataset.json").unlink()),
    "no folder": Plant("", "missing", "organs", "-", shutil.rmtree),
    "nothing in it": Plant(
        "", "missing", "cells", "-", lambda r: [f.unlink() for f in [*r.glob("images/*"), *r.glob("masks/*")]]
    ),
    "dataset.json cut": Plant(
        "", "dataset-json", "organs", "-", lambda r: (r / "dataset.json").write_text('{"labels": {')
    ),
    "no training list": Plant(
        "", "dataset-json", "organs", "-", lambda r: change_index(r, lambda i: i.pop("training"))
    ),
    "entry without label": Plant("", "dataset-json", "organs", "-", listing(image=f"./{IMAGE}")),
    "entry with NUL": Plant("", "dataset-json", "organs", "-", listing(image="a\0b", label="c")),
    "no labels": Plant("", "dataset-json", "organs", "-", lambda r: change_index(r, lambda i: i.pop("labels"))),
    "numTraining wrong": Plant(
        "", "dataset-json", "channels", "-", lambda r: change_index(r, lambda i: i.update(numTraining=9))
    ),
    "unlisted pair": Plant("", "unlisted", "organs", "new", plant_unlisted),
    "a.png and a.tif": cell(
        "LB-12", "duplicate-id", lambda r: tifffile.imwrite(r / f"images/{C1}.tif", picture(r / PICTURE))
    ),
    "a and A": Plant("LB-12 CF-08", "duplicate-id", "cells", C1, plant_case_twins, (C1.upper(),)),
    "two masks": cell("LB-12", "duplicate-id", lambda r: (r / f"masks/{C1}.tif").write_bytes(b"II*\0")),
    "listed twice": organ("LB-12", "duplicate-id", listing(image=f"./{IMAGE}", label=f"./{LABEL}")),
    "names that become one id": Plant(
        "LB-12 CF-08",
        "duplicate-id",
        "cells",
        "a_b",
        both(lambda r: rename(r, C1, "a b"), lambda r: copy_case(r, "a b", "a_b")),
        ("the same id as images/a b.png",),
    ),
    "id with a line break": Plant("CF-06 CF-08", "unsafe-id", "cells", r"'a\nb'", lambda r: rename(r, C1, "a\nb")),
    "parent folder": Plant("CF-05", "unsafe-path", "organs", "x", entry("../x.nii.gz")),
    "parent folder inside": Plant("CF-05", "unsafe-path", "organs", "x", entry("imagesTr/../../x.nii.gz")),
    "parent folder with dots": Plant("CF-05", "unsafe-path", "organs", "x", entry("./././.././x.nii.gz")),
    "absolute path": Plant("CF-05", "unsafe-path", "organs", "passwd", entry("/etc/passwd")),
    "absolute path, two slashes": Plant("CF-05", "unsafe-path", "organs", "passwd", entry("//etc/passwd")),
    "label in the parent folder": Plant(
        "CF-05", "unsafe-path", "organs", "x", listing(image=f"./{IMAGE}", label="../x.nii.gz")
    ),
    "link that leads out": cell("CF-05", "unsafe-path", plant_link),
    "subject of no case": Plant(
        "LB-11", "subject", "cells", "odd", lambda r: rename(r, C1, "odd"), (), {"subject": r"cells_(\d+)"}
    ),
    "ids that repeat subjects": Plant(
        "LB-11", "subject", "cells", "-", lambda r: rename(r, C1, "cells_000_b"), ("cells_000_b",)
    ),
}


# What files hold


def cut(share: float) -> Damage:
    return rewritten(IMAGE, lambda data: data[: int(len(data) * share)])


def flip_bit(data: bytes, at: int) -> bytes:
    out = bytearray(data)
    out[at] ^= 4
    return bytes(out)


def as_plain(change: Callable[[bytes], bytes], file: str = IMAGE) -> Damage:
    """Put the unpacked bytes, changed, under the packed file's name."""
    return rewritten(file, lambda data: change(gzip.decompress(data)))


def huge_nifti2(root: Path) -> None:
    header = nibabel.Nifti2Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header["dim"][1:4] = 100_000
    header["magic"] = b"n+2\0\r\n\x1a\n"
    (root / PLAIN).write_bytes(header.binaryblock + b"\0" * 1000)


def bomb(root: Path) -> None:
    store_nifti(root / IMAGE, np.zeros((256, 256, 128), np.int16), np.eye(4))


def five_axes(root: Path) -> None:
    store_nifti(root / IMAGE, np.zeros((8, 8, 8, 2, 2), np.int16))


def in_colour(root: Path) -> None:
    values = np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    store_nifti(root / IMAGE, values)


def header_flip(root: Path) -> None:
    """sform and qform valid, x the other way round in one."""
    image = nibabel.load(root / PLAIN)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine @ np.diag([-1.0, 1, 1, 1]), 1)
    data = np.asarray(image.dataobj).copy()
    nibabel.save(nibabel.Nifti1Image(data, None, image.header), root / PLAIN)


def linear_label(root: Path) -> None:
    from scipy.ndimage import zoom

    labels = read_labels(root / LABEL)[0].astype(np.float32)
    coarse = zoom(labels, 0.5, order=1)
    fine = zoom(coarse, [n / c for n, c in zip(labels.shape, coarse.shape, strict=True)], order=1)
    store_nifti(root / LABEL, fine[tuple(slice(0, n) for n in labels.shape)])


def nan_picture(value: float) -> Damage:
    return lambda root: change_voxel(root / IMAGE, value, "float32")


FILES: dict[str, Plant] = {
    **{f"cut at {share:.0%}": organ("IN-01", "unreadable", cut(share)) for share in (0.01, 0.1, 0.5, 0.9, 0.99)},
    **{
        f"without the last {n} bytes": organ("IN-01 IN-02", "unreadable", rewritten(IMAGE, lambda d, n=n: d[:-n]))
        for n in range(1, 13)
    },
    "wrong checksum": organ("IN-02", "unreadable", rewritten(IMAGE, lambda d: flip_bit(d, -6))),
    "wrong length": organ("IN-02", "unreadable", rewritten(IMAGE, lambda d: flip_bit(d, -2))),
    "label without its checksum": organ("IN-02", "unreadable", rewritten(LABEL, lambda d: d[:-8])),
    "bytes behind the end": organ("IN-03", "unreadable", rewritten(IMAGE, lambda d: d + b"junk" * 18)),
    "two gzip members": organ("IN-03", "unreadable", rewritten(IMAGE, lambda d: d + gzip.compress(b"more"))),
    "half a file": plain("IN-04", "unreadable", rewritten(PLAIN, lambda d: d[: len(d) // 2])),
    "half a label": plain("IN-04", "unreadable", rewritten(PLAIN_LABEL, lambda d: d[: len(d) // 2])),
    "0 bytes": organ("IN-05", "unreadable", rewritten(IMAGE, lambda d: b""), "empty"),
    "text": organ("IN-05", "unreadable", rewritten(IMAGE, lambda d: b"hello" * 99)),
    "plain file named .gz": organ("IN-05", "unreadable", as_plain(lambda d: d), "gzip"),
    "gzip file named .nii": plain("IN-05", "unreadable", rewritten(PLAIN, gzip.compress), "gzip"),
    "32767 voxels a side": plain("IN-06", "unreadable", patched(PLAIN, 42, "<3h", 32767, 32767, 32767)),
    "32767 voxels a side, packed": organ("IN-06", "unreadable", patched(IMAGE, 42, "<3h", 32767, 32767, 32767)),
    "100000 voxels a side": plain("IN-06", "unreadable", huge_nifti2),
    "decompression bomb": organ("IN-07", "too-large", bomb, "1000000", max_gb=0.001),
    "dim 0": organ("IN-08", "unreadable", patched(IMAGE, 42, "<h", 0)),
    "dim negative": organ("IN-08", "unreadable", patched(IMAGE, 44, "<h", -5)),
    "no axes": organ("IN-08", "unreadable", patched(IMAGE, 40, "<h", 0)),
    "eight axes": organ("IN-08", "unreadable", patched(IMAGE, 40, "<h", 8)),
    "vox_offset 0": organ("IN-09", "unreadable", patched(IMAGE, 108, "<f", 0.0)),
    "vox_offset 1e9": organ("IN-09", "unreadable", patched(IMAGE, 108, "<f", 1e9)),
    "vox_offset -10": organ("IN-09", "unreadable", patched(IMAGE, 108, "<f", -10.0)),
    "bitpix wrong": organ("IN-10", "unreadable", patched(IMAGE, 72, "<h", 32)),
    "datatype unknown": organ("IN-10", "unreadable", patched(IMAGE, 70, "<h", 9999)),
    "slope overflows": organ("IN-11", "unreadable", patched(IMAGE, 112, "<f", 1e38), "scl_slope"),
    "complex numbers": organ("IN-12", "unreadable", stored(IMAGE, lambda v: v.astype(np.complex64))),
    "colour volume": organ("IN-12", "unreadable", in_colour),
    "five axes": organ("IN-12 IN-13", "unreadable", five_axes, "8, 8, 8, 2, 2"),
    "fourth axis": organ("IN-13", "channels", stored(IMAGE, lambda v: np.stack([v] * 2, -1)), "2 channels of"),
    "flat file": organ(
        "IN-14",
        "dims-mismatch",
        both(stored(IMAGE, lambda v: v[:, :, 9]), stored(LABEL, lambda v: v[:, :, 9])),
        "2 spatial",
    ),
    "one slice": Plant(
        "IN-14",
        "dims-mismatch",
        "organs",
        O1,
        both(stored(IMAGE, lambda v: v[:, :, :1]), stored(LABEL, lambda v: v[:, :, v.shape[2] // 2, None])),
        ("along 2 axes, most cases along 3",),
    ),
    "NaN": organ("IN-15", "nonfinite", nan_picture(np.nan), "1 NaN and 0 Inf", "first nan at (2, 3, 4)"),
    "+Inf": organ("IN-15", "nonfinite", nan_picture(np.inf), "0 NaN and 1 Inf", "first inf at (2, 3, 4)"),
    "-Inf": organ("IN-15", "nonfinite", nan_picture(-np.inf), "first -inf at (2, 3, 4)"),
    "beyond 32 bits": organ(
        "IN-15",
        "nonfinite",
        lambda root: change_voxel(root / IMAGE, 1e39, "float64"),
        "1 voxels beyond what 32-bit floats hold (3.4e+38)",
        "first 1e+39 at (2, 3, 4)",
    ),
    "constant in a circle": organ(
        "IN-16",
        "constant-image",
        stored(IMAGE, lambda v: np.where(np.arange(len(v))[:, None, None] < 9, -3024, v * 0 + 40).astype(np.int16)),
        "every voxel is 40 but for",
        "of -3024",
    ),
    "zeros": organ("IN-16", "constant-image", stored(IMAGE, lambda v: v * 0), "every voxel is 0"),
    "1000 everywhere": organ("IN-16", "constant-image", stored(IMAGE, lambda v: v * 0 + 1000), "every voxel is 1000"),
    "white picture": cell("IN-16", "constant-image", stored(PICTURE, lambda v: v * 0 + 255)),
    "pixdim 0": organ("IN-18", "unreadable", patched(IMAGE, 84, "<f", 0.0), "voxel size"),
    "pixdim negative": organ("IN-18", "unreadable", patched(IMAGE, 84, "<f", -1.0), "voxel size"),
    "pixdim NaN": organ("IN-18", "unreadable", patched(IMAGE, 88, "<f", math.nan), "voxel size"),
    "x one way and the other": plain("IN-19", "orientation", header_flip, "sform and qform differ"),
    "qform moved": organ("IN-19", "orientation", patched(IMAGE, 268, "<f", 99.0), "sform and qform differ"),
    "voxel sizes contradict": plain(
        "IN-20",
        "orientation",
        both(patched(PLAIN, 252, "<h", 0), patched(PLAIN, 84, "<f", 5.0)),
        "pixdim says",
    ),
    "no orientation": organ(
        "IN-21", "no-orientation", both(patched(IMAGE, 252, "<2h", 0, 0), patched(LABEL, 252, "<2h", 0, 0)), "unknown"
    ),
    "singular affine": organ("IN-22", "unreadable", patched(IMAGE, 280, "<4f", 0, 0, 0, 0), "singular"),
    "affine with NaN": organ("IN-22", "unreadable", patched(IMAGE, 280, "<f", math.nan)),
    "shear": organ(
        "IN-23",
        "shear",
        lambda r: [regridded(f, lambda a: a @ (np.eye(4) + 0.5 * np.eye(4, k=1)))(r) for f in (IMAGE, LABEL)],
        "degrees",
    ),
    "label 7": organ(
        "LB-01",
        "label-values",
        lambda r: change_voxel(r / LABEL, 7, "uint8"),
        "value 7: 1 voxels, first at (2, 3, 4)",
        "0 background, 1 liver, 2 kidney",
    ),
    "label -1": organ("LB-01", "label-values", lambda r: change_voxel(r / LABEL, -1, "int16"), "value -1: 1 voxels"),
    "label 255": organ("LB-01", "label-values", lambda r: change_voxel(r / LABEL, 255, "uint8"), "value 255: 1 voxels"),
    "label 70000": organ("LB-01", "label-values", lambda r: change_voxel(r / LABEL, 70_000, "int32"), "value 70000"),
    "label 1.5": organ(
        "LB-02",
        "label-not-integer",
        lambda r: change_voxel(r / LABEL, 1.5, "float32"),
        "1 label voxels",
        "first 1.5 at (2, 3, 4)",
    ),
    "label 0.99": organ("LB-02", "label-not-integer", lambda r: change_voxel(r / LABEL, 0.99, "float32"), "0.99"),
    "label NaN": organ("LB-02", "label-not-integer", lambda r: change_voxel(r / LABEL, np.nan, "float32"), "first nan"),
    "scaled label": organ("LB-03", "label-not-integer", patched(LABEL, 112, "<f", 1 / 3), "0.333"),
    "label resampled linearly": organ("LB-04", "label-not-integer", linear_label),
    "JPEG": cell("LB-05", "unreadable", as_jpeg, "lossy"),
    "JPEG inside a TIFF": Plant(
        "LB-05",
        "unreadable",
        "tiff",
        T1,
        lambda r: tifffile.imwrite(
            r / TIFF_MASK, read_labels(r / TIFF_MASK)[0].astype(np.uint8), compression="jpeg", photometric="minisblack"
        ),
        ("lossy",),
    ),
    "mask in colour": cell(
        "LB-05", "unreadable", stored(MASK, lambda v: np.stack([v, v, v * 0], -1).astype(np.uint8)), "file in colour"
    ),
    "objects: none": Plant(
        "LB-08", "empty-label", "objects", J1, lambda r: [f.unlink() for f in (r / J1 / "masks").iterdir()]
    ),
    "label one slice short": organ("LB-06", "shape-mismatch", stored(LABEL, lambda v: v[:, :, :-1])),
    "mask one row short": cell("LB-06", "shape-mismatch", stored(MASK, lambda v: v[:-1])),
    "label moved": organ("LB-07", "affine-mismatch", regridded(LABEL, lambda a: moved(a, 0.6)), "0.6 voxels"),
    "label mirrored": organ("LB-07", "affine-mismatch", regridded(LABEL, lambda a: a @ np.diag([-1.0, 1, 1, 1]))),
    "empty label": organ("LB-08", "empty-label", stored(LABEL, lambda v: v * 0)),
    "empty mask": cell("LB-08", "empty-label", stored(MASK, lambda v: v * 0)),
    "picture cut": cell("", "unreadable", rewritten(PICTURE, lambda d: d[:3000])),
    "folder instead of a file": cell("", "unreadable", lambda r: ((r / MASK).unlink(), (r / MASK).mkdir())),
}


# What cases say about one another


def size_of_one(root: Path) -> None:
    """One TIFF states a size, the others are in pixels."""
    for file in (TIFF, TIFF_MASK):
        pixels = read_image(root / file)[0][0]
        tifffile.imwrite(root / file, pixels, imagej=True, resolution=(3.0, 3.0), metadata={"unit": "micron"})


def far_size(root: Path) -> None:
    """Image and label of one case in metres that are taken for millimetres."""
    for file in (IMAGE, LABEL):
        image, grid = read_image(root / file)
        store_nifti(root / file, image[0], grid.affine @ np.diag([1e-3, 1e-3, 1e-3, 1.0]))


def spots(mask: np.ndarray) -> np.ndarray:
    """A binary mask of many spots."""
    out = np.zeros_like(mask)
    out[4::12, 4::12] = out[5::12, 4::12] = 255
    return out


def swap_channels(root: Path) -> None:
    (root / MR).rename(root / "swap")
    (root / PET).rename(root / MR)
    (root / "swap").rename(root / PET)


def darker_copy(root: Path) -> None:
    """The same picture, exported with other grey values."""
    copy_case(root, C1, "other")
    store_png(root / "images/other.png", picture(root / PICTURE) // 2 + 7)


def as_tiff(root: Path) -> None:
    """The same picture under another id, in another format and compression."""
    tifffile.imwrite(root / "images/other.tif", picture(root / PICTURE), compression="zlib")
    shutil.copy(root / MASK, root / "masks/other.png")


def other_header(root: Path) -> None:
    """The same voxels under another id, with another header and compression level."""
    for folder in ("imagesTr", "labelsTr"):
        image, grid = read_image(root / folder / f"{O1}.nii.gz")
        volume = nibabel.Nifti1Image(image[0], moved(grid.affine, 40.0))
        volume.header["descrip"] = b"a second export"
        (root / folder / "other.nii.gz").write_bytes(gzip.compress(volume.to_bytes(), 1))
    listing(image="./imagesTr/other.nii.gz", label="./labelsTr/other.nii.gz")(root)


def rod_in_one_case(root: Path) -> None:
    """Class rod (2) in case 001 only."""
    for path in sorted((root / "masks").iterdir()):
        if path.stem != T1:
            labels = read_labels(path)[0]
            tifffile.imwrite(path, np.where(labels == 2, 0, labels).astype(np.uint8))


def flat_among_volumes(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        store_png(root / folder / "flat.png", np.eye(9, dtype=np.uint8))
    listing(image="./imagesTr/flat.png", label="./labelsTr/flat.png")(root)


def colours(root: Path) -> None:
    store_png(root / PICTURE, np.stack([picture(root / PICTURE)] * 3, -1))


def other_field_of_view(root: Path) -> None:
    image, grid = read_image(root / PET)
    store_nifti(root / PET, image[0][:, :, :6], grid.affine)


def own_splits(text: str) -> Damage:
    return lambda root: (root / "folds.json").write_text(text)


CELLS = [f"cells_{k:03d}" for k in range(6)]
GOOD = {"train": CELLS[:3], "val": CELLS[3:]}
OVERLAP = {"train": CELLS[:4], "val": CELLS[3:]}
COPIES = ("the same voxels as case cells_001",)

COHORT: dict[str, Plant] = {
    "flat among volumes": Plant("IN-14", "dims-mismatch", "organs", "flat", flat_among_volumes, ("2 spatial axes",)),
    "colour among grey": cell("LB-13", "channels", colours, "3 channels", "expected 1"),
    "class in one case": Plant(
        "LB-09", "class-absent", "tiff", "-", rod_in_one_case, ("1 of 6 cases show class rod (2)", "no validation case")
    ),
    "copied case": Plant(
        "LB-12", "leakage", "cells", "other", lambda r: copy_case(r, C1, "other"), COPIES, {"subject": "case"}
    ),
    "copied case, other grey values": Plant(
        "LB-15", "same-origin", "cells", C1, darker_copy, ("other", "near-copies"), {"subject": "case"}
    ),
    "copied case, other format": Plant("LB-12", "leakage", "cells", "other", as_tiff, COPIES, {"subject": "case"}),
    "copied case, other header": Plant(
        "LB-12", "leakage", "organs", "other", other_header, ("the same voxels as case organs_001",)
    ),
    "copied case of one subject": Plant(
        "LB-12",
        "identical-images",
        "cells",
        "cells_001b",
        lambda r: copy_case(r, C1, "cells_001b"),
        ("of the same subject",),
        {"subject": r"cells_(\d+)"},
    ),
    "channel missing": Plant(
        "LB-13", "channels", "channels", X1, lambda r: (r / PET).unlink(), ("no channel _0001 (PET)",)
    ),
    "channel too many": Plant(
        "LB-13",
        "channels",
        "channels",
        X1,
        lambda r: shutil.copy(r / PET, r / f"imagesTr/{X1}_0002.nii.gz"),
        ("_0002",),
    ),
    "size among pixels": Plant("IN-25", "unit", "tiff", "-", size_of_one, ("5 of 6 cases state no voxel size",)),
    "metres": organ("IN-26", "voxel-size", far_size, "times smaller than the median of the data set"),
    "binary mask": cell("LB-19", "not-objects", stored(MASK, spots), "one object, number 255, in", "a binary mask"),
    "channels swapped": Plant("LB-13", "channel-order", "channels", X1, swap_channels, ("MR and PET look swapped",)),
    "channel of another part": Plant("LB-13", "channel-grid", "channels", X1, other_field_of_view, ("covers",)),
    "folds overlap": Plant(
        "LB-14",
        "splits",
        "cells",
        "-",
        own_splits(json.dumps({"folds": [GOOD, OVERLAP]})),
        (CELLS[3],),
        {"splits": "folds.json"},
    ),
    "folds cut": Plant("LB-14", "splits", "cells", "-", own_splits('{"folds": ['), (), {"splits": "folds.json"}),
}


# DICOM series


def set_tag(name: str, value: Any, only: int | None = None) -> Damage:
    def change(number: int, slice_: Any) -> None:
        if only in (None, number):
            setattr(slice_, name, value)

    return slices(change)


def drop_tag(name: str) -> Damage:
    return slices(lambda number, slice_: delattr(slice_, name))


def tilt(root: Path) -> None:
    def shift(number: int, slice_: Any) -> None:
        slice_.ImagePositionPatient = [0.0, 0.5 * number, 3.0 * number]

    patch_slices(root, shift)
    mask = root / f"masks/{D1}.nii.gz"
    store_nifti(mask, read_labels(mask)[0], read_image(root / SERIES)[1].affine)


def shorter(number: int, slice_: Any) -> None:
    if number == 2:
        slice_.Rows -= 2
        slice_.PixelData = slice_.PixelData[: slice_.Rows * slice_.Columns * 2]


def as_jpeg2000(number: int, slice_: Any) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    slice_.file_meta.TransferSyntaxUID = JPEG2000Lossless
    slice_.PixelData = encapsulate([b"\xff\x4f\xff\x51 no JPEG 2000 at all."])
    slice_["PixelData"].is_undefined_length = True


def cut_slice(root: Path) -> None:
    file = sorted((root / SERIES).iterdir())[2]
    file.write_bytes(file.read_bytes()[:-60])


DICOM: dict[str, Plant] = {
    "slice missing": series("DX-01", "slice-gap", lambda r: sorted((r / SERIES).iterdir())[3].unlink(), "missing"),
    "two slices at one place": series("DX-02", "slice-twice", set_tag("ImagePositionPatient", [0.0, 0.0, 6.0], 3)),
    "one slice turned": series(
        "DX-04", "slice-mixed", set_tag("ImageOrientationPatient", [0.0, 1.0, 0.0, -1.0, 0.0, 0.0], 3)
    ),
    "no positions": series("DX-05", "slice-position", drop_tag("ImagePositionPatient")),
    "two series": series("DX-06", "series", set_tag("SeriesInstanceUID", "1.2.3.4.5", 3)),
    "gantry tilt": series("DX-07", "gantry-tilt", tilt),
    "one slice smaller": series("DX-08", "slice-mixed", slices(shorter)),
    "slice cut": series("DX-08", "unreadable", cut_slice),
    "no JPEG 2000": series("DX-09", "unreadable", slices(as_jpeg2000)),
}


# Pictures


def tiff_with(**options: Any) -> Damage:
    """Write the picture of case 001 again, with options of tifffile and, optionally, other pixels."""

    def damage(root: Path) -> None:
        change = options.get("change", lambda v: v)
        rest = {k: v for k, v in options.items() if k != "change"}
        tifffile.imwrite(root / TIFF, change(picture(root / TIFF)), **rest)

    return damage


def differing_pages(root: Path) -> None:
    with tifffile.TiffWriter(root / TIFF) as file:
        file.write(np.zeros((9, 9), np.uint16), metadata=None)
        file.write(np.zeros((7, 9), np.uint8), metadata=None)


def claims(width: int, height: int) -> Damage:
    """A TIFF whose header claims so many pixels."""

    def damage(root: Path) -> None:
        tifffile.imwrite(root / TIFF, np.zeros((4, 4), np.uint16), metadata=None)
        with tifffile.TiffFile(root / TIFF, mode="r+b") as file:
            file.pages[0].tags["ImageWidth"].overwrite(width)
            file.pages[0].tags["ImageLength"].overwrite(height)

    return damage


def png_claims(side: int) -> Damage:
    def change(data: bytes) -> bytes:
        import zlib

        out = bytearray(data)
        struct.pack_into(">II", out, 16, side, side)
        struct.pack_into(">I", out, 29, zlib.crc32(bytes(out[12:29])))
        return bytes(out)

    return rewritten(PICTURE, change)


def picture_plant(ids: str, code: str, damage: Damage, *words: str) -> Plant:
    return Plant(ids, code, "tiff", T1, damage, words)


PICTURES: dict[str, Plant] = {
    "TIFF in colour": picture_plant(
        "DX-11", "channels", tiff_with(change=lambda v: np.stack([v] * 3, -1), photometric="rgb"), "3 channels"
    ),
    "TIFF with alpha": picture_plant(
        "DX-11", "unreadable", tiff_with(change=lambda v: np.stack([v] * 4, -1), photometric="rgb"), "alpha"
    ),
    "TIFF of pages that differ": picture_plant("DX-11", "unreadable", differing_pages),
    "TIFF pages without a word": Plant(
        "DX-11",
        "tiff-pages",
        "stacks",
        "stacks_001",
        lambda r: tifffile.imwrite(r / STACK, read_image(r / STACK)[0][0], metadata=None, photometric="minisblack"),
    ),
    "EXIF orientation": picture_plant(
        "DX-12", "unreadable", tiff_with(extratags=[(274, 3, 1, 6, False)], metadata=None), "orientation"
    ),
    "TIFF claims 60000 x 60000": picture_plant("DX-13", "unreadable", claims(60_000, 60_000)),
    "TIFF claims 500000 x 500000": picture_plant("DX-13", "unreadable", claims(500_000, 500_000)),
    "PNG claims 60000 x 60000": cell("DX-13", "unreadable", png_claims(60_000)),
}


# Classes of objects

TYPED = "typed_001"
TYPES, TABLE = f"classes/{TYPED}.png", "classes.csv"


def typed(ids: str, code: str, damage: Damage, *words: str, case: str = TYPED) -> Plant:
    return Plant(ids, code, "typed", case, damage, words)


def listed(change: Callable[[str], str], *words: str, case: str = TYPED) -> Plant:
    """A fault of the table of classes, which the configuration names in place of class maps."""
    damage = rewritten(TABLE, lambda data: change(data.decode()).encode())
    return Plant("LB-16", "object-class", "typed", case, damage, words, {"classes": TABLE})


def without_class(root: Path) -> None:
    numbers = picture(root / f"masks/{TYPED}.png")
    stored(TYPES, lambda v: np.where(numbers == 5, 0, v).astype(np.uint8))(root)


TYPED_OBJECTS: dict[str, Plant] = {
    "object without a class": typed("LB-16", "object-class", without_class, "in 1 of 2 objects: object 5 of "),
    "class map that is missing": typed("LB-16", "object-class", lambda r: (r / TYPES).unlink(), f"classes/{TYPED}.*"),
    "class map of nothing": typed(
        "LB-16", "object-class", lambda r: shutil.copy(r / TYPES, r / "classes/new.png"), "without an image", case="new"
    ),
    "class 7 of a class map": typed(
        "LB-01", "label-values", stored(TYPES, lambda v: np.where(v == 2, 7, v).astype(np.uint8)), "value 7: "
    ),
    "class map one row short": typed("LB-06", "shape-mismatch", stored(TYPES, lambda v: v[:-1])),
    "class map cut": typed("IN-01", "unreadable", rewritten(TYPES, lambda d: d[: len(d) // 2])),
    "two class maps": typed(
        "LB-12", "duplicate-id", lambda r: tifffile.imwrite(r / f"classes/{TYPED}.tif", picture(r / TYPES)), "classes/"
    ),
    "no folder of class maps": typed("", "missing", lambda r: shutil.rmtree(r / "classes"), case="-"),
    "object without a line": listed(lambda t: t.replace(f"{TYPED},9,2\n", ""), "no line for 1 of 2 objects: 9"),
    "line of no object": listed(lambda t: t + f"{TYPED},11,rod\n", "lines of 1 objects", "does not have: 11"),
    "line of no number": listed(lambda t: t + f"{TYPED},0,rod\n", "line 14: object '0'"),
    "line of no class": listed(
        lambda t: t.replace(f"{TYPED},9,2", f"{TYPED},9,rot"),
        "line 5: class 'rot' of object 9, expected ball (1) or rod",
    ),
    "object in two lines": listed(lambda t: t + f"{TYPED},9,rod\n", "line 14: object 9 is there twice"),
    "lines of no case": listed(
        lambda t: t + "other,1,rod\n", "1 lines of a case that is not in the data", case="other"
    ),
    "no column class": listed(lambda t: t.replace("class", "type"), "no column 'class'", case="-"),
}

PLANTS: dict[str, Plant] = {**PAIRING, **FILES, **COHORT, **DICOM, **PICTURES, **TYPED_OBJECTS}
