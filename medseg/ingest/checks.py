"""Every check of one case: each file is read once, whole, and all faults are collected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import DatasetConfig
from medseg.formats.drawn import drawn, is_drawn
from medseg.formats.errors import FormatError
from medseg.formats.limits import file_limit
from medseg.formats.read import open_image, read_content
from medseg.formats.source import Source
from medseg.image.geometry import Geometry, Placement
from medseg.image.labels import LabelTable
from medseg.image.recode import AS_STORED, Recoding, merge_classes
from medseg.image.resample import placed
from medseg.ingest.cases import grid_of, merge_objects, part_of
from medseg.ingest.channels import reading_of
from medseg.ingest.checked import Checked
from medseg.ingest.coding import recoded, recoding_of
from medseg.ingest.counting import count_values, digest_labels, digest_voxels, spread
from medseg.ingest.doubts import channel_doubts, grid_doubts, header_doubts, voxel_doubts
from medseg.ingest.faults import fault
from medseg.ingest.label_grids import check_grids, check_origins, pages_are_channels
from medseg.ingest.legal import check_legal
from medseg.ingest.object_classes import settle, voxels_by_class
from medseg.ingest.objects import object_facts
from medseg.ingest.origin.sketch import take_sketch
from medseg.ingest.sources import Candidate
from medseg.reading import Reading

# What is recorded with the case.
PART = "the label map covers a part of the image's grid: background outside of it"


def check_case(root: Path, candidate: Candidate, labels: LabelTable | None, section: DatasetConfig) -> Checked:
    """Read one case's files and check them for themselves and against one another."""
    out = Checked(candidate)
    with file_limit(None if section.max_gb is None else int(section.max_gb * 1e9)):
        for file in candidate.images:
            _check_image(root, file, out, section)
        read = [_check_label(root, file, out, section, labels) for file in candidate.labels]
        maps = [values for values in read if values is not None]
        classes = _check_class_map(root, out, section, labels) if labels is not None else None
    if labels is not None and maps and len(maps) == len(candidate.labels) and len({m.shape for m in maps}) == 1:
        _check_values(out, _merged(out, maps), labels, classes, section)
    elif labels is not None and not candidate.labels and out.geometry is not None:
        # An image whose folder of masks, one per object, is empty.
        _check_values(out, np.zeros(out.geometry.shape, np.uint8), labels, None, section)
    return out


def _merged(out: Checked, maps: list[NDArray[Any]]) -> NDArray[Any]:
    """One label map of a case's files: each shows one object, or one class where ``file_values`` says so."""
    if not out.candidate.file_values:
        return maps[0] if len(maps) == 1 else merge_objects(maps)
    merged, twice = merge_classes(maps)
    if twice:
        out.add("label-overlap", out.candidate.labels[0], f"{twice} voxels are in the files of several classes")
    return merged


def _declared(reading: Reading, source: Source) -> Reading:
    """What of the declarations changes what is read of an image; size, orientation and fill stand in columns."""
    return Reading(axes=reading.axes, channels=source.chosen, colour=reading.colour, sizes=reading.sizes)


def _open(
    root: Path, file: str, out: Checked, section: DatasetConfig, series: str = "", *, label: bool = False
) -> tuple[str, Source | None, Geometry | None]:
    """The digest of a file (or folder), what it holds and its grid, as far as they could be read."""
    digest = ""
    try:
        content = read_content(root / file, series)
        digest = content.sha256
        reading = reading_of(out.candidate, section)
        source = open_image(root / file, content, reading=reading.of_labels if label else reading)
        _note_doubts(out, file, source, section.orientation)
        out.remarks += [remark for remark in source.remarks if remark not in out.remarks]
        return digest, source, grid_of(source, out.geometry)
    except FormatError as error:
        out.add(error.code, file, error.cause, error.fix)
        return digest, None, None


def _note_doubts(out: Checked, file: str, source: Source, winner: str | None) -> None:
    """What the reader found doubtful, once per case: image and label mostly share their headers' faults."""
    for doubt in header_doubts(source, winner):
        if any(f.code == doubt.code for f in (*out.faults, *out.settled)):
            continue
        if doubt.settled:
            out.orientation = str(winner)
            out.settled.append(fault(doubt.code, out.candidate.id, file, doubt.cause, doubt.settled))
        else:
            out.add(doubt.code, file, doubt.cause, doubt.fix)


def _check_image(root: Path, file: str, out: Checked, section: DatasetConfig) -> None:
    """Check an image file; the first one's grid becomes the case's."""
    digest, source, grid = _open(root, file, out, section, out.candidate.series)
    out.images_sha256.append(digest)
    out.voxels_sha256.append("")
    if source is None or grid is None:
        return
    try:
        image = source.image()
    except FormatError as error:
        out.add(error.code, file, error.cause, error.fix)
        return
    out.channels = (out.channels or 0) + image.shape[0]
    if len(out.candidate.images) == 1:
        out.channel_names = source.channel_names
        out.reading = _declared(reading_of(out.candidate, section), source)
    out.dtype = out.dtype or str(source.stored.dtype)
    if _check_intensities(out, file, image, section):
        out.voxels_sha256[-1] = digest_voxels(source.voxels)
    if file == out.candidate.images[0]:
        out.geometry, out.world, out.origin = grid, source.affine is not None, source.origin
        out.sketch = take_sketch(image, grid) if out.voxels_sha256[-1] else None
        for doubt in grid_doubts(source, grid):
            out.add(doubt.code, file, doubt.cause, doubt.fix)
    elif out.geometry is not None:
        for doubt in channel_doubts(grid, out.geometry, out.candidate.images[0]):
            out.add(doubt.code, file, doubt.cause, doubt.fix)


def _check_intensities(out: Checked, file: str, image: NDArray[Any], section: DatasetConfig) -> bool:
    """NaN, Inf, a constant image, and spreads; returns whether the image varies (one channel may be empty)."""
    if len(image) > 1 or len(out.candidate.images) > 1:
        out.spreads += [spread(channel) for channel in image]
    doubts = list(voxel_doubts(image, section.fill))
    for doubt in doubts:
        out.add(doubt.code, file, doubt.cause, doubt.fix)
        if doubt.code == "nonfinite":
            out.fill = section.fill
    return all(doubt.code != "constant-image" for doubt in doubts)


def _check_label(
    root: Path, file: str, out: Checked, section: DatasetConfig, table: LabelTable | None
) -> NDArray[Any] | None:
    """The values of a label file as those of the table, if it could be read; its grid is compared with the image's."""
    digest, values, recoding = _read_label(root, file, out, section, table)
    out.labels_sha256.append(digest)
    out.recodings.append(recoding)
    return values


def _read_label(
    root: Path, file: str, out: Checked, section: DatasetConfig, table: LabelTable | None = None
) -> tuple[str, NDArray[Any] | None, Recoding]:
    """The digest and the values of a file of labels, and what these mean by the table; see ``_check_label``."""
    digest, source, grid = _open(root, file, out, section, label=True)
    if source is not None and is_drawn(source):
        return digest, *_drawn(file, out, section, table, source)
    part = None if source is None or grid is None or out.geometry is None else part_of(source, grid, out.geometry)
    if part is None and not pages_are_channels(out, grid, section):
        check_grids(out, file, out.candidate.images[0], grid, out.geometry)
        check_origins(out, file, source)
    if source is None:
        return digest, None, AS_STORED
    recoding = recoding_of(out, file, source, table, section)
    try:
        values = recoded(out, file, source, recoding, table)
    except FormatError as error:
        out.add(error.code, file, error.cause, error.fix)
        return digest, None, recoding
    return digest, None if values is None else _on_grid(out, values, part), recoding


def _drawn(
    file: str, out: Checked, section: DatasetConfig, table: LabelTable | None, source: Source
) -> tuple[NDArray[Any] | None, Recoding]:
    """As ``_read_label``, of structures that have no voxels before they are drawn on the image's grid."""
    recoding = recoding_of(out, file, source, table, section)
    if out.geometry is None:
        return None, recoding
    try:
        label = drawn(source, out.geometry, recoding.values)
        _note_doubts(out, file, label, section.orientation)
        out.remarks += [remark for remark in label.remarks if remark not in out.remarks]
        return recoded(out, file, label, recoding, table), recoding
    except FormatError as error:
        out.add(error.code, file, error.cause, error.fix)
        return None, recoding


def _on_grid(out: Checked, values: NDArray[Any], part: Placement | None) -> NDArray[Any]:
    """The values of a label file on the grid of the image, of which it may cover a ``part``."""
    if part is None or out.geometry is None:
        return values
    if PART not in out.remarks:
        out.remarks.append(PART)
    return placed(values, part, out.geometry.shape)


def _check_class_map(root: Path, out: Checked, section: DatasetConfig, table: LabelTable) -> NDArray[Any] | None:
    """The class values of a case's objects, voxel by voxel, if there is such a file and it could be read."""
    file = out.candidate.class_map
    if not file:
        return None
    _, values, _ = _read_label(root, file, out, section)
    if values is None or not check_legal(out, file, values, count_values(values), replace(table, instances=False)):
        return None
    return values


def _check_values(
    out: Checked,
    labels: NDArray[Any],
    table: LabelTable,
    classes: NDArray[Any] | None,
    section: DatasetConfig,
) -> None:
    """Compare a label map's values with the table, and count them; ``classes`` is its class map, if there is one."""
    file = (*out.candidate.labels, *out.candidate.images)[0]
    counts = count_values(labels)
    _check_changed(out, file, labels)
    check_legal(out, file, labels, counts, table)
    foreground = {v: n for v, n in counts.items() if v not in (0, table.ignore)}
    if not foreground:
        out.add("empty-label", file, f"none of {labels.size} voxels belongs to a class")
    if table.instances:
        objects = {v: n for v, n in foreground.items() if v > 0}
        out.objects = object_facts(labels, objects)
        if not settle(out, labels, objects, table, classes, out.candidate.class_map or section.classes or ""):
            return
        rest = {v: n for v, n in counts.items() if v in (0, table.ignore)}
        counts = rest | voxels_by_class(objects, out.object_classes, table)
    out.label_counts = counts


def _check_changed(out: Checked, file: str, labels: NDArray[Any]) -> None:
    """Note a reference that began as a prediction and has the very voxels that were predicted."""
    source = out.candidate.source
    if source is not None and digest_labels(labels) == source.predicted:
        out.unchanged = True
        out.add("unchanged-prediction", file, f"its voxels are those that {source.model} predicted")
