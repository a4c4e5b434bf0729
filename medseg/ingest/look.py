"""What a folder holds, for whoever has no configuration for it yet: its layout, its cases, an example of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medseg.config import DatasetConfig
from medseg.errors import MedsegError
from medseg.ingest.layouts.found import Found
from medseg.ingest.layouts.guess import guess
from medseg.ingest.sources import LAYOUTS

# Stands for the classes, which nobody has named yet.
ANY_CLASS = "class"


@dataclass(frozen=True, slots=True)
class Look:
    """What a folder looks like.

    Attributes:
        layout: a row of ``LAYOUTS``; empty: none could be seen, and ``why`` says what was seen instead.
        keys: what a data set's section needs so that ingest sees the same: ``images`` and ``masks``, or ``layout``.
        how: what the layout is known by, for a reader.
        cases: number of cases whose image and label files are all there.
        example: image files and label files of the first of them.
        channels: their names, where files or their list name them.
        classes: their names and values, likewise.
        instances: whether there is one mask file per object.
        subjects: what names the subject of a case; empty: nothing.
        remarks: what is there besides, and not used.
        faults: how many files are listed, named or paired in a way that ingest will refuse.
        why: why no layout could be seen.
    """

    layout: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    how: str = ""
    cases: int = 0
    example: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    channels: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    instances: bool = False
    subjects: str = ""
    remarks: tuple[str, ...] = ()
    faults: int = 0
    why: str = ""


def look(folder: Path) -> Look:
    """Look at the names in a folder, and at ``dataset.json`` if there is one; no image is opened, nothing is raised."""
    if not folder.is_dir():
        return Look(why=f"no folder {folder}")
    # The path stands for itself: layouts are handed the folder.
    section = DatasetConfig(path=".")
    try:
        found = guess(folder, section)
        if not found.layout:
            return Look(remarks=found.seen.remarks, why=found.how)
        section = found.apply(section)
        inside = _found(folder, section)
    except (MedsegError, OSError) as error:
        return Look(why=str(error))
    first = min(inside.candidates, key=lambda case: case.id, default=None)
    classes = {} if inside.labels is None else dict(inside.labels.names)
    patterns = {"images": found.seen.images, "masks": found.seen.masks}
    return Look(
        found.layout,
        patterns if found.seen.images else {"layout": found.layout},
        found.how,
        len(inside.candidates),
        (first.images, first.labels) if first else ((), ()),
        inside.channels or (),
        {} if ANY_CLASS in classes else classes,
        inside.labels is not None and inside.labels.instances,
        inside.evidence,
        (*found.seen.remarks, *inside.remarks),
        len(inside.faults),
    )


def _found(folder: Path, section: DatasetConfig) -> Found:
    """The files of the layout; where the configuration has to name the classes, one stands for all."""
    layout = LAYOUTS[str(section.layout)]
    try:
        return layout("data", folder, section)
    except MedsegError:
        return layout("data", folder, section.model_copy(update={"labels": {ANY_CLASS: 1}}))
