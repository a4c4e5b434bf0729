"""Pictures as other programs write them, by Pillow: what is read and never written has no writer of its own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medseg.image.geometry import Geometry

BITS = np.random.default_rng(0).random((37, 29)) > 0.7
KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}


def picture(suffix: str, pixels: np.ndarray | Image.Image, **options: Any) -> bytes:
    """Pixels (rows, columns) or (rows, columns, 3) of 8 bits, or booleans, as a file."""
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, KINDS[suffix], **options)
    return out.getvalue()


def indexed(indices: np.ndarray, table: np.ndarray) -> Image.Image:
    """Indices (rows, columns) with a colour table (N, 3)."""
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(table.astype(np.uint8).tobytes())
    return image


def bits(compression: str | None, **options: Any) -> bytes:
    """A TIFF of one bit per pixel, as libtiff writes it."""
    out = io.BytesIO()
    Image.fromarray(BITS).save(out, "TIFF", compression=compression, **options)
    return out.getvalue()


def write_picture(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """A label map with values up to 255 as a grey picture, for the contract of formats."""
    assert geometry.unit == "px"
    options = {"quality": 95} if KINDS[path.suffix] == "JPEG" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(path.suffix, np.ascontiguousarray(labels).astype(np.uint8), **options))
