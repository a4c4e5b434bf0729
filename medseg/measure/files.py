"""The table of files that can be written for the objects of an image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
from numpy.typing import NDArray

from medseg.files import write_bytes
from medseg.late import resolve
from medseg.objects.measure import measure
from medseg.objects.scene import Scene


@dataclass(frozen=True)
class Measured:
    """The objects of an image.

    Attributes:
        name: file name of the image, as tables give it.
        scene: the objects.
        image: (C,S) intensities, or None.
        channels: their names, or none.
    """

    name: str
    scene: Scene
    image: NDArray[Any] | None = None
    channels: tuple[str, ...] = ()

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """A row per object (``medseg.objects.measure``), the image's name first."""
        found = measure(self.scene, self.image, self.channels)
        found.insert(0, "image", pd.Series([self.name] * len(found), dtype="str"))
        return found


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """A kind of file.

    Attributes:
        option: of the command line, which asks for it.
        suffix: of its name, after that of the image.
        write: ``module:function``: ``Measured`` to bytes.
        objects: whether it needs objects; else classes will do.
    """

    option: str
    suffix: str
    write: str
    objects: bool = True

    def bytes_of(self, measured: Measured) -> bytes:
        """The file's content."""
        return cast(Callable[[Measured], bytes], resolve(self.write))(measured)


OBJECT_FILES: Mapping[str, ObjectFile] = {
    "csv": ObjectFile("--tables", ".objects.csv", "medseg.measure.tables:csv_bytes"),
    "parquet": ObjectFile("--tables", ".objects.parquet", "medseg.measure.tables:parquet_bytes"),
    "rois": ObjectFile("--rois", ".rois.zip", "medseg.measure.rois:roi_zip"),
    "geojson": ObjectFile("--geojson", ".geojson", "medseg.measure.geojson:geojson_bytes"),
    "overlay": ObjectFile("--overlays", ".overlay.png", "medseg.measure.overlay:overlay_png", objects=False),
}
SUMMARY = "summary.csv"


def write_object_files(measured: Measured, stem: Path, kinds: Collection[str]) -> list[Path]:
    """Write files for the objects of an image, each atomically.

    Args:
        measured: the objects.
        stem: path of the files without their suffixes.
        kinds: rows of ``OBJECT_FILES``.

    Returns:
        The files, in the order of the table.
    """
    written = []
    for kind, row in OBJECT_FILES.items():
        if kind in kinds:
            path = stem.parent / f"{stem.name}{row.suffix}"
            write_bytes(path, row.bytes_of(measured))
            written.append(path)
    return written
