"""Whether the values of label files mean something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from medseg.image.labels import LabelTable
from medseg.ingest.checked import Checked
from medseg.ingest.coding import VALUES_SHOWN
from medseg.ingest.counting import first_voxel


def check_legal(out: Checked, file: str, labels: NDArray[Any], counts: Mapping[int, int], table: LabelTable) -> bool:
    """Whether all values of a label file mean something; ``counts`` has the voxels of each."""
    legal = (0, *table.values)
    wrong = [v for v in counts if v != table.ignore and (v < 0 if table.instances else v not in legal)]
    if wrong:
        shown = [f"value {v}: {counts[v]} voxels, first at {first_voxel(labels, v)}" for v in wrong[:VALUES_SHOWN]]
        more = f", and {len(wrong) - VALUES_SHOWN} values more" if len(wrong) > VALUES_SHOWN else ""
        names = ", ".join(f"{value} {name}" for name, value in table.names)
        expected = "0 and object numbers above 0" if table.instances else f"0 background, {names}"
        ignored = "" if table.ignore is None else f", {table.ignore} not annotated"
        out.add("label-values", file, f"{'; '.join(shown)}{more} (expected {expected}{ignored})")
    return not wrong
