"""Prepared cases on disk: chunked blosc2 arrays (float16 image, integer labels) with digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.files import read_json, sha256_file, write_json, write_with
from medseg.plan.plan import GridPlan
from medseg.preprocess.prepare import InverseRecord

CHUNK = 64
FILES = ("image.b2nd", "label.b2nd", "locations.npy")


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A case as training sees it.

    Attributes:
        id: case id.
        shape: prepared voxels per axis.
        record: how to undo the preparation.
        folder: where its files lie.
    """

    id: str
    shape: tuple[int, ...]
    record: InverseRecord
    folder: Path

    def read_image(self, box: tuple[slice, ...] | None = None) -> NDArray[np.float32]:
        """The image (C, S) or the box of it, as float32."""
        values = _read_array(self.folder / FILES[0], (slice(None), *box) if box else ...)
        return np.asarray(values, dtype=np.float32)

    def read_labels(self, box: tuple[slice, ...] | None = None) -> NDArray[np.uint8]:
        """The label channels (S) or the box of them."""
        return np.asarray(_read_array(self.folder / FILES[1], box or ...))

    def read_locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels: rows (class, voxel index per axis)."""
        rows: NDArray[np.int32] = np.load(self.folder / "locations.npy", allow_pickle=False)
        return rows


def write_case(
    folder: Path,
    key: str,
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    locations: NDArray[np.int32],
    record: InverseRecord,
) -> None:
    """Write one case; ``case.json`` with the digests comes last and makes it valid.

    Args:
        folder: the case's own folder.
        key: fingerprint of inputs, grid and code; a case is only reused for the same key.
        image: (C, S); labels: (S); locations: (n, 1 + d).
        record: how to undo the preparation.

    Raises:
        DataError: if prepared intensities do not fit into float16.
    """
    peak = float(np.abs(image).max(initial=0.0))
    if not peak <= float(np.finfo(np.float16).max):
        raise DataError(
            f"case '{folder.name}': prepared intensities reach {peak:g}, beyond half precision (65504); choose another "
            "plan.normalization than 'none' (zscore, percentile or ct)"
        )
    write_with(folder / FILES[0], lambda path: _write_array(path, image.astype(np.float16)))
    write_with(folder / FILES[1], lambda path: _write_array(path, labels))
    write_with(folder / FILES[2], lambda path: np.save(path, locations, allow_pickle=False))
    digests = {name: sha256_file(folder / name) for name in FILES}
    write_json(folder / "case.json", {"key": key, "sha256": digests, "record": record.to_json()})


def case_is_valid(folder: Path, key: str) -> bool:
    """Whether the folder holds a complete, undamaged case for ``key``."""
    try:
        facts = read_json(folder / "case.json")
        return facts["key"] == key and all(sha256_file(folder / name) == facts["sha256"][name] for name in FILES)
    except (DataError, OSError, KeyError, TypeError):
        # Absent, cut or foreign: made anew.
        return False


def write_index(folder: Path, dataset: str, grid: GridPlan, cases: Sequence[str]) -> None:
    """Write ``index.json``: the grid and, per case, the digests of its files."""
    entries = {case: read_json(folder / case / "case.json") for case in cases}
    write_json(folder / "index.json", {"dataset": dataset, "grid": grid.to_json(), "cases": entries})


def open_store(index: Path) -> tuple[GridPlan, dict[str, PreparedCase], Mapping[str, Any]]:
    """Open a store by its ``index.json``.

    Returns:
        The grid, the cases by id, and per case the digests of its files.

    Raises:
        DataError: if the index is missing or damaged.
    """
    facts = read_json(index)
    try:
        cases = {}
        for case, entry in facts["cases"].items():
            record = InverseRecord.from_json(entry["record"])
            cases[case] = PreparedCase(case, record.prepared_shape, record, index.parent / case)
        digests = {case: entry["sha256"] for case, entry in facts["cases"].items()}
        return GridPlan.from_json(facts["grid"]), cases, digests
    except (KeyError, TypeError) as error:
        raise DataError(f"{index}: not an index written by `medseg preprocess` ({error!r}); run it again") from error


def _read_array(path: Path, box: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = blosc2.open(str(path), mode="r")[box]
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged or gone ({error}); run `medseg preprocess` again") from error
    return array


def _write_array(path: Path, array: NDArray[Any]) -> None:
    spatial = 3 if array.ndim >= 3 else 2
    chunks = [min(n, CHUNK if spatial == 3 else 256) for n in array.shape]
    if array.ndim == 4 or (array.ndim == 3 and array.dtype == np.float16):
        chunks[0] = 1
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=tuple(chunks),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1},
    )
