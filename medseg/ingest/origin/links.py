"""Pairs of cases that look as if they were of one origin, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.ingest.origin.borders import facing_borders
from medseg.ingest.origin.copies import near_copies
from medseg.ingest.origin.lattice import same_lattice
from medseg.ingest.origin.names import side_pairs
from medseg.ingest.origin.sketch import Sketch

# Kinds of evidence, the strongest first.
KINDS = ("near-copies", "facing borders", "equal intensity steps", "names")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """Two cases, ``one`` before ``other``, and the evidence for their common origin: kind (of ``KINDS``), words."""

    one: str
    other: str
    kind: str
    evidence: str


def find_links(sketches: dict[str, Sketch | None]) -> list[Link]:
    """All pairs of cases with evidence of one origin, whatever their subjects; the order of cases changes nothing.

    Args:
        sketches: of every case; None where there is none (then only its name counts).
    """
    ids = sorted(sketches)
    taken = [sketches[case] for case in ids]
    found = [
        *_copies(ids, taken),
        *_borders(ids, taken),
        *_lattices(ids, taken),
        *(Link(a, b, KINDS[3], f"names that differ by a side only ({x}, {y})") for a, b, x, y in side_pairs(ids)),
    ]
    return sorted(found, key=lambda link: (link.one, link.other, KINDS.index(link.kind)))


def _copies(ids: list[str], sketches: Sequence[Sketch | None]) -> list[Link]:
    wholes, natives = ([getattr(s, kind) if s else None for s in sketches] for kind in ("whole", "native"))
    return [
        Link(
            ids[copy.one],
            ids[copy.other],
            KINDS[0],
            f"near-copies (details correlate with {copy.correlation:.2f}{', turned or mirrored' * copy.mirrored})",
        )
        for copy in near_copies(wholes, natives)
    ]


def _borders(ids: list[str], sketches: Sequence[Sketch | None]) -> list[Link]:
    return [
        Link(
            min(ids[seam.one], ids[seam.other]),
            max(ids[seam.one], ids[seam.other]),
            KINDS[1],
            f"facing borders agree (correlation {seam.correlation:.3f})",
        )
        for seam in facing_borders([s.borders if s else () for s in sketches])
    ]


def _lattices(ids: list[str], sketches: Sequence[Sketch | None]) -> list[Link]:
    lattices = [s.lattice if s else None for s in sketches]
    return [
        Link(ids[a], ids[b], KINDS[2], f"equal intensity steps ({lattice.step:.6g})")
        for a, b in same_lattice(lattices)
        if (lattice := lattices[a]) is not None
    ]
