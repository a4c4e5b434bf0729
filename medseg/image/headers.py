"""Text headers of NRRD and MetaImage: numbers, axes of the world, and arrays in the order of the file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry
from medseg.image.stored import FormatError

# No header of an image is longer; what looks longer is none.
MAX_HEADER = 1 << 20

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?(nan|inf)", re.IGNORECASE)


def integers(path: Path, name: str, text: str) -> list[int]:
    """The integers of a header field, separated by spaces."""
    words = text.split()
    if not words or not all(_INTEGER.fullmatch(word) for word in words):
        raise FormatError(path, f"header field '{name}' is {text[:80]!r}, expected integers", "correct the header")
    return [int(word) for word in words]


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


def first_axis_fastest(labels: NDArray[Any]) -> bytes:
    """Values in little-endian bytes, the first axis running fastest."""
    return labels.astype(labels.dtype.newbyteorder("<")).tobytes(order="F")
