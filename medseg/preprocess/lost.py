"""Classes that a case has in its label file but no longer has on the prepared grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DatasetFaults, Fault
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.manifest import Case, Manifest
from medseg.plan.plan import Grid
from medseg.progress import say


def report_lost_classes(
    manifest: Manifest, entries: Mapping[str, Mapping[str, Any]], grid: Grid, folder: Path, allow: Sequence[str]
) -> None:
    """Report prepared cases that lost a class: no network could learn or find there what the reference shows.

    Args:
        manifest: the data set.
        entries: what the index will say of the prepared cases, kept ones included.
        grid: the grid that they were brought to.
        folder: the data set's folder, for the message.
        allow: codes of faults that are allowed by name.

    Raises:
        DatasetFaults: with every such case, unless ``lost-class`` is allowed.
    """
    cases = (manifest.case(case) for case in entries)
    faults = [found for case in cases for found in _faults(case, manifest.labels, grid, entries[case.id]["classes"])]
    if faults and "lost-class" not in allow:
        raise DatasetFaults(manifest.dataset, folder, faults)
    for one in faults:
        say(f"preprocess {manifest.dataset}: allowed by name: {one}")


def _faults(case: Case, table: LabelTable, grid: Grid, left: Collection[int]) -> list[Fault]:
    """What one case has lost; ``left``: classes that are there on the grid."""
    faults = []
    for channel, (name, value) in enumerate(table.names, start=1):
        voxels = case.label_counts.get(value, 0)
        if voxels and channel not in left:
            spacing = " x ".join(f"{s:.4g}" for s in grid.spacing)
            cause = f"none of the {voxels} voxels of class {name} ({value}) is left at spacing {spacing}"
            faults.append(fault("lost-class", case.id, case.labels[0], cause))
    return faults
