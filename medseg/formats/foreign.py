"""What is not read: the table of what files are, by content and suffix, and which program exports them as what is.

A row is found by how a file begins; where several kinds begin alike (HDF5, TIFF, ZIP), by the suffix as well. What a
file holds counts more than what it is called.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

_FIJI = "open it in Fiji (Bio-Formats) and save it as OME-TIFF, or run `bfconvert -series 0 FILE FILE.ome.tif`"
_SLIDE = "export regions in QuPath as OME-TIFF (File > Export images), or with `bfconvert -series 0 FILE FILE.ome.tif`"
_PICTURE = "export it as PNG or TIFF"
_PYTHON = (
    "write it by `tifffile.imwrite(path, array, photometric='minisblack', metadata={'axes': 'ZYX'})`, with the axes "
    "that it has ('YX', 'CYX', 'ZCYX')"
)
_HDF5 = f"open it with h5py and {_PYTHON}"
_DOCUMENT = "export the picture in it as PNG or TIFF, or move the file out of the folder"
_MOVE = "move it out of the folder of images"
_FREESURFER = "convert it with FreeSurfer: `mri_convert FILE FILE.nii.gz`"
_UNPACK = "unpack it"
_ANALYZE = "convert it: `python -c \"import nibabel; nibabel.save(nibabel.load('FILE.hdr'), 'FILE.nii.gz')\"`"
_SLICER = "open it in 3D Slicer and save it as .nii.gz or .nrrd"
# For links that lead nowhere.
FIX_LINKS = (
    "fetch what they lead to (git-annex, DataLad: `datalad get FOLDER`), or copy the folder from where they lead "
    "somewhere: `cp -rL FOLDER COPY`"
)
_LINK_AS_TEXT = "copy it again from where it is a link, with what that leads to: `cp -rL FOLDER COPY`"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file that is not read.

    Attributes:
        name: what it is.
        way: which program makes what is read of it.
        suffixes: how such files are called, in lower case.
        begins: how their content begins; None: that is not known, or says nothing.
        shared: whether other kinds begin likewise, so that it takes the suffix to know them.
    """

    name: str
    way: str
    suffixes: tuple[str, ...] = ()
    begins: re.Pattern[bytes] | None = None
    shared: bool = False

    def fits(self, path: Path, start: bytes) -> bool:
        """Whether the content is of this kind, beyond doubt."""
        alike = self.begins is not None and self.begins.match(start) is not None
        return alike and (not self.shared or self.called(path))

    def called(self, path: Path) -> bool:
        """Whether the file is called like this kind."""
        return path.name.lower().endswith(self.suffixes) if self.suffixes else False


def _row(name: str, way: str, suffixes: str = "", begins: bytes = b"", *, shared: bool = False) -> Foreign:
    pattern = re.compile(begins, re.DOTALL) if begins else None
    return Foreign(name, way, tuple(suffixes.split()), pattern, shared)


_GZIP = rb"\x1f\x8b"
_TIFF, _ZIP, _HDF, _OLE = rb"II[*+]\0|MM\0[*+]", rb"PK\x03\x04", rb"\x89HDF\r\n\x1a\n", rb"\xd0\xcf\x11\xe0\xa1\xb1"

# Of rows that begin alike, those that a suffix tells apart come first, the general one last.
FOREIGN: tuple[Foreign, ...] = (
    # Microscopes and slide scanners
    _row("a Zeiss CZI file", _FIJI, ".czi", rb"ZISRAWFILE"),
    _row("a Zeiss LSM file", _FIJI, ".lsm", _TIFF, shared=True),
    _row("a Zeiss ZVI file", _FIJI, ".zvi", _OLE, shared=True),
    _row("a Nikon ND2 file", _FIJI, ".nd2", rb"\xda\xce\xbe\x0a"),
    _row("a Nikon ND2 file of old", _FIJI, ".nd2", rb"\0\0\0\x0cjP  ", shared=True),
    _row("a Leica LIF file", _FIJI, ".lif", rb"\x70\0\0\0.{4}\x2a"),
    _row("an Olympus OIB file", _FIJI, ".oib", _OLE, shared=True),
    _row("an Olympus OIF file", _FIJI, ".oif", rb"\xff\xfe\[\0", shared=True),
    _row("an Olympus VSI file", _SLIDE, ".vsi", _TIFF, shared=True),
    _row("a DeltaVision file", _FIJI, ".dv .r3d", rb".{96}(\xa0\xc0|\xc0\xa0)", shared=True),
    _row("an Imaris file", _FIJI, ".ims", _HDF, shared=True),
    _row("a MetaMorph stack", _FIJI, ".stk", _TIFF, shared=True),
    _row("an Aperio slide (SVS)", _SLIDE, ".svs", _TIFF, shared=True),
    _row("a Hamamatsu slide (NDPI)", _SLIDE, ".ndpi .ndpis", _TIFF, shared=True),
    _row("a Hamamatsu slide (VMS)", _SLIDE, ".vms .vmu"),
    _row("a MIRAX slide (MRXS)", _SLIDE, ".mrxs", rb"\xff\xd8\xff", shared=True),
    _row("a Leica slide (SCN)", _SLIDE, ".scn", _TIFF, shared=True),
    _row("a Ventana slide (BIF)", _SLIDE, ".bif", _TIFF, shared=True),
    _row("a QPTIFF slide", _SLIDE, ".qptiff", _TIFF, shared=True),
    _row("a Philips slide (iSyntax)", "export it in the program of its scanner as TIFF", ".isyntax"),
    _row("an MRC volume", _FIJI, ".mrc .map .rec", rb".{208}MAP "),
    _row("a Gatan file", _FIJI, ".dm3 .dm4", rb"\0\0\0[\x03\x04]", shared=True),
    _row("a Big Data Viewer file", _FIJI, ".xml", rb"\s*(<\?xml[^>]*>\s*)?<SpimData"),
    # Medical
    _row("a FreeSurfer volume (MGZ)", _FREESURFER, ".mgz", _GZIP, shared=True),
    _row("a FreeSurfer volume (MGH)", _FREESURFER, ".mgh", rb"\0\0\0\x01\0\0", shared=True),
    _row("a MINC volume", "convert it with MINC's `mnc2nii FILE FILE.nii`", ".mnc", _HDF + rb"|CDF\x01", shared=True),
    _row("a Philips PAR/REC file", "convert it with `dcm2niix -o OUT FOLDER`", ".par"),
    _row("a DICOM file without its preamble", "export the series again from its archive", ".ima .dicom"),
    _row("a GIPL volume", _SLICER, ".gipl"),
    _row("a GIPL volume", _SLICER, ".gipl.gz", _GZIP, shared=True),
    _row("an Analyze 7.5 volume", _ANALYZE, ".hdr", rb"\x5c\x01\0\0|\0\0\x01\x5c", shared=True),
    _row("a VTK file", _SLICER, ".vtk .vti .vtp", rb"# vtk DataFile|<VTKFile"),
    _row("a surface, not voxels", f"{_SLICER} after turning the model into a segmentation", ".stl .obj .ply"),
    _row("the voxels of a header beside it", "name the header (.hdr, .mhd, .nhdr) in place of it", ".img .raw .zraw"),
    # Arrays
    _row("a NumPy array", f"read it with np.load and {_PYTHON}", ".npy", rb"\x93NUMPY"),
    _row("NumPy arrays (NPZ)", f"read them with np.load and {_PYTHON}", ".npz", _ZIP, shared=True),
    _row("a MATLAB file", f"read it with scipy.io.loadmat (version 7.3: h5py) and {_PYTHON}", ".mat", rb"MATLAB 5\.0"),
    _row("a MATLAB file (7.3)", _HDF5, ".mat", rb"MATLAB 7\.3|" + _HDF, shared=True),
    _row("an HDF5 file", _HDF5, ".h5 .hdf5 .hdf .he5", _HDF),
    _row(
        "a pickle",
        "nothing that can hold code is read; write images as TIFF",
        ".pkl .pickle .pt .pth",
        rb"\x80[\x02-\x05]",
        shared=True,
    ),
    # Pictures
    _row("a JPEG 2000 picture", _PICTURE, ".jp2 .j2k .jpx .jpf", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    _row("a JPEG XL picture", _PICTURE, ".jxl", rb"\xff\x0a|\0\0\0\x0cJXL ", shared=True),
    _row("a WebP picture", _PICTURE, ".webp", rb"RIFF.{4}WEBP"),
    _row("a HEIC or AVIF picture", _PICTURE, ".heic .heif .avif", rb".{4}ftyp(heic|heix|mif1|msf1|avif)"),
    _row("a Photoshop document", _PICTURE, ".psd .psb", rb"8BPS"),
    _row("a GIMP document", _PICTURE, ".xcf", rb"gimp xcf"),
    _row("a PNM picture", _PICTURE, ".pbm .pgm .ppm .pnm", rb"P[1-6]\s", shared=True),
    _row("a camera's raw picture", _PICTURE, ".cr2 .nef .arw .dng .orf", _TIFF, shared=True),
    _row("an SVG drawing", _PICTURE, ".svg", rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg"),
    _row("a film", "export the frames as TIFF, one file per image", ".mp4 .mov .m4v", rb".{4}ftyp"),
    _row("a film", "export the frames as TIFF, one file per image", ".avi", rb"RIFF.{4}AVI "),
    _row("a film", "export the frames as TIFF, one file per image", ".mkv .webm", rb"\x1a\x45\xdf\xa3"),
    # Documents, archives, texts
    _row("a PDF document", _DOCUMENT, ".pdf", rb"%PDF-"),
    _row("an Office document", _DOCUMENT, ".docx .xlsx .pptx .odt .ods .odp", _ZIP, shared=True),
    _row("an Office document", _DOCUMENT, ".doc .xls .ppt", _OLE, shared=True),
    _row("a packed OME-Zarr", f"{_UNPACK} into a folder that ends in .ome.zarr", ".zarr.zip .ozx", _ZIP, shared=True),
    _row("a compound file (OLE2) of Office or a microscope", f"{_DOCUMENT}; images: {_FIJI}", "", _OLE),
    _row("a RAR archive", _UNPACK, ".rar", rb"Rar!\x1a"),
    _row("a 7-Zip archive", _UNPACK, ".7z", rb"7z\xbc\xaf\x27\x1c"),
    _row("an XZ file", _UNPACK, ".xz", rb"\xfd7zXZ\0"),
    _row("a Zstandard file", _UNPACK, ".zst", rb"\x28\xb5\x2f\xfd"),
    _row("a bzip2 file", _UNPACK, ".bz2", rb"BZh[1-9]"),
    _row("a tar archive", _UNPACK, ".tar", rb".{257}ustar"),
    _row(
        "a page of HTML, as servers send it in place of a file",
        "download the file again",
        ".html .htm",
        rb"\s*<(!doctype )?(html|HTML)|\s*<!DOCTYPE html",
    ),
    _row("a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`", "", rb"version https://git-lfs"),
    _row("a git-annex pointer, not the file itself", "fetch it with `datalad get FILE`", "", rb"/annex/objects/"),
    _row("a link that was copied as text", _LINK_AS_TEXT, "", rb"(\.\./|\./|/)[^\0-\x1f]{1,400}\n?$"),
    _row("regions of ImageJ", "make a label image of them in Fiji and save it as TIFF", ".roi", rb"Iout"),
    _row("a gzip file", _UNPACK, ".gz .tgz", _GZIP),
    _row("a ZIP archive", f"{_UNPACK}, or rename it to .zip if it holds a DICOM series", "", _ZIP),
    _row("a table or text", _MOVE, ".csv .tsv .txt .json .xml .yaml .yml .md .log"),
)

# Objects of DICOM that hold no pixels, by modality.
DICOM_OBJECTS: Mapping[str, tuple[str, str]] = {
    "RTPLAN": ("a treatment plan (RTPLAN)", _MOVE),
    "SR": ("a report (SR)", _MOVE),
    "KO": ("a selection of images (KO)", _MOVE),
    "PR": ("a presentation state (PR)", _MOVE),
    "REG": ("a registration (REG)", _MOVE),
    "DOC": ("a document (DOC)", _MOVE),
    "M3D": ("a surface (M3D)", _MOVE),
    "ECG": ("a curve (ECG)", _MOVE),
}


# Programs whose TIFF files have several pictures: what a file is, what its first page has (a number is a tag's, a text
# is in the description), and the way.
TIFF_MAKERS: tuple[tuple[str, int | str, str], ...] = (
    ("a Zeiss LSM file", 34412, _FIJI),
    ("a Hamamatsu slide (NDPI)", 65420, _SLIDE),
    ("an Aperio slide (SVS)", "Aperio", _SLIDE),
    ("a Leica slide (SCN)", "<scn", _SLIDE),
    ("a Ventana slide (BIF)", "<iScan", _SLIDE),
    ("a QPTIFF slide", "PerkinElmer-QPI", _SLIDE),
)


def tiff_maker(description: str, tags: Container[int]) -> tuple[str, str] | None:
    """What a TIFF file is by its first page, and the way, if it is of a program in ``TIFF_MAKERS``."""
    for name, mark, way in TIFF_MAKERS:
        if mark in tags if isinstance(mark, int) else mark in description:
            return name, way
    return None


def foreign(path: Path, start: bytes) -> Foreign | None:
    """The row of a file that begins with ``start``, or None.

    A row that the suffix names comes before others that begin alike.
    """
    rows = [row for row in FOREIGN if row.fits(path, start)]
    return next((row for row in rows if row.called(path)), next(iter(rows), None))


def foreign_by_name(path: Path) -> Foreign | None:
    """The row of files that are called like this one, or None; for content that nothing is known of."""
    return next((row for row in FOREIGN if row.called(path)), None)
