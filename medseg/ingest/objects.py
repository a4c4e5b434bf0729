"""Whether numbers in a label file are objects: how many, how large, in how many parts, and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import Fault
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.checked import Checked, ObjectFacts
from medseg.ingest.faults import fault

# A part of an object counts if it has this share of the largest part's voxels: annotations have specks.
PART = 0.05
# Parts of one object that are looked at, the largest first.
MOST_PARTS = 200
# An object that covers more of its image than this is reported.
LARGE = 0.25
# Numbers in so many parts each are no objects, whatever the other cases show …
MANY_PARTS = 5
# … and in so many, where half of the cases do so: one number, or each of several.
SOME_PARTS_OF_ONE, SOME_PARTS = 2, 3
# A mask that was stored with loss: so many numbers, so many of their voxels within this of black and white.
RINGING_NUMBERS, RINGING_REACH, RINGING_SHARE = 8, 24, 0.9


def object_facts(labels: NDArray[Any], sizes: Mapping[int, int]) -> ObjectFacts:
    """What is known of the objects of a label map.

    Args:
        labels: (S) numbers of objects.
        sizes: number -> voxels, of the objects alone.
    """
    from scipy import ndimage
    from skimage.measure import label

    numbers = sorted(sizes)
    if not numbers:
        return ObjectFacts((), (), (), ())
    kept = np.where(np.isin(labels, numbers), labels, 0)
    parts = label(kept, background=0, connectivity=kept.ndim)
    voxels = np.bincount(parts.ravel())[1:]
    boxes = ndimage.find_objects(parts)
    owner = [_number_of(kept[box], parts[box] == k) for k, box in enumerate(boxes, start=1)]
    of_number: dict[int, list[int]] = {number: [] for number in numbers}
    for part in np.argsort(-voxels, kind="stable").tolist():
        of_number[owner[part]].append(part)
    counted, far = [], []
    for number, (largest, *others) in of_number.items():
        large = [largest, *(part for part in others if voxels[part] >= PART * voxels[largest])]
        several = [boxes[part] for part in large[:MOST_PARTS]]
        counted.append(_side_by_side(several) if len(numbers) > 1 else len(large))
        if any(_far_from(boxes[largest], boxes[part]) for part in others):
            far.append(number)
    return ObjectFacts(tuple(numbers), tuple(sizes[n] for n in numbers), tuple(counted), tuple(far))


def _side_by_side(boxes: Sequence[tuple[slice, ...]]) -> int:
    """How many parts of an object there are; of a volume, how many in one slice.

    Slices that were numbered one by one give an object a part in each of them, and are no masks of something else.
    """
    if len(boxes) == 1 or len(boxes[0]) < 3:
        return len(boxes)
    counts = []
    for axis in range(len(boxes[0])):
        starts, stops = (np.array([getattr(box[axis], end) for box in boxes]) for end in ("start", "stop"))
        counts.append(max(int(((starts <= at) & (stops > at)).sum()) for at in starts))
    return min(counts)


def _number_of(kept: NDArray[Any], part: NDArray[np.bool_]) -> int:
    """The number of the object that a part belongs to."""
    return int(kept.flat[int(np.argmax(part))])


def _far_from(one: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    """Whether the gap between two boxes is larger than the first is long."""
    gap = max(max(a.start - b.stop, b.start - a.stop) for a, b in zip(one, other, strict=True))
    return bool(gap > max(s.stop - s.start for s in one))


def object_faults(checked: Sequence[Checked], table: LabelTable | None) -> list[Fault]:
    """Cases whose numbers are no objects: a mask of one value, a map of classes, a mask that was stored with loss."""
    if table is None or not table.instances:
        return []
    known = [(one, one.objects) for one in checked if one.objects is not None and one.objects.numbers]
    some = {one.candidate.id for one, facts in known if _in_parts(facts, SOME_PARTS_OF_ONE, SOME_PARTS)}
    faults = []
    for one, facts in known:
        if _in_parts(facts, MANY_PARTS, MANY_PARTS) or (one.candidate.id in some and 2 * len(some) >= len(known)):
            c = one.candidate
            faults.append(fault("not-objects", c.id, c.labels[0], *_looks_like(facts, table)))
    return faults


def _in_parts(facts: ObjectFacts, of_one: int, of_each: int) -> bool:
    """Whether the only number is in ``of_one`` parts or more, or half of several numbers in ``of_each``."""
    least = of_one if len(facts.numbers) == 1 else of_each
    return 2 * sum(parts >= least for parts in facts.parts) >= len(facts.parts)


def _looks_like(facts: ObjectFacts, table: LabelTable) -> tuple[str, str]:
    """What the numbers of a case look like, and what to do about it."""
    parts, name = sum(facts.parts), table.names[0][0] if table.names else "object"
    number = "number the parts: `skimage.measure.label(mask, connectivity=1)`"
    if len(facts.numbers) == 1:
        value = facts.numbers[0]
        cause = f"one object, number {value}, in {parts} parts: looks like a binary mask"
        fix = f"{number}; or, if objects need not be told apart, `instances: false` and `labels: {{{name}: {value}}}`"
        return cause, fix
    cause = f"{len(facts.numbers)} numbers ({facts.numbers[0]} to {facts.numbers[-1]}) in {parts} parts: looks like "
    if _rings(facts):
        middle = facts.numbers[-1] // 2
        lossy = f"a mask that was stored with loss (JPEG), its values crowd at 0 and {facts.numbers[-1]}"
        return cause + lossy, f"export the mask again without loss, or take `mask > {middle}`; then {number}"
    shown = ", ".join(f"NAME_{value}: {value}" for value in facts.numbers[:3])
    more = ", …" if len(facts.numbers) > 3 else ""
    return cause + "a map of classes or of intensities", (
        f"if the values are classes, `instances: false` and `labels: {{{shown}{more}}}`; else {number}"
    )


def _rings(facts: ObjectFacts) -> bool:
    """Whether numbers are those of a mask of two values around which a lossy compression rings."""
    values, voxels = np.array(facts.numbers), np.array(facts.voxels)
    top = int(values.max())
    if len(values) < RINGING_NUMBERS or not 4 * RINGING_REACH < top <= 255:
        return False
    low, high = values <= RINGING_REACH, values >= top - RINGING_REACH
    return bool(low.any() and high.any() and voxels[low | high].sum() >= RINGING_SHARE * voxels.sum())


def object_lines(checked: Sequence[Checked]) -> list[str]:
    """How many objects images have, how large they are, and which are strange: lines of the summary."""
    known = [(one, one.objects, one.geometry) for one in checked if one.objects is not None]
    cases = [(one.candidate.id, facts, grid) for one, facts, grid in known if facts is not None and grid is not None]
    counts = [len(facts.numbers) for _, facts, _ in cases]
    if not sum(counts):
        return []
    diameters = np.concatenate([_diameters(facts.voxels, grid) for _, facts, grid in cases])
    unit = cases[0][2].unit
    low, middle, high = np.percentile(diameters, (5, 50, 95))
    span = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"
    lines = [
        f"objects per image {span}, median {np.median(counts):.4g}, {sum(counts)} in all; "
        f"diameter median {middle:.4g} {unit}, 5% to 95% of them {low:.4g}-{high:.4g}"
    ]
    for what, chosen in (
        ("in several parts far from one another", lambda facts, grid: facts.far),
        ("of one voxel", lambda facts, grid: [n for n, v in zip(facts.numbers, facts.voxels, strict=True) if v == 1]),
        (f"larger than {LARGE:.0%} of the image", _large),
    ):
        found = [(case, chosen(facts, grid)) for case, facts, grid in cases]
        number = sum(len(objects) for _, objects in found)
        if number:
            where = [case for case, objects in found if objects]
            example = next(f"object {objects[0]} of {case}" for case, objects in found if objects)
            plural = "object" if number == 1 else "objects"
            lines.append(f"{number} {plural} {what}, in {len(where)} of {len(cases)} cases, first {example}")
    return lines


def _large(facts: ObjectFacts, grid: Geometry) -> list[int]:
    most = LARGE * math.prod(grid.shape)
    return [number for number, voxels in zip(facts.numbers, facts.voxels, strict=True) if voxels > most]


def _diameters(voxels: Sequence[int], grid: Geometry) -> NDArray[np.float64]:
    """Diameters (objects,) of the discs or balls as large as objects of so many voxels, in the unit of the grid."""
    ball = math.pi ** (grid.dims / 2) / math.gamma(grid.dims / 2 + 1)
    found: NDArray[np.float64] = 2 * (np.array(voxels) * grid.voxel_volume / ball) ** (1 / grid.dims)
    return found
