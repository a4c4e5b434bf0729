"""Every check of every case, in one pass: each file is read once, whole, and all faults are collected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import Fault
from medseg.image.formats import read_content, read_stored
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry
from medseg.image.labels import LabelTable
from medseg.image.stored import FormatError, Stored
from medseg.ingest.cases import merge_objects
from medseg.ingest.faults import fault
from medseg.ingest.manifest import Case
from medseg.ingest.sources import Candidate, Source
from medseg.progress import Progress

# Wrong label values listed in one fault; there can be thousands.
VALUES_SHOWN = 8


@dataclass(slots=True)
class Checked:
    """What reading one case gave.

    Attributes:
        candidate: the case's files.
        faults: everything wrong with it.
        images_sha256, labels_sha256: digests; empty text for a file that could not be opened.
        geometry: grid of the first image, or None if it could not be read.
        channels: over all images, or None likewise.
        dtype: stored type of the first image.
        label_counts: as in ``medseg.ingest.manifest.Case``.
    """

    candidate: Candidate
    faults: list[Fault] = field(default_factory=list)
    images_sha256: list[str] = field(default_factory=list)
    labels_sha256: list[str] = field(default_factory=list)
    geometry: Geometry | None = None
    channels: int | None = None
    dtype: str = ""
    label_counts: dict[int, int] = field(default_factory=dict)

    def add(self, code: str, file: str, cause: str, mend: str = "") -> None:
        """Note a fault of this case."""
        self.faults.append(fault(code, self.candidate.id, file, cause, mend))

    def case(self) -> Case:
        """The manifest's row; only for a case without faults that forbid one."""
        assert self.geometry is not None
        c = self.candidate
        return Case(
            id=c.id,
            subject=c.subject,
            images=c.images,
            labels=c.labels,
            images_sha256=tuple(self.images_sha256),
            labels_sha256=tuple(self.labels_sha256),
            geometry=self.geometry,
            dtype=self.dtype,
            label_counts=self.label_counts,
            site=c.site,
            series=c.series,
        )


def check_cases(
    dataset: str, source: Source, spacing: Sequence[float] | None, workers: int
) -> tuple[list[Checked], tuple[str, ...], list[Fault]]:
    """Read and check every candidate of a source, in parallel.

    Args:
        dataset: name, for the progress bar.
        source: what to check.
        spacing: micrometres per axis for formats without a header.
        workers: threads, at most as many as processors (decompression and hashing release Python's lock).

    Returns:
        The cases in the source's order, the channel names, and all faults, the source's own included.
    """
    progress = Progress(f"ingest {dataset}", len(source.candidates))
    checked: list[Checked] = []
    with ThreadPoolExecutor(max(1, min(workers, os.cpu_count() or 1))) as pool:
        for done in pool.map(lambda c: check_case(source.root, c, source.labels, spacing), source.candidates):
            checked.append(done)
            progress.update(len(checked))
    names = _channel_names(checked, source.channels)
    faults = [*source.faults, *(f for one in checked for f in one.faults)]
    faults += _channel_faults(checked, names) + _dims_faults(checked) + _identical_images(checked)
    return checked, names, faults


def check_case(root: Path, candidate: Candidate, labels: LabelTable | None, spacing: Sequence[float] | None) -> Checked:
    """Read one case's files and check them for themselves and against one another."""
    out = Checked(candidate)
    spacing = candidate.spacing or spacing
    grids = [_check_image(root, file, out, spacing) for file in candidate.images]
    out.geometry = grids[0]
    maps = []
    for file in candidate.labels:
        values, grid = _read_label(root, file, out, spacing)
        _check_grids(out, file, candidate.images[0], grid, out.geometry)
        if values is not None:
            maps.append(values)
    if labels is not None and maps and len(maps) == len(candidate.labels) and len({m.shape for m in maps}) == 1:
        _check_values(out, candidate.labels[0], maps[0] if len(maps) == 1 else merge_objects(maps), labels)
    return out


def _open(root: Path, file: str, out: Checked, series: str = "") -> tuple[str, Stored | None]:
    """The digest of a file (or folder) and what it holds; a failure is noted."""
    digest = ""
    try:
        content = read_content(root / file, series)
        digest = content.sha256
        stored = read_stored(root / file, content)
    except FormatError as error:
        out.add(error.code, file, error.cause, error.mend)
        return digest, None
    if stored.note and not any(f.code == "orientation" for f in out.faults):
        out.add("orientation", file, stored.note)
    return digest, stored


def _check_image(root: Path, file: str, out: Checked, spacing: Sequence[float] | None) -> Geometry | None:
    digest, stored = _open(root, file, out, out.candidate.series)
    out.images_sha256.append(digest)
    if stored is None:
        return None
    try:
        image, grid = stored.image(), stored.geometry(spacing)
    except FormatError as error:
        out.add(error.code, file, error.cause, error.mend)
        return None
    out.channels = (out.channels or 0) + image.shape[0]
    out.dtype = out.dtype or str(stored.voxels.dtype)
    if image.dtype.kind == "f" and not (finite := np.isfinite(image)).all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        nans = int(np.isnan(image).sum())
        where = f"{first[1:]}" + (f" of channel {first[0]}" if image.shape[0] > 1 else "")
        cause = f"{nans} NaN and {int((~finite).sum()) - nans} Inf voxels, first {image[first]:g} at {where}"
        out.add("nonfinite", file, cause)
    return grid


def _read_label(
    root: Path, file: str, out: Checked, spacing: Sequence[float] | None
) -> tuple[NDArray[Any] | None, Geometry | None]:
    """A label file's values and grid, as far as they could be read."""
    digest, stored = _open(root, file, out)
    out.labels_sha256.append(digest)
    if stored is None:
        return None, None
    grid: Geometry | None = None
    try:
        grid = stored.geometry(spacing)
        return stored.labels(), grid
    except FormatError as error:
        out.add(error.code, file, error.cause, error.mend)
        return None, grid


def _check_values(out: Checked, file: str, labels: NDArray[Any], table: LabelTable) -> None:
    """Compare a label map's values with the table, and count them."""
    counts = _count(labels)
    wrong = [v for v in counts if (v < 0 if table.instances else v not in (0, *table.values))]
    if wrong:
        shown = [f"value {v}: {counts[v]} voxels, first at {_first(labels, v)}" for v in wrong[:VALUES_SHOWN]]
        more = f", and {len(wrong) - VALUES_SHOWN} values more" if len(wrong) > VALUES_SHOWN else ""
        names = ", ".join(f"{value} {name}" for name, value in table.names)
        expected = "0 and object numbers above 0" if table.instances else f"0 background, {names}"
        out.add("label-values", file, f"{'; '.join(shown)}{more} (expected {expected})")
    if set(counts) <= {0}:
        out.add("empty-label", file, f"all {labels.size} voxels are background")
    if table.instances:
        objects = sum(n for v, n in counts.items() if v > 0)
        counts = {v: n for v, n in ((0, counts.get(0, 0)), (1, objects)) if n}
    out.label_counts = counts


def _count(labels: NDArray[Any]) -> dict[int, int]:
    """Value -> voxels, in the order of values."""
    if labels.dtype in (np.uint8, np.uint16):
        bins = np.bincount(labels.ravel())
        return {int(v): int(bins[v]) for v in np.flatnonzero(bins)}
    values, counts = np.unique(labels, return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _first(labels: NDArray[Any], value: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(labels == value)), labels.shape))


def _check_grids(out: Checked, file: str, other: str, found: Geometry | None, expected: Geometry | None) -> None:
    """Compare two grids of one case, if both could be read."""
    if found is None or expected is None:
        return
    if found.shape != expected.shape:
        out.add("shape-mismatch", file, f"shape {found.shape}, {other} has {expected.shape}")
        return
    gap = expected.corner_distance_voxels(found)
    if gap > AFFINE_TOLERANCE_VOXELS:
        allowed = f"allowed {AFFINE_TOLERANCE_VOXELS}"
        out.add("affine-mismatch", file, f"{gap:.3g} voxels from {other} at a corner, {allowed}")


def _majority(numbers: list[int]) -> int:
    """The most frequent number; the smallest of several."""
    return min(Counter(numbers).items(), key=lambda item: (-item[1], item[0]))[0] if numbers else 0


def _channel_names(checked: list[Checked], named: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names given, or else numbered ones for as many channels as most cases have."""
    count = _majority([one.channels for one in checked if one.channels is not None])
    return named or tuple(f"channel{k}" for k in range(count))


def _channel_faults(checked: list[Checked], names: tuple[str, ...]) -> list[Fault]:
    expected = f"{len(names)} ({', '.join(names)})"
    return [
        fault(
            "channels",
            one.candidate.id,
            one.candidate.images[0],
            f"{one.channels} channels, expected {expected}",
        )
        for one in checked
        if one.channels is not None and one.geometry is not None and one.channels != len(names)
    ]


def _dims_faults(checked: list[Checked]) -> list[Fault]:
    grids = [(one.candidate, one.geometry) for one in checked if one.geometry is not None]
    usual = _majority([grid.dims for _, grid in grids])
    return [
        fault("dims-mismatch", c.id, c.images[0], f"{grid.dims} spatial axes, most cases have {usual}")
        for c, grid in grids
        if grid.dims != usual
    ]


def _identical_images(checked: list[Checked]) -> list[Fault]:
    """Cases whose image files equal, byte for byte, those of an earlier one: they leak between folds."""
    seen: dict[tuple[str, ...], str] = {}
    faults = []
    for one in checked:
        key = tuple(one.images_sha256)
        if "" in key:
            continue
        if key in seen:
            cause = f"the same bytes as the image of case {seen[key]}"
            faults.append(fault("identical-images", one.candidate.id, one.candidate.images[0], cause))
        seen.setdefault(key, one.candidate.id)
    return faults
