"""Subjects proposed from what was found: a table that the key ``subject`` of the configuration takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from medseg.ingest.checked import Checked
from medseg.ingest.faults import one_line
from medseg.ingest.origin.faults import identical_pairs, links_between
from medseg.ingest.origin.groups import find_groups, propose
from medseg.ingest.origin.links import KINDS
from medseg.text import csv_table

# Groups that are printed one by one.
SHOWN = 20


def join_noticed(checked: Sequence[Checked]) -> None:
    """Give cases that evidence or identical voxels connect one subject, in place, as ``proposed_subjects`` does."""
    subjects = {one.candidate.id: one.candidate.subject for one in checked}
    pairs = [*((link.one, link.other) for link in links_between(checked)), *identical_pairs(checked)]
    joined = propose(subjects, pairs)
    for one in checked:
        one.candidate = replace(one.candidate, subject=joined[one.candidate.id])


def proposed_subjects(checked: Sequence[Checked]) -> tuple[str, list[str]]:
    """A table with columns case,subject (CSV), and lines that explain it.

    Cases that count as one subject stay together; evidence and identical voxels join subjects. A joined subject has the
    first name of those it is made of, so that the same cases always give the same table.
    """
    subjects = {one.candidate.id: one.candidate.subject for one in checked}
    links, copies = links_between(checked), identical_pairs(checked)
    proposed = propose(subjects, [*((link.one, link.other) for link in links), *copies])
    counts = Counter(link.kind for link in links) + Counter({"identical voxels": len(copies)})
    kinds = ", ".join(f"{kind} {counts[kind]}" for kind in (*KINDS, "identical voxels") if counts[kind])
    groups = find_groups(links, subjects)
    lines = [
        f"{len(subjects)} cases counted as {len(set(subjects.values()))} subjects; "
        f"{f'pairs of one origin by {kinds}' if kinds else 'nothing speaks for more of them belonging together'}",
        *(one_line(group.describe()) for group in groups[:SHOWN]),
    ]
    if len(groups) > SHOWN:
        lines.append(f"and {len(groups) - SHOWN} groups more")
    lines.append(f"proposed: {len(set(proposed.values()))} subjects, the largest of {_largest(proposed)} cases")
    return csv_table(("case", "subject"), proposed.items()), lines


def _largest(subjects: dict[str, str]) -> int:
    return max(Counter(subjects.values()).values())
