"""Groups of cases that belong together: faults where subjects keep them apart, and proposals of subjects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medseg.ingest.origin.components import connected
from medseg.ingest.origin.links import KINDS, Link

# Members of a group that are named in a line.
NAMED = 8


@dataclass(frozen=True, slots=True)
class OriginGroup:
    """Cases that links connect although they count as several subjects.

    Attributes:
        members: case ids, sorted.
        subjects: how many they count as.
        links: between members of different subjects, sorted.
    """

    members: tuple[str, ...]
    subjects: int
    links: tuple[Link, ...]

    def describe(self) -> str:
        """The group on one line: its first pair with the evidence, how many pairs of which kind, its members."""
        first = min(self.links, key=lambda link: (KINDS.index(link.kind), link.one, link.other))
        line = f"{first.one} and {first.other}: {first.evidence}, counted as {self.subjects} subjects"
        if len(self.links) == 1 and len(self.members) == 2:
            return line
        counts = Counter(link.kind for link in self.links)
        kinds = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind])
        more = f" and {len(self.members) - NAMED} more" if len(self.members) > NAMED else ""
        return f"{line}; group of {len(self.members)} by pairs of {kinds}: {', '.join(self.members[:NAMED])}{more}"


def find_groups(links: Sequence[Link], subjects: Mapping[str, str]) -> list[OriginGroup]:
    """The groups in which a link leads from one subject to another, sorted; all cases of these subjects are members.

    Args:
        links: pairs with evidence.
        subjects: case id -> subject, for every case.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    for case, subject in sorted(subjects.items()):
        cases[subject].append(case)
    across = [link for link in links if subjects[link.one] != subjects[link.other]]
    groups = connected((subjects[link.one], subjects[link.other]) for link in across)
    place = {subject: number for number, group in enumerate(groups) for subject in group}
    own: dict[int, list[Link]] = defaultdict(list)
    for link in across:
        own[place[subjects[link.one]]].append(link)
    made = [
        OriginGroup(tuple(sorted(case for subject in group for case in cases[subject])), len(group), tuple(own[number]))
        for number, group in enumerate(groups)
    ]
    return sorted(made, key=lambda group: group.members)


def propose(subjects: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Case id -> subject, where subjects that pairs of cases connect are one, called by the first of their names.

    Args:
        subjects: case id -> current subject, for every case.
        pairs: case ids.
    """
    renamed: dict[str, str] = {}
    for group in connected((subjects[one], subjects[other]) for one, other in pairs):
        renamed |= dict.fromkeys(group, min(group))
    return {case: renamed.get(subject, subject) for case, subject in sorted(subjects.items())}
