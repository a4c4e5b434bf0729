"""The table of image formats: one row per suffix, whose reader and writer are named here and imported when used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from medseg.formats.content import Content, Data, kind_of, start_of
from medseg.formats.errors import FormatError
from medseg.formats.foreign import foreign, foreign_by_name
from medseg.formats.plain import Files, Fill, Labels
from medseg.formats.source import Source
from medseg.formats.world import About
from medseg.image.geometry import Geometry
from medseg.late import resolve

Opener = Callable[[Path, Content], Source]
Writer = Callable[[Path, Labels, Geometry, About], bytes | Fill | Files]
Companions = Callable[[Path, Data], Sequence[str]]
Members = Callable[[Path], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one suffix are read and written.

    Attributes:
        dims: numbers of spatial axes that the format can hold.
        open: ``module:function``, (path, content) -> ``Source``.
        write: ``module:function``, (path, labels, geometry, about) -> what writes the file, or its bytes; where there
            are several files, what writes each of them, the named one first. Empty: label maps of such images are files
            of ``labels``.
        order: which axis of a label map runs fastest in what is written: the first (F) or the last (C).
        labels: suffix of the label maps that are written for such images; empty: the image's own.
        companions: ``module:function``, (path, bytes of the named file) -> names of further files beside it that
            belong to the image; empty: there are none.
        members: of images that are a folder, ``module:function``, (path) -> names of the files in it that belong to the
            image, relative to it; they stay on disk. Empty: all files, held in memory.
        kind: what the named file must be by its first bytes, a key of ``medseg.formats.content.KINDS``; empty: the
            reader itself looks.
    """

    dims: tuple[int, ...]
    open: str
    write: str = ""
    order: Literal["C", "F"] = "C"
    labels: str = ""
    companions: str = ""
    members: str = ""
    kind: str = ""

    @property
    def opener(self) -> Opener:
        """The function that ``open`` names."""
        return cast(Opener, resolve(self.open))

    @property
    def writer(self) -> Writer:
        """The function that ``write`` names."""
        return cast(Writer, resolve(self.write))

    def companion_names(self, path: Path, data: Data) -> list[str]:
        """Names of the further files of an image whose named file holds ``data``."""
        return list(cast(Companions, resolve(self.companions))(path, data)) if self.companions else []

    def member_names(self, path: Path) -> list[str]:
        """Names of the files of an image that is a folder."""
        return list(cast(Members, resolve(self.members))(path))


# Key of the row for images that are a folder of files.
FOLDER = "folder"

FORMATS: dict[str, Format] = {
    ".nii": Format(
        (2, 3),
        open="medseg.formats.nifti:open_nifti",
        write="medseg.formats.nifti_label:write_nifti",
        order="F",
        kind="NIfTI",
    ),
    ".nii.gz": Format(
        (2, 3),
        open="medseg.formats.nifti:open_nifti_gz",
        write="medseg.formats.nifti_label:write_nifti_gz",
        order="F",
        kind="gzip",
    ),
    ".hdr": Format(
        (2, 3),
        open="medseg.formats.nifti:open_pair",
        write="medseg.formats.nifti_label:write_pair",
        order="F",
        companions="medseg.formats.nifti:pair_companions",
        kind="NIfTI",
    ),
    ".nrrd": Format(
        (2, 3),
        open="medseg.formats.nrrd:open_nrrd",
        write="medseg.formats.nrrd_label:write_nrrd",
        order="F",
        kind="NRRD",
    ),
    ".seg.nrrd": Format(
        (2, 3),
        open="medseg.formats.nrrd:open_nrrd",
        write="medseg.formats.nrrd_label:write_seg_nrrd",
        order="F",
        kind="NRRD",
    ),
    ".nhdr": Format(
        (2, 3),
        open="medseg.formats.nrrd:open_nrrd",
        write="medseg.formats.nrrd_label:write_nhdr",
        order="F",
        companions="medseg.formats.nrrd:nrrd_companions",
        kind="NRRD",
    ),
    ".mha": Format(
        (2, 3),
        open="medseg.formats.metaimage:open_metaimage",
        write="medseg.formats.metaimage:write_mha",
        order="F",
        kind="MetaImage",
    ),
    ".mhd": Format(
        (2, 3),
        open="medseg.formats.metaimage:open_metaimage",
        write="medseg.formats.metaimage:write_mhd",
        order="F",
        companions="medseg.formats.metaimage:metaimage_companions",
        kind="MetaImage",
    ),
    ".png": Format(
        (2,),
        open="medseg.formats.png:open_png",
        write="medseg.formats.png:png_bytes",
        kind="PNG",
    ),
    ".jpg": Format(
        (2,),
        open="medseg.formats.jfif:open_jpeg",
        labels=".png",
        kind="JPEG",
    ),
    ".jpeg": Format(
        (2,),
        open="medseg.formats.jfif:open_jpeg",
        labels=".png",
        kind="JPEG",
    ),
    ".bmp": Format(
        (2,),
        open="medseg.formats.bmp:open_bmp",
        labels=".png",
        kind="BMP",
    ),
    ".gif": Format(
        (2,),
        open="medseg.formats.gif:open_gif",
        labels=".png",
        kind="GIF",
    ),
    ".tif": Format(
        (2, 3),
        open="medseg.formats.tiff.read:open_tiff",
        write="medseg.formats.tiff.label:write_tiff",
        kind="TIFF",
    ),
    ".tiff": Format(
        (2, 3),
        open="medseg.formats.tiff.read:open_tiff",
        write="medseg.formats.tiff.label:write_tiff",
        kind="TIFF",
    ),
    ".ome.tif": Format(
        (2, 3),
        open="medseg.formats.tiff.read:open_ome_tiff",
        write="medseg.formats.tiff.label:write_ome_tiff",
        kind="TIFF",
    ),
    ".ome.tiff": Format(
        (2, 3),
        open="medseg.formats.tiff.read:open_ome_tiff",
        write="medseg.formats.tiff.label:write_ome_tiff",
        kind="TIFF",
    ),
    ".dcm": Format(
        (3,),
        open="medseg.formats.dicom.read:open_dicom",
        write="medseg.formats.dicom.label:segmentation_bytes",
        kind="DICOM",
    ),
    ".zip": Format(
        (3,),
        open="medseg.formats.dicom.read:open_dicom_zip",
        write="medseg.formats.dicom.label:segmentation_zip",
        kind="ZIP",
    ),
    ".ome.zarr": Format(
        (2, 3),
        open="medseg.formats.zarr.read:open_zarr",
        members="medseg.formats.zarr.read:zarr_members",
        labels=".ome.tif",
    ),
    ".zarr": Format(
        (2, 3),
        open="medseg.formats.zarr.read:open_zarr",
        members="medseg.formats.zarr.read:zarr_members",
        labels=".ome.tif",
    ),
    "folder": Format(
        (3,),
        open="medseg.formats.dicom.read:open_dicom",
        write="medseg.formats.dicom.label:segmentation_bytes",
        labels=".dcm",
    ),
}

# Files that make a folder an image of a format, whatever it is called.
MARKS = {"zarr.json": ".zarr", ".zattrs": ".zarr", ".zgroup": ".zarr", ".zarray": ".zarr"}
# Suffixes of two parts.
_LONG_SUFFIXES = tuple(suffix for suffix in FORMATS if suffix.count(".") > 1)


def suffix_of(path: Path) -> str:
    """The suffix that names a format, in lower case: ``.nii.gz`` for ``A.nii.gz``, else the last one."""
    name = path.name.lower()
    return next((suffix for suffix in _LONG_SUFFIXES if name.endswith(suffix)), Path(name).suffix)


def stem_of(path: Path) -> str:
    """The file name without the suffix that ``suffix_of`` gives."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def label_suffix(path: Path) -> str:
    """Suffix of the label file that is written for an image: the image's own, unless its row names another."""
    return format_of(path).labels or suffix_of(path)


def class_map(labels: Path) -> Path:
    """Where the class of each voxel lies beside a map of object numbers, if there are several classes."""
    return labels.with_name(f"{stem_of(labels)}.classes{suffix_of(labels)}")


def format_of(path: Path) -> Format:
    """The table's row for a file or folder; ``FormatError`` says what a file without one is, and who converts it."""
    suffix = _folder_kind(path) if path.is_dir() else suffix_of(path)
    if suffix not in FORMATS:
        raise _unknown(path, suffix)
    return FORMATS[suffix]


def _folder_kind(path: Path) -> str:
    """The key of the row of a folder: that of its suffix, or of the files in it; else that of slices."""
    suffix = suffix_of(path)
    if suffix in FORMATS and FORMATS[suffix].members:
        return suffix
    return next((kind for mark, kind in MARKS.items() if (path / mark).is_file()), FOLDER)


def suffix_of_kind(kind: str) -> str:
    """The first suffix of files with this kind of content, a key of ``KINDS``; empty: none is read."""
    return next((suffix for suffix, row in FORMATS.items() if kind and row.kind == kind), "")


def _unknown(path: Path, suffix: str) -> FormatError:
    """The error for a file of a suffix without a row: what it is by its content, else by its name."""
    start = start_of(path)
    row = foreign(path, start)
    if row is not None:
        return FormatError(path, f"{row.name}, which is not read", row.way)
    kind = kind_of(start)
    if suffix_of_kind(kind):
        # Archives among them are rows above.
        return FormatError(path, f"the content is {kind}, called {suffix or '(no suffix)'}", _rename(path, kind))
    row = foreign_by_name(path)
    if row is not None:
        return FormatError(path, f"by its name {row.name}, which is not read", row.way)
    cause = f"format {suffix or '(no suffix)'}, expected {', '.join(FORMATS)}"
    return FormatError(path, cause, "export it in the program that made it as one of these")


def _rename(path: Path, kind: str) -> str:
    return f"rename it to {path.name}{suffix_of_kind(kind)}"
