"""Reading images with their objects: the map of numbers, its grid, and what class each object has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import DataError
from medseg.formats.read import open_image
from medseg.formats.table import stem_of, suffix_of
from medseg.image.geometry import Geometry, require_same_grid
from medseg.image.resample import placed
from medseg.ingest.cases import part_of
from medseg.ingest.tables import read_table
from medseg.measure.files import Measured
from medseg.measure.pairing import Pair
from medseg.objects.scene import Scene

# Formats whose arrays are (rows, columns) or (Z, Y, X); all others are (X, Y) or (X, Y, Z) (docs/formats.md).
PICTURES = (".png", ".tif", ".tiff", ".ome.tif", ".ome.tiff")


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes of objects, from a table.

    Attributes:
        names: of the classes, sorted.
        of: (name of the image, or empty: any; number) -> class 1..K.
        path: the table.
    """

    names: tuple[str, ...]
    of: Mapping[tuple[str, int], int]
    path: Path

    def for_image(self, name: str, several: bool) -> Mapping[int, int]:
        """Number -> class of the objects of an image.

        Raises:
            DataError: if the table does not say of which image its objects are, and there are several.
        """
        if several and any(not image for image, _ in self.of):
            raise DataError(
                f"{self.path}: no column image, and there are several images; add it (names without suffix)"
            )
        return {number: k for (image, number), k in self.of.items() if image in ("", name)}


def read_classes(path: Path) -> Classes:
    """Read a CSV or TSV table with the columns ``id``, ``class`` and, for several images, ``image``.

    Raises:
        DataError: if it cannot be read, a column is missing, or an object is listed twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table with the columns id and class")
    header, rows = read_table(path)
    if missing := {"id", "class"} - set(header):
        raise DataError(f"{path}: no column {' and '.join(sorted(missing))}; there are {', '.join(header)}")
    names = tuple(sorted({row["class"] for row in rows}))
    if not all(names):
        raise DataError(f"{path}: an object without a class; fill every cell of the column class")
    found: dict[tuple[str, int], int] = {}
    for row in rows:
        if not row["id"].isdecimal():
            raise DataError(f"{path}: id '{row['id']}'; expected the object's number in the mask")
        image = row.get("image", "")
        key = (stem_of(Path(image)) if suffix_of(Path(image)) else image, int(row["id"]))
        if key in found:
            raise DataError(f"{path}: object {key[1]} {f'of {image} ' if image else ''}is listed twice")
        found[key] = names.index(row["class"]) + 1
    return Classes(names, found, path)


@dataclass(frozen=True, slots=True)
class Reading:
    """How pairs are read.

    Attributes:
        spacing: micrometres per axis, for files without a header; None: pixels.
        components: whether objects are the connected parts of a mask, in place of its numbers.
        channels: names of the images' channels, or none.
        classes: of the objects, or None.
        several: whether there are several images.
    """

    spacing: Sequence[float] | None = None
    components: bool = False
    channels: tuple[str, ...] = ()
    classes: Classes | None = None
    several: bool = False

    def read(self, pair: Pair) -> Measured:
        """Read an image and its objects.

        Raises:
            DataError: if they do not fit together, or the mask is no map of object numbers.
            GeometryError: if their grids differ.
        """
        source = open_image(pair.image, spacing=self.spacing)
        numbers, geometry = self._mask(pair.mask, source.geometry)
        if numbers.shape != source.shape[1:]:
            raise DataError(
                f"{pair.mask}: shape {numbers.shape}, its image {pair.image.name} has {source.shape[1:]}; expected one "
                "size, so export the mask on the image's own pixels"
            )
        geometry = _common_grid(source.geometry, geometry, pair)
        numbers = components_of(numbers) if self.components else _numbered(numbers, pair.mask)
        scene = scene_of(numbers, geometry, pair.image)
        if self.classes is not None:
            classes = self.classes.for_image(pair.name, self.several)
            lacking = [number for number in scene.boxes if number not in classes]
            if lacking:
                raise DataError(
                    f"{self.classes.path}: no class for objects {lacking[:5]} of {pair.mask}; add their rows"
                )
            scene = replace(scene, class_names=self.classes.names, classes=classes)
        return Measured(pair.image.name, scene, source.image(), self.channels)

    def _mask(self, path: Path, image: Geometry) -> tuple[NDArray[Any], Geometry]:
        """The values of a mask and their grid; of one that covers a part of the image's grid, on the whole of it."""
        mask = open_image(path, spacing=self.spacing)
        values, grid = np.ascontiguousarray(mask.labels()), mask.geometry
        part = part_of(mask, grid, image)
        return (values, grid) if part is None else (placed(values, part, image.shape), image)


def scene_of(numbers: NDArray[Any], geometry: Geometry, image: Path) -> Scene:
    """Objects (S) on the grid of an image; its format says which axis is which."""
    picture = suffix_of(image) in PICTURES and not image.is_dir()
    axes = "zyx"[-geometry.dims :] if picture else "xyz"[: geometry.dims]
    return Scene(numbers, geometry.spacing, geometry.unit, axes=axes)


def components_of(mask: NDArray[Any]) -> NDArray[np.uint32]:
    """Numbers (S) of the parts of a mask (S) that hang together by faces of voxels; different values are apart."""
    from skimage.measure import label

    return np.asarray(label(mask, background=0, connectivity=1), dtype=np.uint32)


def _common_grid(image: Geometry, mask: Geometry, pair: Pair) -> Geometry:
    """The grid of both; that of the other one where one has no size of pixels, as many masks have."""
    if mask.unit == "px" or image.unit == "px":
        return image if mask.unit == "px" else mask
    require_same_grid(mask, image, str(pair.mask))
    return image


def _numbered(numbers: NDArray[Any], path: Path) -> NDArray[Any]:
    """The numbers, if they are such: raise ``DataError`` for a binary mask."""
    highest = int(numbers.max()) if numbers.size else 0
    lowest = int(numbers.min()) if numbers.size else 0
    if lowest < 0:
        raise DataError(f"{path}: object number {lowest}; expected 0 for background and numbers above it")
    if highest and np.isin(numbers, (0, highest)).all():
        parts = ndimage.label(numbers)[1]
        if parts > 1 or highest == np.iinfo(np.uint8).max:
            raise DataError(
                f"{path}: every object has the number {highest}, in {parts} separate parts, so it looks like a binary "
                "mask; give --components to take connected parts as objects, or store a number per object"
            )
    return numbers
