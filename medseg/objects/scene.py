"""The objects of one image: numbers on a grid, what class each has, and each one's mask in its own box."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import DataError

# Numbers up to this are looked up in a list of that length; larger ones are renumbered for the search.
LISTED = 1 << 24


class Part(NamedTuple):
    """One object.

    Attributes:
        number: its number.
        box: where it lies, one slice per axis.
        mask: (box) its voxels.
    """

    number: int
    box: tuple[slice, ...]
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """Objects on a grid.

    Attributes:
        numbers: (S) integers: 0 is background, every other value is one object; values may be left out, and an object
            may be in several pieces.
        spacing: size of a voxel along each axis, in ``unit``.
        unit: ``mm``, ``um`` or ``px``.
        class_names: names of classes 1..K.
        classes: number of an object -> its class 1..K, an array or a mapping; None: all objects are of class 1.
        axes: names of the axes, in their order: ``yx`` and ``zyx`` for pictures and stacks, ``xyz`` for volumes of the
            medical formats.
    """

    numbers: NDArray[Any]
    spacing: tuple[float, ...]
    unit: str = "px"
    class_names: tuple[str, ...] = ("object",)
    classes: NDArray[Any] | Sequence[int] | Mapping[int, int] | None = None
    axes: str = ""

    def __post_init__(self) -> None:
        dims = self.numbers.ndim
        if self.numbers.dtype.kind not in "iu":
            raise DataError(f"object numbers of type {self.numbers.dtype}; expected integers, so convert them first")
        if dims not in (2, 3) or len(self.spacing) != dims or not all(0 < s < float("inf") for s in self.spacing):
            raise DataError(
                f"object numbers of shape {self.numbers.shape}, voxels of {self.spacing}; expected 2 or 3 axes"
            )
        if self.numbers.size and self.numbers.min() < 0:
            raise DataError(f"object number {self.numbers.min()}; expected 0 for background and numbers above it")
        if not self.axes:
            object.__setattr__(self, "axes", "zyx"[-dims:])
        if sorted(self.axes) != sorted("xyz"[:dims]):
            raise DataError(f"axes {self.axes!r}; expected an order of {'xyz'[:dims]!r}")

    @property
    def dims(self) -> int:
        """Number of axes."""
        return self.numbers.ndim

    @functools.cached_property
    def boxes(self) -> Mapping[int, tuple[slice, ...]]:
        """Number of each object -> its bounding box, numbers in ascending order."""
        numbers: NDArray[Any] = self.numbers
        names: NDArray[Any] | None = None
        if numbers.size and numbers.max() > LISTED:
            names, places = np.unique(numbers, return_inverse=True)
            # Where there is no background, number 0 must stay free for it.
            first = int(names[0] != 0)
            numbers = places.reshape(numbers.shape) + first
            names = np.concatenate([np.zeros(first, names.dtype), names])
        found = ndimage.find_objects(numbers.astype(np.int64) if numbers.dtype.itemsize == 8 else numbers)
        return {
            int(place if names is None else names[place]): box
            for place, box in enumerate(found, start=1)
            if box is not None
        }

    def parts(self) -> Iterator[Part]:
        """All objects, in the order of their numbers; no mask is larger than the object's box."""
        for number, box in self.boxes.items():
            yield Part(number, box, self.numbers[box] == number)

    def class_of(self, number: int) -> int:
        """Class 1..K of an object.

        Raises:
            DataError: if nothing says it, or there is no such class.
        """
        if self.classes is None:
            return 1
        known = number in self.classes if isinstance(self.classes, Mapping) else number < len(self.classes)
        found = int(self.classes[number]) if known else 0
        if not 1 <= found <= len(self.class_names):
            raise DataError(f"object {number}: class {found or 'not given'}; there are 1 to {len(self.class_names)}")
        return found

    def class_name(self, number: int) -> str:
        """Name of an object's class; errors as for ``class_of``."""
        return self.class_names[self.class_of(number) - 1]

    def touches_border(self, box: Sequence[slice]) -> bool:
        """Whether a box reaches the border of the image, so that its object may be cut."""
        return any(s.start == 0 or s.stop == n for s, n in zip(box, self.numbers.shape, strict=True))
