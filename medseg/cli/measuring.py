"""Commands about objects: measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import OutFolder

Tables = Annotated[bool, typer.Option("--tables", help="objects as CSV and Parquet, and summary.csv, a row per image")]
Rois = Annotated[bool, typer.Option("--rois", help="outlines of objects for ImageJ (.rois.zip)")]
Geojson = Annotated[bool, typer.Option("--geojson", help="outlines and measurements of objects for QuPath (.geojson)")]
Overlays = Annotated[bool, typer.Option("--overlays", help="objects drawn on their image (.overlay.png)")]


def kinds_of(tables: bool, rois: bool, geojson: bool, overlays: bool) -> list[str]:
    """The rows of ``OBJECT_FILES`` that options ask for."""
    from medseg.measure.files import OBJECT_FILES

    wanted = {"--tables": tables, "--rois": rois, "--geojson": geojson, "--overlays": overlays}
    return [kind for kind, row in OBJECT_FILES.items() if wanted[row.option]]


def measure(
    images: Annotated[Path, typer.Argument(help="an image, or a folder of them")],
    masks: Annotated[Path, typer.Argument(help="its object numbers, or a folder of files called like the images")],
    out: OutFolder,
    tables: Tables = False,
    rois: Rois = False,
    geojson: Geojson = False,
    overlays: Overlays = False,
    spacing: Annotated[
        list[float] | None, typer.Option("--spacing", help="pixel size in micrometres, once per axis")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option("--classes", help="table of the objects' classes: columns id, class and image")
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option("--channel", help="name of a channel of the images, once per channel")
    ] = None,
    components: Annotated[
        bool, typer.Option("--components", help="masks are no object numbers: take their connected parts")
    ] = False,
) -> None:
    """Measure the objects of IMAGES in MASKS, whoever made these; without further options, the tables."""
    from medseg.measure.run import run
    from medseg.measure.scenes import Reading, read_classes

    kinds = kinds_of(tables or not (rois or geojson or overlays), rois, geojson, overlays)
    listed = None if classes is None else read_classes(classes)
    reading = Reading(spacing or None, components, tuple(channel or ()), listed)
    for path in run(images, masks, out, kinds, reading):
        print(path)
