"""An opened image: what its header says, and voxels that are read box by box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.palette import Table, is_grey, shown
from medseg.formats.planes import label_plane
from medseg.formats.world import World
from medseg.image.geometry import Geometry
from medseg.image.values import are_numbers

# Labels stored as floating point are accepted if they are this close to an integer.
INTEGER_TOLERANCE = 1e-3


class Voxels(Protocol):
    """Voxels (C,*S) that are indexed with one slice of step 1 per axis: an array, or something that reads a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,*S)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what indexing gives, native byte order."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The voxels of a box (C,*S)."""


@dataclass(frozen=True, slots=True)
class ShownVoxels:
    """Indices (1,*S) of a colour table as the colours or greys that they stand for; boxes are read as the file allows.

    Attributes:
        path: the file, for messages.
        indices: as stored.
        palette: the table (N, 3).
    """

    path: Path
    indices: Voxels
    palette: Table

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,*S): three channels, or one if the table has greys only."""
        return (1 if is_grey(self.palette) else 3, *self.indices.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Eight bits."""
        return np.dtype(np.uint8)

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The voxels of a box (C,*S)."""
        return shown(self.path, self.indices[(slice(None), *box[1:])], self.palette)[box[0]]


@dataclass(frozen=True, slots=True)
class Source:
    """An opened image file: numbers as stored, how they scale, and their grid.

    Attributes:
        path: the file, for messages.
        stored: (C,*S) in the stored type, before any number is changed: an array, or voxels that are read on demand.
        affine: voxel-to-world matrix, or None for formats without one.
        unit: unit of the affine's world axes.
        slope, intercept: stored value * slope + intercept is the real one.
        palette: colour table (N, 3) that the numbers are indices of; None: they are values.
        lossy: if true, the compression invents numbers, so the file cannot be a label map.
        notes: what is doubtful: (code of the fault in ``medseg.ingest.faults``, what was found).
        remarks: what the reader decided with certainty, for the record: a dropped axis or alpha, no scaling.
        orientations: the affines that a header offers where it contradicts itself, by name (``sform``, ``qform``).
        stated: micrometres per axis that a file of a format without a world states (TIFF); None: it states none.
        origin: micrometres of its first voxel along each axis, where it states that (OME-Zarr); no part of its grid.
        spacing: micrometres per axis, for files that state nothing; None: pixels.
        channel_names: the file's own names of its channels, one each; empty: it names none.
        chosen: numbers of the file's channels that these are; empty: all, in its order.
        fill: what stands for NaN, Inf and numbers beyond 32-bit floats; None: they stay.
        segments: of a file that lists its segments, the name of each value that ``labels`` can have.
        world: the fields of the header that say where voxels are, for label maps of this image; None: it has none.
        sparse: whether what the file does not show is background, as in segmentations that leave out empty parts: then
            its grid may be a part of the image's.
        content: the bytes that it was opened from; None for an array.
    """

    path: Path
    stored: Voxels
    affine: NDArray[np.float64] | None = None
    unit: str = "px"
    slope: float = 1.0
    intercept: float = 0.0
    palette: Table | None = None
    lossy: bool = False
    notes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    orientations: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    stated: Sequence[float] | None = None
    origin: Sequence[float] | None = None
    spacing: Sequence[float] | None = None
    channel_names: tuple[str, ...] = ()
    chosen: tuple[int, ...] = ()
    fill: float | None = None
    segments: Mapping[int, str] = field(default_factory=dict)
    sparse: bool = False
    world: World | None = None
    # Not shown: the bytes can hold a patient's name.
    content: Content | None = field(default=None, repr=False)

    @classmethod
    def from_array(
        cls, image: NDArray[Any], geometry: Geometry, path: Path = Path("array"), world: World | None = None
    ) -> Source:
        """An image (C,*S) in memory as a source; ``path`` is what messages call it, ``world`` that of its file."""
        return cls(path, image, geometry.affine, geometry.unit, world=world)

    def oriented(self, winner: str | None) -> Source:
        """The same with the affine named ``winner``, where the header contradicts itself and offers that one."""
        return replace(self, affine=self.orientations[winner]) if winner and winner in self.orientations else self

    def spaced(self, spacing: Sequence[float] | None) -> Source:
        """The same with ``spacing`` (micrometres per axis), which counts if the file states no size."""
        return replace(self, spacing=spacing)

    def with_channels(self, voxels: Voxels, chosen: tuple[int, ...] = ()) -> Source:
        """The same with other voxels (C',*S): of the channels ``chosen``, or made of all of them."""
        names = tuple(self.channel_names[c] for c in chosen) if self.channel_names else ()
        return replace(self, stored=voxels, palette=None, channel_names=names, chosen=chosen)

    def measured_in(self, unit: str) -> Source:
        """The same with its world in another unit of length.

        Raises:
            GeometryError: if it, or ``unit``, has no length.
        """
        return replace(self, affine=self.geometry.in_unit(unit).affine, unit=unit)

    @property
    def states_grid(self) -> bool:
        """Whether the file itself says how large its voxels are, or where they lie."""
        return self.affine is not None or self.stated is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,*S) of the image; with a colour table, three channels, or one if it has greys only."""
        return tuple(int(n) for n in self.shown.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what ``read`` gives: the stored type, a float type where the header scales, 8 bits for colours."""
        stored = self.shown.dtype
        if not self._scaled:
            return stored
        return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)

    @property
    def sha256(self) -> str:
        """Digest (hex) of the content; files on disk are read through in blocks. Empty for an array."""
        return "" if self.content is None else self.content.sha256

    @property
    def geometry(self) -> Geometry:
        """The grid: that of the affine; without one, axes along the world's in micrometres, else pixels.

        Raises:
            FormatError: if the grid is impossible, or ``spacing`` has another number of axes.
        """
        shape, spacing = self.shape[1:], self.spacing if self.stated is None else self.stated
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

    @property
    def shown(self) -> Voxels:
        """The stored numbers (C,*S); with a colour table, what they stand for."""
        return self.stored if self.palette is None else ShownVoxels(self.path, self.stored, self.palette)

    @property
    def voxels(self) -> NDArray[Any]:
        """All stored numbers (C,*S), native byte order, in the file's memory layout."""
        return _all(self.stored)

    def read(self, box: Sequence[slice] | None = None) -> NDArray[Any]:
        """The real intensities of a box.

        Args:
            box: one slice per spatial axis, of step 1, not empty, within the image; ``slice(None)`` is a whole axis.
                None: the whole image.

        Returns:
            (C,*box), C-contiguous: bit for bit what ``image()`` has there. Voxels outside the box are not read where
            the format allows that.

        Raises:
            GeometryError: for a box that is empty or reaches beyond the image.
            FormatError: if the file is damaged there, or its scaling overflows.
        """
        inside = self._bounds([slice(None)] * (len(self.shape) - 1) if box is None else box)
        return np.ascontiguousarray(self._real(self.shown[(slice(None), *inside)]))

    def image(self) -> NDArray[Any]:
        """All real intensities (C,*S): the stored type, or a float type where the header scales; colours as RGB."""
        return self._real(_all(self.shown))

    def labels(self, *, colours: bool = False) -> NDArray[Any]:
        """The label map (*S), integers that never went through floating point unless stored so; with a colour table,
        the index of each colour.

        Args:
            colours: whether the colours of the planes are the values, one number each, red in the highest byte.

        Raises:
            FormatError: for several channels that differ, a lossy compression, or numbers that are no integers.
        """
        if self.lossy:
            raise FormatError(self.path, "labels in a lossy compression", "store them without loss, as PNG or TIFF")
        voxels = label_plane(self.path, _all(self.shown) if colours else self.voxels, colours=colours)
        if voxels.dtype.kind in "iu" and not self._scaled:
            return voxels
        with np.errstate(all="ignore"):  # NaN and Inf are found below
            values = voxels.astype(np.float64) * self.slope + self.intercept
        return _rounded(values, self.path)

    @property
    def _scaled(self) -> bool:
        """Whether the header asks for another number than the stored one."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    def _bounds(self, box: Sequence[slice]) -> tuple[slice, ...]:
        """The box with all its bounds, checked."""
        shape = self.shape[1:]
        if len(box) != len(shape):
            raise GeometryError(f"{self.path}: a box of {len(box)} axes, the image has {shape}")
        starts = [0 if s.start is None else s.start for s in box]
        stops = [n if s.stop is None else s.stop for s, n in zip(box, shape, strict=True)]
        inside = all(0 <= a < b <= n for a, b, n in zip(starts, stops, shape, strict=True))
        if not inside or any(s.step not in (None, 1) for s in box):
            shown = ", ".join(f"{s.start}:{s.stop}" + ("" if s.step is None else f":{s.step}") for s in box)
            raise GeometryError(f"{self.path}: box [{shown}] is empty or not within the image of {shape}")
        return tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))

    def _real(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored numbers as the real ones."""
        real = self._unscaled(stored)
        if self.fill is None or real.dtype.kind != "f":
            return real
        filled: NDArray[Any] = np.where(are_numbers(real), real, real.dtype.type(self.fill))
        return filled

    def _unscaled(self, stored: NDArray[Any]) -> NDArray[Any]:
        if not self._scaled:
            return stored
        with np.errstate(all="ignore"):  # NaN and Inf of the file are distinguished from an overflow below
            wide = stored.astype(np.float64)
            out: NDArray[Any] = (wide * self.slope + self.intercept).astype(self.dtype)
        if not np.isfinite(out).all() and (np.isfinite(wide) & ~np.isfinite(out)).any():
            raise FormatError(self.path, f"scl_slope {self.slope:g} makes values overflow", "correct the header")
        return out


def _all(voxels: Voxels) -> NDArray[Any]:
    return voxels if isinstance(voxels, np.ndarray) else voxels[(slice(None),) * len(voxels.shape)]


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
