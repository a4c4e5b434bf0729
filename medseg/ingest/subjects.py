"""Whose case is it? Cases of one subject resemble one another, so they must never be on both sides of a fold."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from medseg.config import is_table
from medseg.errors import ConfigError, DataError, Fault
from medseg.files import nearest
from medseg.ingest.faults import fault
from medseg.ingest.grouping import NOBODY, Grouping
from medseg.ingest.ids import case_id
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.tables import read_table
from medseg.text import text_of_cell

# Values of `subject`: every case is a subject of its own; cases that look as if they had one origin are one.
# Or: the folder that a pattern calls {group} is the subject.
CASE, NOTICED, FOLDER = "case", "same-origin", "folder"
SEPARATORS = "_.-"


def check_subject(dataset: str, subject: str | Mapping[str, str] | None) -> None:
    """Raise ``ConfigError`` if ``subject`` is neither a list, a file, one of the words, nor a usable expression."""
    if isinstance(subject, Mapping):
        if empty := [case for case, name in subject.items() if not name.strip()]:
            raise ConfigError(f"datasets.{dataset}.subject: {empty[0]!r} has no subject; write whose case it is")
    elif not is_table(subject) and subject not in (NOTICED, FOLDER):
        subject_rule(dataset, subject)


def declared_subjects(
    dataset: str,
    root: Path,
    subject: str | Mapping[str, str] | None,
    cases: Mapping[str, Candidate],
    evidence: str,
    absent: Set[str] = frozenset(),
) -> tuple[dict[str, str], Grouping, list[Fault]]:
    """The subject of every case: by the configuration, or else the layout, or else each case by itself.

    Args:
        dataset: name, for error messages.
        root: the data set's folder.
        subject: that key of the configuration.
        cases: all cases that were found.
        evidence: where the layout has its subjects from; empty: it does not know them.
        absent: ids that a file may name besides: cases that are left out, or have faults of their own.

    Returns:
        Case id -> subject for every case (faulty ones are subjects of their own), how that is known, and faults of
        code ``subject``.

    Raises:
        ConfigError: as ``subject_rule``.
    """
    if isinstance(subject, Mapping):
        named, faults = _from_list(subject, cases, absent)
        return {case: named.get(case, case) for case in cases}, Grouping("file", "the configuration"), faults
    if is_table(subject):
        named, faults = _from_file(root, str(subject), cases, absent)
        return {case: named.get(case) or case for case in cases}, Grouping("file", str(subject)), faults
    if subject == NOTICED:
        # What the images show is added when they are read; ids that look as if subjects repeat are still a fault.
        faults = [] if all(c.subject for c in cases.values()) else repeated_subjects(list(cases))
        return {case: c.subject or case for case, c in cases.items()}, Grouping("noticed"), faults
    if subject == FOLDER:
        if lacking := next((case for case, c in cases.items() if not c.group), None):
            where = f"{cases[lacking].images[0]}; write another `subject` (docs/data.md)"
            cause = "no folder says whose case it is ({group} in `images`)"
            raise ConfigError(f"datasets.{dataset}.subject: {cause}: {where}")
        return {case: c.group for case, c in cases.items()}, Grouping("layout", "the folders of its images"), []
    if subject is None and cases and all(case.subject for case in cases.values()):
        grouping = Grouping("layout", evidence) if evidence else NOBODY
        return {case: c.subject for case, c in cases.items()}, grouping, []
    rule = subject_rule(dataset, subject)
    faults = [] if subject is not None else shared_folders(cases) or repeated_subjects(list(cases))
    found = {case: rule(case) if subject is not None else c.subject or case for case, c in cases.items()}
    fix = "correct the expression, or say who belongs together in a file: `subject: FILE.csv` (columns case,subject)"
    for case in (case for case, name in found.items() if not name):
        faults.append(fault("subject", case, cases[case].images[0], f"'{subject}' finds no subject in this id", fix))
    grouping = NOBODY if subject is None else Grouping("case") if subject == CASE else Grouping("pattern", subject)
    return {case: name or case for case, name in found.items()}, grouping, faults


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
        expected = f"expected exactly one, or the word {CASE}, or FILE.csv"
        raise ConfigError(f"datasets.{dataset}.subject: {pattern!r} has {found} groups (...), {expected}")

    def subject(case_id: str) -> str | None:
        match = expression.search(case_id)
        return match.group(1) if match else None

    return subject


def read_case_table(root: Path, name: str, *columns: str) -> list[dict[str, str]]:
    """Rows of a table of the user's own with the column ``case`` and others, in the data set's or the working folder.

    It may hold names of files: they become ids.

    Raises:
        DataError: with the cause alone, if it cannot be read or lacks a column.
    """
    path = nearest(root, name)
    try:
        header, rows = read_table(path)
    except DataError as error:
        raise DataError(str(error).removeprefix(f"{path}: ")) from None
    lacking = [column for column in ("case", *columns) if column not in header]
    if lacking:
        raise DataError(f"no column '{lacking[0]}'; there are {', '.join(header)}")
    return [row | {"case": case_id(row["case"])} for row in rows]


def _from_file(
    root: Path, name: str, cases: Mapping[str, Candidate], absent: Set[str]
) -> tuple[dict[str, str], list[Fault]]:
    """Case -> subject by a table, and everything wrong with it."""
    try:
        rows = read_case_table(root, name, "subject")
    except DataError as error:
        fix = "write a table with columns case,subject into the data set's folder or the working folder"
        return {}, [fault("subject", "-", name, str(error), fix)]
    faults = []
    for case, count in sorted(Counter(row["case"] for row in rows).items()):
        if count > 1:
            faults.append(fault("subject", case, name, f"is there {count} times", "keep one line per case"))
    # `--propose-subjects` writes cells that no spreadsheet takes for a formula.
    named = {row["case"]: text_of_cell(row["subject"]) for row in rows}
    # One file may serve a whole collection of which this is a part: lines of cases that are not here do no harm,
    # since a misspelt one leaves a case without a line.
    strangers = sorted(named.keys() - cases.keys() - absent)
    for case in cases:
        if case not in named:
            near = difflib.get_close_matches(case, strangers, n=1, cutoff=0.6)
            meant = f"; line '{near[0]}' is of no case here: is this one meant?" if near else ""
            fix = "add a line with this case and its subject, or correct one"
            faults.append(fault("subject", case, name, f"not listed there{meant}", fix))
        elif not named[case]:
            faults.append(fault("subject", case, name, "no subject in its line", "write whose case it is"))
    return named, faults


def _from_list(
    listed: Mapping[str, str], cases: Mapping[str, Candidate], absent: Set[str]
) -> tuple[dict[str, str], list[Fault]]:
    """Case -> subject as the configuration says it, and names there that are no case's.

    Who belongs together is all that is written there; so a misspelt name would be a case by itself.
    """
    named = {case_id(case): name for case, name in listed.items()}
    faults = []
    for case in sorted(named.keys() - cases.keys() - absent):
        near = difflib.get_close_matches(case, cases, n=1, cutoff=0.6)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        fix = "correct the id in `subject`, or take it out"
        faults.append(fault("subject", "-", "-", f"`subject` names '{case}', which is no case{hint}", fix))
    return named, faults


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


def shared_folders(cases: Mapping[str, Candidate]) -> list[Fault]:
    """The fault that folders hold several cases, where the configuration does not say whether these are one subject."""
    folders = Counter(case.group for case in cases.values() if case.group)
    folder, count = max(folders.items(), key=lambda item: item[1], default=("", 0))
    if count < 2:
        return []
    cause = f"{count} cases lie in the folder {folder}, and `subject` does not say whether they belong together"
    fix = (
        f"write `subject: {FOLDER}` if each folder is one subject (a patient, a slide), or `subject: {CASE}` if "
        "each case is a subject of its own, or `subject: FILE.csv` (columns case,subject)"
    )
    return [fault("subject", "-", "-", cause, fix)]


def repeated_subjects(case_ids: Sequence[str]) -> list[Fault]:
    """The fault that ids look as if subjects repeat, where the configuration does not settle it."""
    found = suspect(case_ids)
    if found is None:
        return []
    one, other, pattern = found
    cause = f"{one} and {other} look like cases of one subject; `subject` does not say which cases belong together"
    fix = (
        f"write `subject: '{pattern}'`, or `subject: {CASE}` if each case is a subject of its own, "
        "or `subject: FILE.csv` (columns case,subject) if no expression can say it"
    )
    return [fault("subject", "-", "-", cause, fix)]
