"""The stage: find, check, split, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.config import Config, DatasetConfig, is_table
from medseg.errors import ConfigError, DatasetFaults, Fault
from medseg.files import nearest, write_text
from medseg.formats.table import FORMATS, suffix_of
from medseg.image.labels import LabelTable
from medseg.ingest.checked import Checked
from medseg.ingest.cohort import fold_faults
from medseg.ingest.every_case import check_cases, read_cases
from medseg.ingest.faults import check_allowed
from medseg.ingest.folds import FoldCase, check_run, make_folds
from medseg.ingest.layouts.corrections import TABLE
from medseg.ingest.manifest import Case, Manifest, write_manifest, write_test
from medseg.ingest.objects import object_lines
from medseg.ingest.origin.proposal import proposed_subjects
from medseg.ingest.own_folds import own_folds
from medseg.ingest.read_before import Kept
from medseg.ingest.sources import Inventory, find_cases
from medseg.ingest.splits import Fold, write_splits
from medseg.ingest.summary import summary
from medseg.outputs import writing
from medseg.progress import say
from medseg.results.folders import IngestFolder


@dataclass(frozen=True, slots=True)
class _Ingested:
    """A data set that may be used.

    Attributes:
        manifest: all cases but those of the test set.
        folds, scheme: as in ``write_splits``.
        test: cases of the test set.
        allowed: faults of those that were allowed by name.
    """

    manifest: Manifest
    folds: list[Fold]
    scheme: str
    test: tuple[Case, ...]
    allowed: tuple[str, ...]


# Raises ``ConfigError`` if what the configuration says of classes, for later stages, does not fit the label table.
LabelCheck = Callable[[LabelTable], object]


def run(
    config: Config, dataset: str, out: Path, workers: int = 1, label_check: LabelCheck | None = None, code: str = ""
) -> Manifest:
    """Check a data set and write ``dataset.json``, ``manifest.tsv``, ``splits.json`` and the test set into ``out``.

    Cases of the test set are checked like all others, and are written to ``test.tsv`` and ``test.json`` alone.

    Args:
        config: the experiment.
        dataset: name of one of its data sets.
        out: folder of this stage's results.
        workers: threads that read cases.
        label_check: asked as soon as the label table is known, before a case is read.
        code: digest of the code that reads a case; with it, cases are not read again whose files are as they were when
            an earlier ingest into ``out`` read them. Empty: all are read.

    Raises:
        DatasetFaults: with every fault that is not allowed by name; then nothing is written.
        ConfigError: if the configuration does not fit the layout or the labels, or there are fewer subjects than folds.
    """
    with writing(IngestFolder(out).splits, out):
        kept = Kept(IngestFolder(out).read, code) if code else None
        ingested = _ingest(config, dataset, workers, label_check, kept)
        test = config.dataset(dataset).test
        write_test(ingested.test, ingested.allowed, test.declaration if test else None, out)
        write_manifest(ingested.manifest, out)
        write_splits(IngestFolder(out).splits, ingested.folds, config.folds.seed, ingested.scheme)
    return ingested.manifest


def check(
    config: Config, dataset: str, workers: int = 1, label_check: LabelCheck | None = None, corrections: str = TABLE
) -> Manifest:
    """All that ``run`` does, except writing, and every file is read; same errors.

    ``corrections``: the table of corrected predictions, if it is another.
    """
    return _ingest(config, dataset, workers, label_check, corrections=corrections).manifest


def propose_subjects(config: Config, dataset: str, file: Path, workers: int = 1) -> list[str]:
    """Write a table of subjects (case,subject) that joins cases of one origin; faults of the data set do not matter.

    Args:
        config, dataset, workers: as for ``run``.
        file: the table to write; ``subject: FILE`` in the configuration uses it.

    Returns:
        Lines that say what was found and what can be done with the table.

    Raises:
        ConfigError: if the configuration does not fit the layout, or ``file`` has no suffix that ``subject`` takes.
        DatasetFaults: if there are no cases.
    """
    if not is_table(str(file)):
        raise ConfigError(f"--propose-subjects {file}: `subject` takes files that end in .csv or .tsv; name one")
    section = config.dataset(dataset)
    inventory = find_cases(dataset, config.folder_of(dataset), section)
    if not inventory.candidates:
        raise DatasetFaults(dataset, inventory.root, inventory.faults)
    checked = read_cases(dataset, inventory, section, workers)
    table, lines = proposed_subjects(checked)
    write_text(file, table)
    unread = sum(one.sketch is None for one in checked)
    if unread:
        lines.append(f"{unread} images could not be read or are constant: of these, only the names were compared")
    lines += [f"not settled by the table: {f}" for f in inventory.faults if f.code == "subject"]
    return [*lines, f"wrote {file}; `subject: {file}` under `datasets.{dataset}` uses it"]


def _ingest(
    config: Config,
    dataset: str,
    workers: int,
    label_check: LabelCheck | None,
    kept: Kept | None = None,
    corrections: str = TABLE,
) -> _Ingested:
    section = config.dataset(dataset)
    check_allowed(dataset, section.allow, section.fill)
    inventory = find_cases(dataset, config.folder_of(dataset), section, corrections)
    _check_spacing(dataset, section, inventory)
    if label_check is not None and inventory.labels is not None:
        label_check(inventory.labels)
    checked, channels, faults = check_cases(dataset, inventory, section, workers, kept)
    inside = [one for one in checked if not one.candidate.test]
    folds, missing = _folds(config, dataset, inventory, inside)
    faults += missing
    errors = [f for f in faults if f.code not in section.allow]
    if not checked and not errors:
        errors = faults
    if errors:
        raise DatasetFaults(dataset, inventory.root, errors)
    if isinstance(folds, ConfigError):
        raise folds
    cases = tuple(one.case() for one in inside)
    labels: LabelTable = inventory.labels  # type: ignore[assignment]  # None only beside a fault
    reported = sorted([*faults, *(f for one in checked for f in one.settled)])
    kept_apart = inventory.test
    allowed_inside = tuple(str(f) for f in reported if f.case not in kept_apart)
    manifest = Manifest(
        dataset,
        cases[0].geometry.dims,
        channels,
        labels,
        cases,
        allowed_inside,
        inventory.excluded,
        inventory.grouping,
        replace(section.reading, names=channels),
        tuple(section.allow),
    )
    test = tuple(one.case() for one in checked if one.candidate.test)
    allowed_of_test = tuple(str(f) for f in reported if f.case in kept_apart)
    for line in summary(manifest, folds, test, allowed_of_test, object_lines(inside)):
        say(f"ingest {dataset}: {line}")
    own = _splits_file(config, dataset, inventory) is not None
    return _Ingested(manifest, folds, "file" if own else config.folds.scheme, test, allowed_of_test)


def _folds(
    config: Config, dataset: str, inventory: Inventory, checked: list[Checked]
) -> tuple[list[Fold] | ConfigError, list[Fault]]:
    """The folds, or why there can be none (faults of files come first), and what is wrong or missing in them."""
    if not config.folds.validated:
        return [], fold_faults(checked, inventory.labels, []) if inventory.labels is not None and checked else []
    try:
        own = _splits_file(config, dataset, inventory)
        if own is not None:
            faulty = {f.case for f in inventory.faults if f.code not in config.dataset(dataset).allow}
            subject_of = {one.candidate.id: one.candidate.subject for one in checked}
            folds, faults = own_folds(*own, subject_of, faulty, set(inventory.excluded), inventory.test)
            if faults:
                return [], faults
            check_run(config.folds, len(folds))
        else:
            ignore = inventory.labels.ignore if inventory.labels is not None else None
            folds = make_folds([_member(one, ignore) for one in checked], config.folds)
    except ConfigError as error:
        return error, []
    return folds, fold_faults(checked, inventory.labels, folds) if inventory.labels is not None and checked else []


def _member(one: Checked, ignore: int | None) -> FoldCase:
    """What folds need to know of a case."""
    shown = frozenset(v for v, voxels in (one.label_counts or {}).items() if voxels and v not in (0, ignore))
    return FoldCase(one.candidate.id, one.candidate.subject, one.candidate.site, shown)


def _splits_file(config: Config, dataset: str, inventory: Inventory) -> tuple[Path, str] | None:
    """The user's own file of folds and what to call it, or None; the data set's own comes before that of all."""
    name = config.dataset(dataset).splits or config.folds.file or inventory.splits
    if not name:
        return None
    return nearest(inventory.root, name), name


def _check_spacing(dataset: str, section: DatasetConfig, inventory: Inventory) -> None:
    """`spacing` has one number per axis of the formats that it serves."""
    used = {suffix_of(Path(file)) for c in inventory.candidates for file in c.images}
    for suffix in sorted(used & FORMATS.keys()):
        dims = FORMATS[suffix].dims
        if section.spacing is not None and len(section.spacing) not in dims:
            found = len(section.spacing)
            axes = " or ".join(str(n) for n in dims)
            raise ConfigError(f"datasets.{dataset}.spacing: {found} numbers, {suffix} files have {axes} axes")
