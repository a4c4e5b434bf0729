"""What an image file holds, as stored, and the error that names a file which cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
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
        code: kind of fault, a key of ``medseg.ingest.faults.FAULTS``.
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
        voxels: (C,*S) in the stored type, native byte order, laid out in memory as the file has them.
        affine: voxel-to-world matrix, or None for formats without one.
        unit: unit of the affine's world axes.
        slope, intercept: stored value * slope + intercept is the real one.
        palette: if true, the numbers are indices into a colour table.
        lossy: if true, the compression invents numbers, which no label map can bear.
        notes: what is doubtful: (code of the fault in ``medseg.ingest.faults``, what was found).
        remarks: what the reader decided beyond doubt, for the record: a dropped axis or alpha, no scaling.
        orientations: the affines that a header offers where it contradicts itself, by name (``sform``, ``qform``).
    """

    path: Path
    voxels: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    unit: str = "px"
    slope: float = 1.0
    intercept: float = 0.0
    palette: bool = False
    lossy: bool = False
    notes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    orientations: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def oriented(self, winner: str | None) -> Stored:
        """The same with the affine named ``winner``, where the header contradicts itself and offers that one."""
        return replace(self, affine=self.orientations[winner]) if winner and winner in self.orientations else self

    def geometry(self, spacing: Sequence[float] | None = None) -> Geometry:
        """The grid; ``spacing`` (micrometres per axis) serves files without an affine, others keep their own."""
        shape = self.voxels.shape[1:]
        try:
            if self.affine is not None:
                return Geometry.create(shape, self.affine, self.unit)
            if spacing is None:
                return Geometry.from_spacing(shape, [1.0] * len(shape), "px")
            if len(spacing) != len(shape):
                cause = f"`spacing` has {len(spacing)} numbers, the image has axes {shape}"
                raise FormatError(self.path, cause, "give one number per axis")
            return Geometry.from_spacing(shape, spacing, "um")
        except GeometryError as error:
            raise FormatError(self.path, str(error), "correct the header or `spacing`") from None

    def image(self) -> NDArray[Any]:
        """The real intensities (C,*S): the stored type, or a float type where the header scales."""
        if self.palette:
            raise FormatError(self.path, "a colour-table picture, expected grey or RGB", "convert it to grey or RGB")
        if not self._scaled:
            return self.voxels
        narrow = np.float32 if self.voxels.dtype.itemsize <= 2 or self.voxels.dtype == np.float32 else np.float64
        with np.errstate(all="ignore"):  # NaN and Inf are told from an overflow below
            wide = self.voxels.astype(np.float64)
            out: NDArray[Any] = (wide * self.slope + self.intercept).astype(narrow)
        if np.isfinite(wide).all() and not np.isfinite(out).all():
            raise FormatError(self.path, f"scl_slope {self.slope:g} makes values overflow", "correct the header")
        return out

    def labels(self) -> NDArray[Any]:
        """The label map (*S), integers that never went through floating point unless stored so."""
        if self.voxels.shape[0] != 1:
            cause = f"label file with {self.voxels.shape[0]} channels, expected one (axes {self.voxels.shape})"
            raise FormatError(self.path, cause, MEND_MASK)
        if self.lossy:
            raise FormatError(self.path, "labels in a lossy compression", "store them without loss")
        voxels: NDArray[Any] = self.voxels[0]
        if voxels.dtype.kind in "iu" and not self._scaled:
            return voxels
        with np.errstate(all="ignore"):  # NaN and Inf are found below
            values = voxels.astype(np.float64) * self.slope + self.intercept
        return _rounded(values, self.path)

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


# Bytes that one decoded file may take in this thread; None: half of the machine's memory.
_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def file_limit(size: int | None) -> Iterator[None]:
    """Within the block (and this thread), let one decoded file take ``size`` bytes; None: half of the memory."""
    token = _LIMIT.set(size)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def memory_budget() -> int:
    """Bytes that one decoded file may take: what ``file_limit`` says, else half of the machine's memory."""
    limit = _LIMIT.get()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if limit is None else limit


def check_size(path: Path, claimed: int, capacity: int) -> None:
    """Refuse a header that claims more bytes than the file can hold or than the budget allows."""
    if claimed > capacity:
        raise FormatError(path, f"header claims {claimed} bytes of voxels, the file can hold {capacity}")
    if claimed > memory_budget():
        cause = f"needs {claimed} bytes of memory, allowed are {memory_budget()}"
        raise FormatError(path, cause, "split the image, or raise `max_gb` of the data set", "too-large")


def without_alpha(path: Path, voxels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Drop the last channel of (C,*S), an opacity, if everything is opaque; else nobody knows what the colours mean.

    Returns:
        The other channels, and the remark that tells of it.

    Raises:
        FormatError: if a pixel is not fully opaque.
    """
    alpha = voxels[-1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    clear = int((alpha != opaque).sum())
    if clear:
        cause = f"opacity (alpha) channel with {clear} of {alpha.size} pixels not opaque"
        raise FormatError(path, cause, "remove the alpha channel, or store it as a plain channel")
    return voxels[:-1], ("a fully opaque alpha channel was dropped",)
