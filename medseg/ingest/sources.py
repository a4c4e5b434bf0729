"""Where cases come from: the table of layouts, and what holds for all of them (ids, subjects)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from medseg.config import DatasetConfig, is_table
from medseg.errors import Fault
from medseg.files import SAFE_NAME
from medseg.formats.table import stem_of
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.grouping import NOBODY, Grouping
from medseg.ingest.held_out import check_test, leave_out, one_side, test_ids
from medseg.ingest.ids import case_id
from medseg.ingest.layouts.bids import bids_layout
from medseg.ingest.layouts.corrections import TABLE, corrections_layout
from medseg.ingest.layouts.decathlon import decathlon_layout
from medseg.ingest.layouts.dsb2018 import dsb2018_layout
from medseg.ingest.layouts.found import Candidate, Found, same_name
from medseg.ingest.layouts.guess import guess_layout
from medseg.ingest.layouts.nnunet import nnunet_layout
from medseg.ingest.layouts.pairs import pairs_layout
from medseg.ingest.layouts.patterns import patterns_layout
from medseg.ingest.layouts.table import table_layout
from medseg.ingest.object_classes import ambiguous_ids, check_setting, listed_classes
from medseg.ingest.subjects import check_subject, declared_subjects
from medseg.progress import say
from medseg.text import escaped, is_printable

__all__ = ["LAYOUTS", "Candidate", "Inventory", "find_cases"]

# Layout (a value of `layout` in the configuration) -> how its files are found and paired.
LAYOUTS: dict[str, Callable[[str, Path, DatasetConfig], Found]] = {
    "pairs": pairs_layout,
    "patterns": patterns_layout,
    "decathlon": decathlon_layout,
    "nnunet": nnunet_layout,
    "bids": bids_layout,
    "dsb2018": dsb2018_layout,
    "table": table_layout,
    "corrections": corrections_layout,
}


# Names of which it is said what ids were made from them; all are in the manifest.
NAMES_SHOWN = 3
FIX_TWINS = (
    "rename one of them, or give both ids of your own: a table with columns case,image,label and `table: FILE.csv` "
    "(docs/data.md)"
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is there before any image is opened.

    Attributes:
        root: the data set's folder.
        candidates: sorted by id, each with a subject; those of the test set are marked.
        labels: what label values mean; None if that could not be found out (then ``faults`` explains why).
        channels: channel names, or None where neither data set nor configuration names them.
        faults: everything wrong so far.
        splits: a file of folds that the data set brings, relative to its folder; empty: none.
        excluded: ids that the configuration leaves out; they are among neither candidates nor faults.
        grouping: how it is known which cases belong together.
    """

    root: Path
    candidates: tuple[Candidate, ...]
    labels: LabelTable | None
    channels: tuple[str, ...] | None
    faults: tuple[Fault, ...]
    splits: str = ""
    excluded: tuple[str, ...] = ()
    grouping: Grouping = NOBODY

    @property
    def test(self) -> frozenset[str]:
        """Ids of the test cases."""
        return frozenset(case.id for case in self.candidates if case.test)


def find_cases(dataset: str, root: Path, config: DatasetConfig, corrections: str = TABLE) -> Inventory:
    """Look for a data set's cases in ``root`` by its layout; no image is opened.

    Args:
        dataset, root, config: the data set.
        corrections: its table of corrected predictions, if it takes any.

    Raises:
        ConfigError: if the configuration lacks what the layout needs, ``subject`` is no usable expression, or
            ``exclude`` or ``test`` name unknown cases.
    """
    check_subject(dataset, config.subject)
    if not root.is_dir():
        fix = f"run `medseg download --dataset {dataset}` with this configuration" if config.download else ""
        return Inventory(root, (), None, None, (fault("missing", "-", "-", f"no folder {root}", fix),))
    section = config if config.layout else guess_layout(dataset, root, config)
    layout = str(section.layout)
    found = _found(dataset, root, section, corrections)
    for remark in (*found.remarks, *_with_ids(found)):
        say(f"ingest {dataset}: {remark}")
    check_test(dataset, layout, config)
    excluded = leave_out(dataset, found, config.exclude)
    check_setting(dataset, layout, found.labels, config)
    faults = [*found.faults, *_id_faults(found.candidates)]
    if found.labels is not None and found.labels.objects_have_classes:
        faults += ambiguous_ids(found.candidates)
    cases: dict[str, Candidate] = {}
    for case in sorted(found.candidates, key=lambda c: (c.id, c.images)):
        cases.setdefault(case.id, case)
    absent = {*excluded, *(f.case for f in faults)}
    subjects, grouping, wrong = _subjects(dataset, root, config, cases, found.evidence, absent, corrections)
    test, unfit = test_ids(dataset, root, config, cases, set(excluded), faults)
    listed: Mapping[str, Mapping[int, int]] | None = None
    if found.labels is not None and config.classes is not None and is_table(config.classes):
        listed, strange = listed_classes(root, config.classes, found.labels, cases.keys(), absent)
        faults += strange
    candidates = tuple(
        dataclasses.replace(
            c,
            subject=subjects[c.id],
            series=c.series or config.series or "",
            test=c.id in test,
            object_classes=None if listed is None else listed[c.id],
        )
        for c in cases.values()
    )
    # Where it is unclear who belongs together, which side a subject is on means nothing yet.
    faults += [*wrong, *unfit] if wrong or unfit else one_side(candidates)
    if not found.candidates and not faults:
        left = f" but {len(excluded)} that `exclude` names" if excluded else ""
        faults.append(fault("missing", "-", "-", f"no images in {root}{left}"))
    elif found.candidates and len(test) == len(candidates):
        fix = "leave cases to train on: name fewer in `test`"
        faults.append(fault("missing", "-", "-", f"all {len(test)} cases are in the test set", fix))
    named = tuple(config.channel_names) if config.channel_names else found.channels
    faults += _unprintable(candidates, named or ())
    return Inventory(root, candidates, found.labels, named, tuple(faults), found.splits, excluded, grouping)


def _found(dataset: str, root: Path, section: DatasetConfig, corrections: str) -> Found:
    """What the layout finds, and the corrected predictions that the data set takes besides."""
    if section.layout == "corrections":
        return corrections_layout(dataset, root, section, corrections)
    found = LAYOUTS[str(section.layout)](dataset, root, section)
    if not section.corrections:
        if (root / TABLE).is_file():
            found.remarks.append(f"{TABLE} is not used: `corrections: true` takes its cases")
        return found
    if (root / corrections).is_file() and found.labels is not None:
        named = section.model_copy(update={"labels": dict(found.labels.names)})
        more = corrections_layout(dataset, root, named, corrections)
        found.candidates += more.candidates
        found.faults += more.faults
    return found


def _subjects(
    dataset: str,
    root: Path,
    config: DatasetConfig,
    cases: Mapping[str, Candidate],
    evidence: str,
    absent: Set[str],
    corrections: str,
) -> tuple[dict[str, str], Grouping, list[Fault]]:
    """As ``declared_subjects``; corrected predictions have theirs in their own table, whatever ``subject`` says."""
    added = {case: one.subject for case, one in cases.items() if one.source is not None}
    others = {case: one for case, one in cases.items() if case not in added}
    known = absent | added.keys()
    subjects, grouping, wrong = declared_subjects(dataset, root, config.subject, others, evidence, known)
    return subjects | added, grouping if others or not added else Grouping("file", corrections), wrong


def _with_ids(found: Found) -> list[str]:
    """Give the cases ids that are made from their names, and say so where these are no ids."""
    renamed = {case.id: case_id(case.id) for case in found.candidates if case_id(case.id) != case.id}
    found.candidates = [dataclasses.replace(case, id=case_id(case.id)) for case in found.candidates]
    found.faults = [dataclasses.replace(f, case=_shown_id(f.case)) for f in found.faults]
    if not renamed:
        return []
    shown = "; ".join(f"'{name}' is {case}" for name, case in list(renamed.items())[:NAMES_SHOWN])
    more = f"; {len(renamed) - NAMES_SHOWN} more" if len(renamed) > NAMES_SHOWN else ""
    return [f"{len(renamed)} ids are made from names that cannot be ids: {shown}{more} (manifest.tsv has id and file)"]


def _shown_id(case: str) -> str:
    """What a fault calls a case: its id; a dash, or a name that was escaped because it cannot be printed, stays."""
    return case if case == "-" or (case[:1] in "'\"" and "\\" in case) else case_id(case)


def _unprintable(candidates: Sequence[Candidate], channels: Sequence[str]) -> list[Fault]:
    """Names with characters that cannot be printed: of files, of what cases belong to, and of channels.

    All of them get into messages, tables and logs. Ids, which files often have their names from, and classes have rules
    of their own.
    """
    faults = []
    for case in filter(lambda one: is_printable(one.id), candidates):
        where = case.images[0]
        for code, noun, names in (
            ("unsafe-path", "path", (*case.images, *case.labels)),
            ("subject", "subject", (case.subject,)),
            ("table", "site", (case.site,)),
            ("table", "series", (case.series,)),
        ):
            faults += [fault(code, case.id, where, *_rename(noun, name)) for name in names if not is_printable(name)]
    return faults + [fault("channels", "-", "-", *_rename("channel", n)) for n in channels if not is_printable(n)]


def _rename(noun: str, name: str) -> tuple[str, str]:
    return f"{noun} '{escaped(name)}' has a character that cannot be printed", "rename it"


def _id_faults(candidates: list[Candidate]) -> list[Fault]:
    """Ids that are unsafe, or that another case has too (on some file systems 'A' and 'a' are one)."""
    faults = []
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for case in candidates:
        groups[same_name(case.id)].append(case)
        if not SAFE_NAME.fullmatch(case.id):
            cause = "an id that cannot be printed, or is a path"
            faults.append(fault("unsafe-id", case.id, case.images[0], cause))
    for group in groups.values():
        for other in group[1:]:
            cause = f"the same id as {group[0].images[0]}"
            fix = FIX_TWINS if stem_of(Path(other.images[0])) != other.id else ""
            faults.append(fault("duplicate-id", other.id, other.images[0], cause, fix))
    return faults
