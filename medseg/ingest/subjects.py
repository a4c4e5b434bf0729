"""Whose case is it? Cases of one subject resemble one another, so they must never be on both sides of a fold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from medseg.errors import ConfigError, Fault
from medseg.ingest.faults import fault

# The value of `subject` that says: every case is a subject of its own.
CASE = "case"
SEPARATORS = "_.-"


def subject_rule(dataset: str, pattern: str | None) -> Callable[[str], str | None]:
    """Case id -> subject: the one group of ``pattern``; without a pattern, or with ``case``, each case is its own.

    Raises:
        ConfigError: if the pattern is no regular expression with exactly one group.
    """
    if pattern in (None, CASE):
        return lambda case_id: case_id
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"datasets.{dataset}.subject: {pattern!r} is no regular expression ({error})") from None
    if expression.groups != 1:
        found = expression.groups
        expected = f"expected exactly one, or the word {CASE}"
        raise ConfigError(f"datasets.{dataset}.subject: {pattern!r} has {found} groups (...), {expected}")

    def subject(case_id: str) -> str | None:
        match = expression.search(case_id)
        return match.group(1) if match else None

    return subject


def suspect(case_ids: Sequence[str]) -> tuple[str, str, str] | None:
    """Whether ids look as if subjects repeat, as in ``patient001_frame01`` and ``patient001_frame12``.

    Ids are split at '_', '-' and '.'. If their first k parts, for some k, make more than one group but fewer groups
    than ids, and a group of several ids has a digit in its name, that name may be a subject's. A random split of the
    cases would then put one subject on both sides.

    Returns:
        Two ids of one group and a regular expression that finds the groups, for the smallest such k; or None.
    """
    ids = sorted(set(case_ids))
    parts = {case: re.split(f"[{SEPARATORS}]", case) for case in ids}
    for size in range(1, max((len(p) for p in parts.values()), default=0)):
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for case in ids:
            groups[tuple(parts[case][:size])].append(case)
        if len(groups) == 1 or len(groups) == len(ids):
            continue
        for name, members in sorted(groups.items()):
            if len(members) > 1 and any(character.isdigit() for part in name for character in part):
                word = f"[^{SEPARATORS}]*"
                more = f"(?:[{SEPARATORS}]{word}){{0,{size - 1}}}" if size > 1 else ""
                return members[0], members[1], f"^({word}{more})"
    return None


def repeated_subjects(case_ids: Sequence[str]) -> list[Fault]:
    """The fault that ids look as if subjects repeat and nobody said whether they do."""
    found = suspect(case_ids)
    if found is None:
        return []
    one, other, pattern = found
    cause = f"{one} and {other} look like cases of one subject; `subject` does not say which cases belong together"
    mend = f"write `subject: '{pattern}'`, or `subject: {CASE}` if each case is a subject of its own"
    return [fault("subject", "-", "-", cause, mend)]
