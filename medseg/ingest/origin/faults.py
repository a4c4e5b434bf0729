"""Links between cases that were read, and the fault that subjects keep a group of one origin apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from medseg.errors import Fault
from medseg.ingest.checked import Checked
from medseg.ingest.faults import fault
from medseg.ingest.origin.groups import find_groups
from medseg.ingest.origin.links import Link, find_links

# One subject on both sides of the test set's border would be the next fault.
ACROSS_TEST = "some are in the test set: move the group to one side of `test`, or leave cases out with `exclude`"


def identical_pairs(checked: Sequence[Checked]) -> list[tuple[str, str]]:
    """Pairs (first, copy) of cases whose images hold the same voxels, sorted."""
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for one in checked:
        if one.voxels_sha256 and "" not in one.voxels_sha256:
            same[tuple(one.voxels_sha256)].append(one.candidate.id)
    return sorted((min(ids), case) for ids in same.values() for case in ids if case != min(ids))


def links_between(checked: Sequence[Checked]) -> list[Link]:
    """Evidence of one origin, except between cases with the same voxels: they have faults of their own."""
    links = find_links({one.candidate.id: one.sketch for one in checked})
    voxels = {one.candidate.id: tuple(one.voxels_sha256) for one in checked}
    known = {case for case, digests in voxels.items() if digests and "" not in digests}
    return [link for link in links if not (link.one in known and voxels[link.one] == voxels[link.other])]


def origin_faults(checked: Sequence[Checked]) -> list[Fault]:
    """A fault ``same-origin`` per group of cases that look as if they were of one origin and are several subjects."""
    cases = {one.candidate.id: one.candidate for one in checked}
    faults = []
    for group in find_groups(links_between(checked), {case: c.subject for case, c in cases.items()}):
        first = cases[group.members[0]]
        # Between the test set and the rest it is a leak, which cannot be allowed.
        across = len({cases[case].test for case in group.members}) > 1
        code, fix = ("leakage", ACROSS_TEST) if across else ("same-origin", "")
        faults.append(fault(code, first.id, first.images[0], group.describe(), fix))
    return faults
