"""Prepared cases on disk: chunked blosc2 arrays (float16 image, integer labels) with digests.

Everything that is read is checked: ``index.json`` and ``case.json`` contain digests of themselves, and a file's SHA-256
is computed when a process reads it for the first time (1.5 s per gigabyte), and again if the file was replaced.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.explained import explain, named
from medseg.files import sha256_file, write_with
from medseg.image.objects import ObjectMap, encode, smallest_type
from medseg.kept import kept, write_stamp
from medseg.plan.plan import Grid
from medseg.preprocess.inverse import InverseRecord
from medseg.records import read_record, write_record
from medseg.results.folders import StoreFolder

CHUNK = 64
SLICE_CHUNK = 256
# Arrays up to this size stay decoded in a process that reads them, up to so much in all.
DECODED_ARRAY_BYTES, DECODED_BYTES = 8 << 20, 512 << 20
FILES = ("image.b2nd", "label.b2nd", "locations.npy")
# Beside them where labels are object numbers.
OBJECTS = "objects.b2nd"
ENTRY = "case.json"
MAKER = "medseg preprocess"


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A prepared case on disk, as training reads it.

    Attributes:
        id: case id.
        shape: prepared voxels per axis.
        record: how to undo the preparation.
        folder: where its files lie.
        digests: SHA-256 of its files by name, as in the index; none: those in its own ``case.json``.

    Reading raises ``DataError`` for a file that is not the one that was prepared.
    """

    id: str
    shape: tuple[int, ...]
    record: InverseRecord
    folder: Path
    digests: Mapping[str, str] | None = None

    def read_image(self, box: tuple[slice, ...] | None = None) -> NDArray[np.float32]:
        """The image (C, S) or the box of it, as float32."""
        values = _read_array(self._checked(FILES[0]), (slice(None), *box) if box else ...)
        return np.asarray(values, dtype=np.float32)

    def read_labels(self, box: tuple[slice, ...] | None = None) -> NDArray[np.uint8]:
        """The label channels (S) or the box of them."""
        return np.asarray(_read_array(self._checked(FILES[1]), box or ...))

    def read_codes(self, box: tuple[slice, ...] | None = None) -> NDArray[np.int32]:
        """Codes (S) of the objects in the box, of number and class (``image/objects.py``); of object data only."""
        numbers = np.asarray(_read_array(self._checked(OBJECTS), box or ...))
        return encode(numbers, self.read_labels(box))

    def read_objects(self) -> NDArray[np.uint32]:
        """The object numbers (S); of object data only."""
        return np.asarray(_read_array(self._checked(OBJECTS), ...), dtype=np.uint32)

    def read_locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels: rows (class, voxel index per axis)."""
        rows: NDArray[np.int32] = np.load(self._checked(FILES[2]), allow_pickle=False)
        return rows

    def _checked(self, name: str) -> Path:
        """Path of one of the files, after its digest has been found right."""
        path = self.folder / name
        digests = self.digests or read_record(self.folder / ENTRY, MAKER)["sha256"]
        try:
            with named(path):
                facts = os.stat(path)
                whole = _sha256_once(path, facts.st_size, facts.st_mtime_ns, facts.st_ino) == digests[name]
        except OSError as error:
            # A disk that fails damages no case.
            if explain(error) is not None:
                raise
            whole = False
        if not whole:
            raise DataError(
                f"{path}: missing or damaged since it was prepared (SHA-256 differs); delete "
                f"{StoreFolder(self.folder.parent).index} and run the same command again: "
                "only what is damaged is rebuilt"
            )
        return path


def write_case(
    folder: Path,
    key: str,
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    locations: NDArray[np.int32],
    record: InverseRecord,
    slice_axis: int | None = None,
    objects: ObjectMap | None = None,
) -> None:
    """Write one case; ``case.json`` with the digests comes last and makes it valid.

    Args:
        folder: the case's own folder.
        key: fingerprint of inputs, grid and code; a case is only reused for the same key.
        image: (C, S); labels: (S); locations: (n, 1 + d).
        record: how to undo the preparation.
        slice_axis: axis along which slices will be read one by one; none: blocks will be.
        objects: the numbers of the objects in ``labels``, of object data.

    Raises:
        DataError: if prepared intensities do not fit into float16.
    """
    peak = float(max(image.max(initial=0.0), -image.min(initial=0.0)))
    if not peak <= float(np.finfo(np.float16).max):
        raise DataError(
            f"case '{folder.name}': prepared intensities reach {peak:g}, beyond half precision (65504); choose another "
            "plan.normalization than 'none' (zscore, percentile or ct)"
        )
    write_with(folder / FILES[0], lambda path: _write_array(path, image.astype(np.float16), 1, slice_axis))
    write_with(folder / FILES[1], lambda path: _write_array(path, labels, 0, slice_axis))
    write_with(folder / FILES[2], lambda path: np.save(path, locations, allow_pickle=False))
    files = case_files(objects is not None)
    if objects is not None:
        numbers = objects.numbers.astype(smallest_type(objects.count))
        write_with(folder / OBJECTS, lambda path: _write_array(path, numbers, 0, slice_axis))
    write_stamp(folder / ENTRY, key, [folder / name for name in files], facts={"record": record.to_json()})


def case_files(objects: bool) -> tuple[str, ...]:
    """Names of the files of a case; of object data, those of the object numbers too."""
    return (*FILES, OBJECTS) if objects else FILES


def case_is_valid(folder: Path, key: str, *, objects: bool = False) -> bool:
    """Whether the folder holds a complete, undamaged case for ``key``."""
    return kept(folder / ENTRY, key, case_files(objects)) is not None


def write_index(folder: Path, dataset: str, grid: Grid, cases: Sequence[str]) -> None:
    """Write ``index.json``: the grid and, per case, the digests of its files."""
    entries = {case: read_record(folder / case / ENTRY, MAKER) for case in cases}
    write_record(StoreFolder(folder).index, {"dataset": dataset, "grid": grid.to_json(), "cases": entries})


def open_store(index: Path) -> tuple[Grid, dict[str, PreparedCase], Mapping[str, Any]]:
    """Open a store by its ``index.json``.

    Returns:
        The grid, the cases by id, and per case the digests of its files.

    Raises:
        DataError: if the index is missing or damaged.
    """
    facts = read_record(index, MAKER)
    try:
        cases = {}
        for case, entry in facts["cases"].items():
            record = InverseRecord.from_json(entry["record"])
            cases[case] = PreparedCase(case, record.prepared_shape, record, index.parent / case, entry["sha256"])
        digests = {case: entry["sha256"] for case, entry in facts["cases"].items()}
        return Grid.from_json(facts["grid"]), cases, digests
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{index}: not an index written by `medseg preprocess` ({error!r}); run it again") from error


@functools.lru_cache(maxsize=1 << 17)
def _sha256_once(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The digest of a file; taken again only if the file is another than last time."""
    return sha256_file(path)


@dataclass
class _Decoded:
    """Cache of small decoded arrays, since training reads the same ones again and again.

    Attributes:
        arrays: by path and the file's size, time and number; read-only.
        size: their bytes.
    """

    arrays: dict[tuple[Any, ...], NDArray[Any]] = field(default_factory=dict)
    size: int = 0

    def has_room(self, size: int) -> bool:
        """Whether an array of ``size`` bytes is small enough to keep; arrays that were kept first stay."""
        return size <= DECODED_ARRAY_BYTES and self.size + size <= DECODED_BYTES

    def keep(self, key: tuple[Any, ...], array: NDArray[Any]) -> None:
        """Keep an array for which ``has_room`` was true."""
        array.flags.writeable = False
        self.arrays[key] = array
        self.size += array.nbytes


_decoded = _Decoded()


def _read_array(path: Path, box: Any) -> NDArray[Any]:
    """A box of an array, possibly read-only."""
    array: NDArray[Any]
    try:
        facts = os.stat(path)
        key = (path, facts.st_size, facts.st_mtime_ns, facts.st_ino)
        if key in _decoded.arrays:
            array = _decoded.arrays[key][box]
            return array
        stored = blosc2.open(str(path), mode="r")
        if not _decoded.has_room(math.prod(stored.shape) * stored.dtype.itemsize):
            array = stored[box]
            return array
        whole: NDArray[Any] = stored[...]
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        if explain(error) is not None:
            raise
        raise DataError(f"{path}: damaged or missing ({error}); run `medseg preprocess` again") from error
    _decoded.keep(key, whole)
    array = whole[box]
    return array


def _write_array(path: Path, array: NDArray[Any], lead: int, slice_axis: int | None) -> None:
    """Write an array whose first ``lead`` axes are channels, in chunks like the patches that training reads."""
    flat = array.ndim - lead == 2 or slice_axis is not None
    chunks = [min(n, SLICE_CHUNK if flat else CHUNK) for n in array.shape]
    for axis in (*range(lead), *(() if slice_axis is None else (slice_axis + lead,))):
        chunks[axis] = 1
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=tuple(chunks),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1},
    )
