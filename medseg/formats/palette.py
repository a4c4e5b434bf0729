"""Colour tables of pictures: stored numbers that are indices of colours or greys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError

Table = NDArray[np.uint8]


def is_grey(table: Table) -> bool:
    """Whether a table (N, 3) has greys only."""
    return bool((table == table[:, :1]).all())


def shown(path: Path, indices: NDArray[Any], table: Table) -> NDArray[np.uint8]:
    """Indices (1, *S) as what they stand for: (3, *S) in RGB, (1, *S) where the table has greys only.

    Raises:
        FormatError: if an index is beyond the table.
    """
    check_indices(path, indices, table)
    columns = table[:, :1] if is_grey(table) else table
    out = np.empty((columns.shape[1], *indices.shape[1:]), np.uint8)
    for channel, values in enumerate(columns.T):
        np.take(values, indices[0], out=out[channel])
    return out


def check_indices(path: Path, indices: NDArray[Any], table: Table) -> None:
    """Raise ``FormatError`` if an index is beyond the table."""
    largest = int(indices.max(initial=0))
    if largest >= len(table):
        raise FormatError(path, f"damaged: colour {largest} of a table of {len(table)}")


def distinct_greys(path: Path, indices: NDArray[Any], table: Table) -> NDArray[np.uint8] | None:
    """The grey of each index (1, *S), if the table has greys only and those in use differ; else None.

    Writers of GIF and BMP number greys anew: there, the grey is the number that was meant.
    """
    if not is_grey(table):
        return None
    check_indices(path, indices, table)
    used = table[np.unique(indices), 0]
    return table[indices, 0] if len(np.unique(used)) == len(used) else None
