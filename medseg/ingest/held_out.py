"""Which cases are kept apart: left out by name, or for a test set that nothing but `medseg test` reads."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, DataError, Fault
from medseg.ingest.faults import exclude_these, fault, one_line
from medseg.ingest.ids import case_id
from medseg.ingest.layouts.found import Candidate, Found
from medseg.ingest.subjects import read_case_table

# Layouts that know a folder `imagesTs`.
WITH_TEST_FOLDER = ("decathlon", "nnunet")


def check_test(dataset: str, layout: str, section: DatasetConfig) -> None:
    """Raise ``ConfigError`` if the test set is named in a way that the layout does not support."""
    test = section.test
    if test is None:
        return
    instead = "name the cases, `test: [ID, …]`, or a file of them, `test: FILE.csv`"
    if test.folder is not None and layout not in WITH_TEST_FOLDER:
        known = " and ".join(WITH_TEST_FOLDER)
        raise ConfigError(f"datasets.{dataset}.test: {test.folder} is a folder of {known}, this is {layout}; {instead}")
    if test.split is not None and "{split" not in (section.images or ""):
        where = 'write it into both patterns, `images: "{split}/images/{case}.png"`'
        raise ConfigError(f"datasets.{dataset}.test: a split needs {{split}} in `images`; {where}, or {instead}")
    if test.column is not None and layout != "table":
        raise ConfigError(f"datasets.{dataset}.test: a column needs the table layout, this is {layout}; {instead}")


def leave_out(dataset: str, found: Found, exclude: Iterable[str]) -> tuple[str, ...]:
    """Take cases that the configuration excludes off what a layout found, with their faults; returns their ids.

    Raises:
        ConfigError: if a name is no case's, with the nearest that is.
    """
    names = tuple(sorted({case_id(name) for name in exclude}))
    known = {case.id for case in found.candidates} | {f.case for f in found.faults} - {"-"}
    for name in names:
        if name not in known and one_line(name) not in known:
            raise ConfigError(f"datasets.{dataset}.exclude: no case '{one_line(name)}'{_nearest(name, known)}")
    excluded = {*names, *map(one_line, names)}
    found.candidates = [case for case in found.candidates if case.id not in excluded]
    found.faults = [f for f in found.faults if f.case not in excluded]
    return names


def test_ids(
    dataset: str,
    root: Path,
    section: DatasetConfig,
    cases: Mapping[str, Candidate],
    excluded: Set[str],
    faults: Iterable[Fault],
) -> tuple[frozenset[str], list[Fault]]:
    """Ids of the test cases, in whatever way they are named, and what is wrong with it.

    Args:
        dataset, section: the data set's configuration.
        root: its folder.
        cases: all cases that were found.
        excluded: ids that are left out.
        faults: what is wrong with the data set so far.

    Raises:
        ConfigError: if the list names an unknown case, or one that is left out.
    """
    test = section.test
    if test is None:
        return frozenset(), []
    if test.cases is None and test.file is None:
        return frozenset(case for case, c in cases.items() if c.test), []
    codes: dict[str, set[str]] = defaultdict(set)
    for f in faults:
        codes[f.case].add(f.code)
    listed = [case_id(name) for name in test.cases or ()]
    for case in listed:
        if case in excluded:
            raise ConfigError(f"datasets.{dataset}: case '{case}' is in `exclude` and in `test`; take it out of one")
        if case not in cases and case not in codes:
            raise ConfigError(f"datasets.{dataset}.test: no case '{one_line(case)}'{_nearest(case, cases)}")
    named, more = listed, list[Fault]()
    if test.file is not None:
        named, more = _from_file(root, test.file, cases.keys() | codes.keys() | excluded)
    # A case whose files are not all there has a fault of its own; if that was allowed, this is the consequence.
    for case in named:
        why = codes.get(case, set())
        if case not in cases and case not in excluded and why and why <= set(section.allow):
            cause = f"a case of the test set, but left out for {', '.join(sorted(why))}, which is allowed"
            more.append(fault("missing", case, "-", cause, "add its files, or take it out of `test`"))
    return frozenset(named) & cases.keys(), more


def one_side(cases: Iterable[Candidate]) -> list[Fault]:
    """Subjects with cases in the test set and others outside: scores of such a test set would flatter."""
    sides: dict[str, tuple[list[Candidate], list[Candidate]]] = defaultdict(lambda: ([], []))
    for case in cases:
        sides[case.subject][case.test].append(case)
    both = {subject: pair for subject, pair in sorted(sides.items()) if all(pair)}
    outside = sorted(case.id for pair in both.values() for case in pair[0])
    leave = f"leave the others out: {exclude_these(outside)}"
    fix = f"one subject, one side: name all cases of a subject in `test` or none, or {leave}"
    return [
        fault("leakage", out[0].id, out[0].images[0], f"subject {subject}: {_sides(out, test)}", fix)
        for subject, (out, test) in both.items()
    ]


def _sides(outside: list[Candidate], test: list[Candidate]) -> str:
    return f"{_some(test)} in the test set, {_some(outside)} outside it"


def _some(cases: list[Candidate]) -> str:
    """Ids of a few cases, and how many there are besides."""
    more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
    return ", ".join(case.id for case in cases[:3]) + more


def _from_file(root: Path, name: str, known: Set[str]) -> tuple[list[str], list[Fault]]:
    """The cases that a table names, and everything wrong with it."""
    try:
        rows = read_case_table(root, name)
    except DataError as error:
        fix = "write a table with a column case into the data set's folder or the working folder"
        return [], [fault("splits", "-", name, str(error), fix)]
    faults = [] if rows else [fault("splits", "-", name, "no case in it", "name the test cases, or take `test` out")]
    for case, count in sorted(Counter(row["case"] for row in rows).items()):
        if case not in known:
            cause = f"not in the data set{_nearest(case, known)}"
            faults.append(fault("splits", case or "-", name, cause, "correct the id or remove the line"))
        elif count > 1:
            faults.append(fault("splits", case, name, f"is there {count} times", "keep one line per case"))
    return list(dict.fromkeys(row["case"] for row in rows)), faults


def _nearest(name: str, known: Iterable[str]) -> str:
    """The hint at the known name that is most like this one, or at how many there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {len(names)}, such as {', '.join(names[:3])}"
