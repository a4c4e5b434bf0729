"""What is wrong with the voxel sizes of a data set: units that cannot be compared, sizes that cannot be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medseg.errors import Fault
from medseg.image.geometry import MICROMETRES, Geometry
from medseg.ingest.checked import Checked
from medseg.ingest.faults import IDS_IN_ADVICE, exclude_these, fault
from medseg.ingest.voxel_sizes import FAR, VoxelSizes

# From so many cases on, one of them can be told from the others.
ENOUGH_CASES = 3


def size_faults(checked: Sequence[Checked]) -> list[Fault]:
    """Cases with and without a size, volumes with and without a world, and sizes far from those of the others.

    Pictures among volumes, or the reverse, are a fault of their own: they are not compared.
    """
    every = [(one, one.geometry) for one in checked if one.geometry is not None]
    dims = Counter(grid.dims for _, grid in every)
    known = [(one, grid) for one, grid in every if dims[grid.dims] == max(dims.values())]
    with_size = [(one, grid) for one, grid in known if grid.unit in MICROMETRES]
    without = [one for one, grid in known if grid.unit not in MICROMETRES]
    if with_size and without:
        return [_unit_fault(with_size, without)]
    return [*_world_faults(with_size), *_far_faults(with_size)]


def bring_to_one_unit(checked: Sequence[Checked]) -> None:
    """Convert all grids to the unit of length that most cases have (volumes, and of equals: mm); pixels stay pixels."""
    units = Counter(one.geometry.unit for one in checked if one.geometry is not None and one.geometry.unit != "px")
    if len(units) > 1:
        volumes = any(one.geometry is not None and one.geometry.dims == 3 for one in checked)
        common = "mm" if volumes else min(units, key=lambda unit: (-units[unit], unit))
        for one in checked:
            if one.geometry is not None and one.geometry.unit in MICROMETRES:
                one.geometry = one.geometry.in_unit(common)


def _unit_fault(with_size: Sequence[tuple[Checked, Geometry]], without: Sequence[Checked]) -> Fault:
    """Some cases have a voxel size, others none: one fault that names both."""
    ids = [one.candidate.id for one in without]
    sizes = sorted({f"{' x '.join(f'{s:.4g}' for s in grid.spacing)} {grid.unit}" for _, grid in with_size})
    shown = sizes[0] if len(sizes) == 1 else f"{sizes[0]} and {len(sizes) - 1} others"
    why = next((f": {r}" for one in without for r in one.remarks if "pixel size" in r), "")
    cause = (
        f"{len(ids)} of {len(ids) + len(with_size)} cases state no voxel size ({_some(ids)}{why}), the others do "
        f"({_some([one.candidate.id for one, _ in with_size])}; {shown}): pixels cannot be compared with lengths"
    )
    return fault("unit", "-", "-", cause, _way_out(with_size, ids))


def _way_out(with_size: Sequence[tuple[Checked, Geometry]], without: Sequence[str]) -> str:
    """What can be done where some cases state no size; the size of the others, where they have but one."""
    spacings = {tuple(round(s, 6) for s in grid.in_unit("um").spacing) for _, grid in with_size}
    sizes = ", ".join(f"{s:.6g}" for s in next(iter(spacings))) if len(spacings) == 1 else "..."
    ways = [f"if their size is known, say it for all that state none: `spacing: [{sizes}]` (um)"]
    if not any(one.world for one, _ in with_size):
        ways.append("or use no sizes at all: `sizes: pixels`")
    return f"{'; '.join(ways)}; or leave them out: {exclude_these(without)}"


def _world_faults(known: Sequence[tuple[Checked, Geometry]]) -> list[Fault]:
    """Volumes whose axes are the world's beside volumes that are slices, rows and columns: no axis is another's."""
    volumes = [(one, grid) for one, grid in known if grid.dims == 3]
    worlds = Counter(one.world for one, _ in volumes)
    if len(worlds) < 2:
        return []
    odd = worlds[True] < worlds[False]
    found = "a place and directions in the world" if odd else "no directions in the world (axes Z, Y, X)"
    faults = []
    for one, _ in volumes:
        if one.world == odd:
            c = one.candidate
            cause = f"the file has {found}, unlike most: no axis of one is known to be an axis of the other"
            fix = f"store all volumes in one format; or leave it out: {exclude_these([c.id])}"
            faults.append(fault("dims-mismatch", c.id, c.images[0], cause, fix))
    return faults


def _far_faults(known: Sequence[tuple[Checked, Geometry]]) -> list[Fault]:
    """Cases whose voxel size is far from the median."""
    if len(known) < ENOUGH_CASES or len({grid.dims for _, grid in known}) > 1:
        return []
    middle = VoxelSizes.of(grid for _, grid in known).middle
    faults = []
    for one, grid in known:
        if doubt := middle.doubt(grid, "the median of the data set"):
            c = one.candidate
            declare = "" if one.world else "say the size of all images: `sizes: spacing` with `spacing: [...]`, "
            fix = f"correct the size in the file, {declare}or leave the case out: {exclude_these([c.id])}"
            faults.append(fault("voxel-size", c.id, c.images[0], f"{doubt} (allowed: {FAR:g} times)", fix))
    return faults


def _some(ids: Sequence[str]) -> str:
    more = f", … {len(ids) - IDS_IN_ADVICE} more" if len(ids) > IDS_IN_ADVICE else ""
    return ", ".join(ids[:IDS_IN_ADVICE]) + more
