"""What an image file holds, as stored, and the error that names a file which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError
from medseg.image.geometry import Geometry

# Labels stored as floating point are accepted if they lie this close to an integer.
INTEGER_TOLERANCE = 1e-3
# Deflate expands a byte to at most 1032 bytes (zlib, "Maximum Compression Factor").
MAX_DEFLATE_RATIO = 1032

MEND_COPY = "copy or export the file again"
MEND_MASK = "store class or object numbers in one channel of integers"


class FormatError(DataError):
    """A file that cannot be read, or written, as what its name says.

    Attributes:
        path: the file.
        cause: what was found and what was expected.
        mend: what the user can do about it.
        code: kind of fault, as ``medseg ingest`` reports it: ``unreadable`` or ``label-not-integer``.
    """

    def __init__(self, path: Path, cause: str, mend: str = MEND_COPY, code: str = "unreadable") -> None:
        super().__init__(path, cause, mend, code)
        self.path, self.cause, self.mend, self.code = path, cause, mend, code

    def __str__(self) -> str:
        return f"{self.path}: {self.cause}; {self.mend}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file's content as stored, before any number is changed.

    Attributes:
        path: the file, for messages.
        voxels: (C,*S) in the stored type, native byte order.
        affine: voxel-to-world matrix, or None for formats without one.
        unit: unit of the affine's world axes.
        slope, intercept: stored value * slope + intercept is the real one.
        palette: if true, the numbers are indices into a colour table.
        lossy: if true, the compression invents numbers, which no label map can bear.
        note: what is doubtful about the orientation, or an empty text.
    """

    path: Path
    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    unit: str = "px"
    slope: float = 1.0
    intercept: float = 0.0
    palette: bool = False
    lossy: bool = False
    note: str = ""

    def geometry(self, spacing: Sequence[float] | None = None) -> Geometry:
        """The grid; ``spacing`` (micrometres per axis) serves formats without an affine."""
        shape = self.voxels.shape[1:]
        try:
            if self.affine is not None:
                return Geometry.create(shape, self.affine, self.unit)
            if spacing is None:
                return Geometry.from_spacing(shape, [1.0] * len(shape), "px")
            return Geometry.from_spacing(shape, spacing, "um")
        except GeometryError as error:
            raise FormatError(self.path, str(error), "correct the header or `spacing`") from None

    def image(self) -> NDArray[Any]:
        """The real intensities (C,*S): the stored type, or a float type where the header scales."""
        if self.palette:
            raise FormatError(self.path, "a colour-table picture, expected grey or RGB", "convert it to grey or RGB")
        if not self._scaled:
            return self.voxels
        wide = self.voxels.astype(np.float64)
        real = wide * self.slope + self.intercept
        narrow = np.float32 if self.voxels.dtype.itemsize <= 2 or self.voxels.dtype == np.float32 else np.float64
        with np.errstate(over="ignore"):
            out: NDArray[Any] = real.astype(narrow)
        if np.isfinite(wide).all() and not np.isfinite(out).all():
            raise FormatError(self.path, f"scl_slope {self.slope:g} makes values overflow", "correct the header")
        return out

    def labels(self) -> NDArray[Any]:
        """The label map (*S), integers that never went through floating point unless stored so."""
        if self.voxels.shape[0] != 1:
            raise FormatError(self.path, f"label file with {self.voxels.shape[0]} channels, expected one", MEND_MASK)
        if self.lossy:
            raise FormatError(self.path, "labels in a lossy compression", "store them without loss")
        voxels: NDArray[Any] = self.voxels[0]
        if voxels.dtype.kind in "iu" and not self._scaled:
            return voxels
        return _rounded(voxels.astype(np.float64) * self.slope + self.intercept, self.path)

    @property
    def _scaled(self) -> bool:
        """Whether the header asks for another number than the stored one."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def _rounded(values: NDArray[np.float64], path: Path) -> NDArray[Any]:
    """Floating-point labels as integers, or ``FormatError`` with value, count and first position."""
    with np.errstate(invalid="ignore"):
        nearest = np.round(values)
        bad = ~((np.abs(values - nearest) <= INTEGER_TOLERANCE) & (np.abs(nearest) < 2**31))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        count, value = int(bad.sum()), values[first]
        cause = f"{count} label voxels are no integers below 2^31, first {value:g} at {first}"
        raise FormatError(path, cause, "store labels as integers; never resample them linearly", "label-not-integer")
    integers: NDArray[Any] = nearest.astype(np.int32)
    return integers


def memory_budget() -> int:
    """Bytes that one decoded file may take: half of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def check_size(path: Path, claimed: int, capacity: int) -> None:
    """Refuse a header that claims more bytes than the file can hold or the machine may take."""
    if claimed > capacity:
        raise FormatError(path, f"header claims {claimed} bytes of voxels, the file can hold {capacity}")
    if claimed > memory_budget():
        cause = f"needs {claimed} bytes, allowed {memory_budget()} (half of this machine's memory)"
        raise FormatError(path, cause, "use a larger machine or split the image")
