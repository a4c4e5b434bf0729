"""Text headers of NRRD and MetaImage: lines, fields, numbers, axes of the world, arrays in the order of the file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Content, Data, Part, part_from, rest_of
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_claim
from medseg.image.geometry import Geometry

# No header of an image is longer; what looks longer is none.
MAX_HEADER = 1 << 20

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?(nan|inf)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TextHeader:
    """The fields of a text header; the methods raise ``FormatError`` for those that are missing or make no sense.

    Attributes:
        path: the file, for messages.
        kind: name of the format.
        fields: texts by name.
        end: where the data begin in the file that holds the header.
        extras: texts that a program left under names of its own.
    """

    path: Path
    kind: str
    fields: Mapping[str, str]
    end: int
    extras: Mapping[str, str] = field(default_factory=dict)

    def need(self, name: str) -> str:
        """The text of a field that must be there."""
        if name not in self.fields:
            raise FormatError(self.path, f"{self.kind} header without '{name}'", "correct the header")
        return self.fields[name]

    def integers(self, name: str) -> list[int]:
        """The integers of a field, separated by spaces."""
        text = self.need(name)
        words = text.split()
        if not words or not all(_INTEGER.fullmatch(word) for word in words):
            cause = f"header field '{name}' is {text[:80]!r}, expected integers"
            raise FormatError(self.path, cause, "correct the header")
        return [int(word) for word in words]

    def integer(self, name: str, default: int | None = None) -> int:
        """The one integer of a field; without a default it must be there."""
        if default is not None and name not in self.fields:
            return default
        found = self.integers(name)
        if len(found) != 1:
            cause = f"header field '{name}' is {found[:8]}, expected one integer"
            raise FormatError(self.path, cause, "correct the header")
        return found[0]

    def data_file(self, name: str, behind: bytes) -> str:
        """The file that a field names for all the data; ``behind``: what follows the header, where nothing should."""
        text = self.need(name)
        if text.upper().startswith("LIST") or "%" in text:
            raise FormatError(self.path, "data spread over several files", "store them in one file")
        if behind:
            raise FormatError(self.path, f"{len(behind)} bytes follow the detached header")
        return text.removeprefix("./")

    def body(self, content: Content, *, detached: bool, suffix: str) -> Part:
        """The data's bytes: behind the header, or, if it is ``detached`` (its files end in ``suffix``), beside it."""
        if content.companion is not None:
            return part_from(content.companion, 0)
        if detached:
            fix = f"rename it to {suffix} and keep the data file beside it"
            raise FormatError(self.path, "its data are in another file", fix)
        return part_from(content.main, self.end)


def header_lines(path: Path, kind: str, data: Data) -> Iterator[tuple[str, int]]:
    """The lines at the start of a file, each with the place of the next one, within ``MAX_HEADER`` bytes."""
    head = data[:MAX_HEADER]
    at, limit = 0, len(head)
    while at < limit:
        end = head.find(b"\n", at)
        end = limit if end < 0 else end
        try:
            line = head[at:end].decode()
        except UnicodeDecodeError:
            raise FormatError(path, f"{kind} header is no text") from None
        at = min(end + 1, len(data))
        yield line.removesuffix("\r"), at


def uncompressed(path: Path, body: Part, skip: int, size: int) -> Part:
    """The ``size`` bytes of plain voxels at the end of ``body``, behind exactly ``skip`` others (-1: however many)."""
    skip = len(body) - size if skip == -1 else skip
    check_claim(path, size, len(body))
    if skip < 0 or len(body) != skip + size:
        raise FormatError(path, f"{len(body)} bytes of data, the header needs exactly {size}")
    return rest_of(body, skip)


def reals(path: Path, name: str, text: str, separator: str | None = None) -> list[float]:
    """The real numbers of a header field; NaN and Inf are passed on."""
    words = [word.strip() for word in text.split(separator)]
    if not words or not all(_REAL.fullmatch(word) for word in words):
        raise FormatError(path, f"header field '{name}' is {text[:80]!r}, expected real numbers", "correct the header")
    return [float(word) for word in words]


def finite(path: Path, name: str, values: Sequence[float], count: int) -> NDArray[np.float64]:
    """``count`` finite numbers as an array."""
    if len(values) != count or not all(math.isfinite(v) for v in values):
        shown = " ".join(f"{v:g}" for v in values[:16])
        raise FormatError(path, f"header field '{name}' is {shown}, expected {count} finite numbers", "correct it")
    return np.array(values, dtype=np.float64)


def grid_affine(axes: NDArray[np.float64], origin: NDArray[np.float64], signs: Sequence[int]) -> NDArray[np.float64]:
    """Voxel-to-world matrix in RAS+ from axes (columns) and origin in a world whose axes have ``signs`` in RAS+."""
    rank = len(origin)
    affine = np.eye(rank + 1)
    affine[:rank, :rank] = np.array(signs)[:, None] * axes
    affine[:rank, rank] = np.array(signs) * origin
    return affine + 0.0  # no negative zeros


def numbers_text(values: Iterable[float]) -> str:
    """Numbers in the shortest decimal form that reads back as the same floats."""
    return " ".join(repr(float(v)) for v in values)


def axis_vectors(geometry: Geometry) -> list[NDArray[np.float64]]:
    """World vector from one voxel to the next, per axis."""
    return list(geometry.affine[:-1, :-1].T)


def require_axes(path: Path, geometry: Geometry) -> None:
    """Refuse grids that have neither 2 nor 3 axes."""
    if geometry.dims not in (2, 3):
        raise FormatError(path, f"a grid of {geometry.dims} axes, expected 2 or 3", "choose another format")
