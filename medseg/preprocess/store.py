"""Prepared cases on disk: one file per case (``case_file.py``), with chunked blosc2 arrays, and an index of them all.

Everything that is read is checked: ``index.json`` contains a digest of itself and one of every array, and an array's
bytes are hashed when a process reads it for the first time (1.5 s per gigabyte), and again if its file was replaced.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.explained import explain, named
from medseg.files import sha256_part
from medseg.image.objects import ObjectMap, encode, smallest_type
from medseg.outputs import note
from medseg.plan.plan import Grid
from medseg.preprocess.arrays import frame, opened_frame, opened_locations, read_array, write_array
from medseg.preprocess.case_file import Part, is_whole, read_facts, write_case_file
from medseg.preprocess.inverse import InverseRecord
from medseg.records import read_record, write_record
from medseg.results.folders import StoreFolder

# Arrays of a case; the last one only where labels are object numbers.
IMAGE, LABELS, LOCATIONS, OBJECTS = "image", "labels", "locations", "objects"
MAKER = "medseg preprocess"
# In the folder of a case, as earlier versions of medseg had one.
EARLIER = ("case.json", "image.b2nd", "label.b2nd", "locations.npy", "objects.b2nd")


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A prepared case on disk, as training reads it.

    Attributes:
        id: case id.
        shape: prepared voxels per axis.
        path: its file.
        parts: where its arrays lie in it, and their digests.
        undo: how to undo the preparation, as plain values (``record``).

    Reading raises ``DataError`` for an array that is not the one that was prepared.
    """

    id: str
    shape: tuple[int, ...]
    path: Path
    parts: Mapping[str, Part]
    undo: Mapping[str, Any]

    @classmethod
    def of(cls, case_id: str, path: Path, facts: Mapping[str, Any]) -> PreparedCase:
        """A case from what its file, or the index, says of it."""
        undo = facts["record"]
        return cls(case_id, tuple(int(n) for n in undo["prepared_shape"]), path, Part.all_of(facts), undo)

    @classmethod
    def open(cls, path: Path) -> PreparedCase:
        """A case from its file alone, without an index."""
        return cls.of(path.stem, path, read_facts(path))

    @property
    def record(self) -> InverseRecord:
        """How to undo the preparation."""
        return InverseRecord.from_json(self.undo)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of its arrays by name."""
        return {name: part.sha256 for name, part in self.parts.items()}

    def read_image(self, box: tuple[slice, ...] | None = None) -> NDArray[np.float32]:
        """The image (C, S) or the box of it, as float32."""
        values = self._read(IMAGE, (slice(None), *box) if box else ...)
        return np.asarray(values, dtype=np.float32)

    def read_labels(self, box: tuple[slice, ...] | None = None) -> NDArray[np.uint8]:
        """The label channels (S) or the box of them."""
        return np.asarray(self._read(LABELS, box or ...))

    def read_codes(self, box: tuple[slice, ...] | None = None) -> NDArray[np.int32]:
        """Codes (S) of the objects in the box, of number and class (``image/objects.py``); of object data only."""
        numbers = np.asarray(self._read(OBJECTS, box or ...))
        return encode(numbers, self.read_labels(box))

    def read_objects(self) -> NDArray[np.uint32]:
        """The object numbers (S); of object data only."""
        return np.asarray(self._read(OBJECTS, ...), dtype=np.uint32)

    def read_locations(self) -> NDArray[np.int32]:
        """Sampled foreground voxels: rows (class, voxel index per axis)."""
        return np.asarray(self._read(LOCATIONS, ...))

    def _read(self, name: str, box: Any) -> NDArray[Any]:
        """A box of one of the arrays, after its digest has been found right; possibly read-only."""
        part, facts = self.parts[name], None
        try:
            with named(self.path):
                facts = os.stat(self.path)
                key = (self.path, part.start, part.size, facts.st_size, facts.st_mtime_ns, facts.st_ino)
                whole = _sha256_once(*key) == part.sha256
        except OSError as error:
            # A disk that fails damages no case.
            if explain(error) is not None:
                raise
            whole = False
        if not whole:
            raise DataError(
                f"{self.path}: missing, or its {name} damaged since it was prepared (SHA-256 differs); delete "
                f"{StoreFolder(self.path.parent).index} and run the same command again: only what is damaged is rebuilt"
            )
        return read_array(key, box, opened_locations if name == LOCATIONS else opened_frame)


def write_case(
    path: Path,
    key: str,
    image: NDArray[np.float32],
    labels: NDArray[np.uint8],
    locations: NDArray[np.int32],
    record: InverseRecord,
    slice_axis: int | None = None,
    objects: ObjectMap | None = None,
) -> dict[str, Any]:
    """Write one case; return what the index says of it.

    Args:
        path: the case's file.
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
            f"case '{path.stem}': prepared intensities reach {peak:g}, beyond half precision (65504); choose another "
            "plan.normalization than 'none' (zscore, percentile or ct)"
        )
    text = io.BytesIO()
    np.save(text, locations, allow_pickle=False)
    rest = {LABELS: frame(labels, slice_axis), LOCATIONS: text.getvalue()}
    if objects is not None:
        rest[OBJECTS] = frame(objects.numbers.astype(smallest_type(objects.count)), slice_axis)
    facts = {"key": key, "classes": np.unique(locations[:, 0]).tolist(), "record": record.to_json()}
    half = image.astype(np.float16)
    whole = write_case_file(path, (IMAGE, lambda to: write_array(to, half, 1, slice_axis)), rest, facts)
    return _entry(whole)


def kept_case(path: Path, key: str, *, objects: bool = False) -> dict[str, Any] | None:
    """What the index says of a complete, undamaged case for ``key``; None if there is none.

    Args:
        path: the case's file.
        key: what it must have been prepared from.
        objects: whether it must have object numbers.
    """
    try:
        facts = read_facts(path)
        wanted = facts["key"] == key and (OBJECTS in facts["parts"]) == objects
        if not wanted or not is_whole(path, facts):
            return None
    except (DataError, OSError, LookupError, TypeError):
        # Absent, cut, or of another version: the case is prepared again.
        return None
    note(path)
    return _entry(facts)


def _entry(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("classes", "record", "parts")}


def write_index(folder: Path, dataset: str, grid: Grid, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``index.json``: the grid and, per case, what ``write_case`` or ``kept_case`` returned.

    Cases that are not in it, of an earlier configuration or version of medseg, are removed.
    """
    store = StoreFolder(folder)
    write_record(store.index, {"dataset": dataset, "grid": grid.to_json(), "cases": entries})
    _remove_others(store, entries)


def _remove_others(store: StoreFolder, wanted: Iterable[str]) -> None:
    """Remove cases of a store that are not wanted; whatever else lies there is somebody's own and stays."""
    ours = {store.case(case) for case in wanted}
    for path in store.cases():
        if path not in ours:
            path.unlink(missing_ok=True)
    for path in (one for one in store.folder.iterdir() if (one / EARLIER[0]).is_file()):
        for name in EARLIER:
            (path / name).unlink(missing_ok=True)
        if not any(path.iterdir()):
            path.rmdir()


def open_store(index: Path) -> tuple[Grid, dict[str, PreparedCase], Mapping[str, Any]]:
    """Open a store by its ``index.json``.

    Returns:
        The grid, the cases by id, and per case the digests of its arrays.

    Raises:
        DataError: if the index is missing or damaged.
    """
    facts, store = read_record(index, MAKER), StoreFolder(index.parent)
    try:
        cases = {case: PreparedCase.of(case, store.case(case), entry) for case, entry in facts["cases"].items()}
        return Grid.from_json(facts["grid"]), cases, {case: one.digests for case, one in cases.items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{index}: not an index that this version of medseg writes ({error!r}); run `{MAKER}` again"
        ) from error


@functools.lru_cache(maxsize=1 << 17)
def _sha256_once(path: Path, start: int, size: int, file_size: int, mtime_ns: int, inode: int) -> str:
    """The digest of a part of a file; taken again only if the file is another than last time."""
    return sha256_part(path, start, size)
