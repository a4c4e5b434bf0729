"""The bytes that make one image: a single file, a header with its data file, or all files of a folder."""

from __future__ import annotations

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
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(data) for data in self.files.values())

    @property
    def sha256(self) -> str:
        """Digest: of the bytes of a single file, else of all names and digests."""
        if len(self.files) == 1:
            return sha256_bytes(self.main)
        return digest_of({name: sha256_bytes(data) for name, data in self.files.items()})
