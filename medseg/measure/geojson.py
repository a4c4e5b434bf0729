"""Outlines as GeoJSON that QuPath opens (File > Import objects from file): detections with class and measurements.

Coordinates are pixels of the full image with corners at whole numbers, as QuPath has them: the first pixel is the
square from (0, 0) to (1, 1). The members are those that qupath-core reads (PathObjectTypeAdapters, ROITypeAdapters).
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Hashable, Mapping
from typing import Any

from medseg.measure.files import Measured
from medseg.objects.colouring import palette
from medseg.objects.outlines import Outline, Polygon, Ring, outlines

# QuPath asks for an identity that no other object has; ours follow from image and number, so they are repeatable.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "medseg:objects")
# Columns of the table that are no measurements.
NAMES = ("image", "id", "class")


def geojson_bytes(measured: Measured) -> bytes:
    """A ``FeatureCollection`` with a detection per object; of volumes, one per object and slice along z."""
    rows = {row["id"]: row for row in measured.table.to_dict("records")}
    features = [_feature(measured, outline, rows[outline.number]) for outline in outlines(measured.scene)]
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _feature(measured: Measured, outline: Outline, row: Mapping[Hashable, Any]) -> Mapping[str, Any]:
    scene, number = measured.scene, outline.number
    identity = uuid.uuid5(NAMESPACE, f"{measured.name}/{number}/{outline.plane}")
    colour = palette(len(scene.class_names))[scene.class_of(number) - 1]
    values = {name: float(value) for name, value in row.items() if name not in NAMES}
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": _geometry(outline),
        "properties": {
            "objectType": "detection",
            "name": str(number),
            "classification": {"name": scene.class_name(number), "color": list(colour)},
            "measurements": {str(name): value for name, value in values.items() if math.isfinite(value)},
        },
    }


def _geometry(outline: Outline) -> Mapping[str, Any]:
    pieces = [_rings(polygon) for polygon in outline.polygons]
    alone = len(pieces) == 1
    made = {"type": "Polygon" if alone else "MultiPolygon", "coordinates": pieces[0] if alone else pieces}
    # QuPath's own addition: which slice of a stack.
    return made if outline.plane is None else made | {"plane": {"c": -1, "z": outline.plane, "t": 0}}


def _rings(polygon: Polygon) -> list[list[list[int]]]:
    """Rings with their first point repeated, as GeoJSON has them; outer ones counter-clockwise in (x, y)."""
    return [_closed(ring) for ring in (polygon.outer, *polygon.holes)]


def _closed(ring: Ring) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
