"""The bytes that make one image: a single file, a header with its data file, or all files of a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.files import digest_of, sha256_bytes


@dataclass(frozen=True, slots=True)
class Content:
    """Everything an image is read from, held in memory so that it is hashed and decoded from the same bytes.

    Attributes:
        files: name relative to the image's folder -> bytes; the first is the one that was named.
        series: which series of a DICOM folder is wanted (SeriesInstanceUID or SeriesNumber); empty if there is one.
    """

    files: Mapping[str, bytes]
    series: str = ""

    @classmethod
    def single(cls, path: Path, data: bytes) -> Content:
        """The content of a format that needs one file."""
        return cls({path.name: data})

    @property
    def main(self) -> bytes:
        """Bytes of the file that was named."""
        return next(iter(self.files.values()))

    @property
    def companion(self) -> bytes | None:
        """Bytes of the second file (the data file of a header), or None."""
        return next((data for data in list(self.files.values())[1:]), None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(data) for data in self.files.values())

    @property
    def sha256(self) -> str:
        """Digest: of the bytes of a single file, else of all names and digests."""
        if len(self.files) == 1:
            return sha256_bytes(self.main)
        return digest_of({name: sha256_bytes(data) for name, data in self.files.items()})


# Kind of content -> what its first bytes look like. Order matters only where one pattern would match another's files.
KINDS: dict[str, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "NRRD": re.compile(rb"NRRD\d{4}\r?\n"),
    "MetaImage": re.compile(rb"\s*(ObjectType|NDims|Comment)\s*="),
    "NIfTI": re.compile(rb".{344}n[+i][12]\0|.{4}n[+i]2\0", re.DOTALL),
    "DICOM": re.compile(rb".{128}DICM", re.DOTALL),
    "ZIP": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "bzip2": re.compile(rb"BZh[1-9]"),
    "BMP": re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "HDF5": re.compile(rb"\x89HDF\r\n\x1a\n"),
    "HTML": re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE),
}


def kind_of(data: bytes) -> str:
    """What bytes are, by how they begin: a key of ``KINDS``, or an empty text."""
    start = bytes(data[:512])
    return next((kind for kind, pattern in KINDS.items() if pattern.match(start)), "")
