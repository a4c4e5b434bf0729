"""Taking corrected predictions back: edited label maps become cases of a data set, with their sources."""

from __future__ import annotations

import csv
import datetime
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.config import Config, DatasetConfig, is_table
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.files import atomic_path, sha256_file, write_text, writer_lock
from medseg.ingest.edited import Edited, companions, find_edited, read_predictions
from medseg.ingest.ids import case_id
from medseg.ingest.label_source import COLUMNS, CORRECTED
from medseg.ingest.layouts.corrections import TABLE
from medseg.ingest.layouts.found import CORRECTIONS
from medseg.ingest.run import LabelCheck, check
from medseg.ingest.subjects import CASE, FOLDER, NOTICED, read_case_table, subject_rule
from medseg.ingest.tables import read_table
from medseg.results.key import ALL
from medseg.text import text_of_cell

# Of the rows that are checked before they are added.
TRIED = f"{CORRECTIONS}/.cases.csv"
FIRST = ("case", "subject", "label", "series", "spacing")


@dataclass(frozen=True, slots=True)
class Added:
    """What is taken back, and who says so.

    Attributes:
        folder: of edited label maps.
        predictions: the folder that they were predicted into; it may be the same.
        images: files and folders in which their images are.
        by: who edited them.
        subject: whose cases they are, as `subject` in a configuration; None: as the data set's says.
    """

    folder: Path
    predictions: Path
    images: Sequence[Path]
    by: str
    subject: str | None = None


def add(
    config: Config, dataset: str, added: Added, workers: int = 1, label_check: LabelCheck | None = None
) -> list[str]:
    """Copy edited label maps and their images into a data set's folder, if the data set with them has no faults.

    Args:
        config, dataset, workers, label_check: as for ``ingest.run.run``.
        added: what, and who says so.

    Returns:
        Lines that say what was added.

    Raises:
        ConfigError: if the data set takes no corrections, or nothing says whose cases these are.
        DataError: if a label map belongs to no prediction, or an image is missing, with a line for each.
        DatasetFaults: as ``ingest.run.check``; then nothing is added.
    """
    section, root = config.dataset(dataset), config.folder_of(dataset)
    _require_place(dataset, section, root)
    edited, untouched = find_edited(added.folder, read_predictions(added.predictions), added.images)
    ids = {case_id(one.prediction.name.replace("/", "_")): one for one in edited}
    subject_of = _subjects(dataset, root, section.subject if added.subject is None else added.subject)
    with writer_lock(root / CORRECTIONS):
        rows = _rows(root)
        new = {case: one for case, one in ids.items() if not _is_there(case, one, rows.get(case), root)}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        made = {case: _row(case, one, subject_of(case), added.by, today) for case, one in sorted(new.items())}
        if made:
            _put(root, new, rows | made, lambda: _check(config, dataset, workers, label_check))
    lines = [f"added {len(made)} corrected predictions to {TABLE} of data set '{dataset}': {', '.join(made) or 'none'}"]
    if len(made) < len(ids):
        lines.append(f"{len(ids) - len(made)} were there already, with the same labels")
    if untouched:
        lines.append(f"{untouched} label maps are as they were predicted, and were left out")
    return lines


def _check(config: Config, dataset: str, workers: int, label_check: LabelCheck | None) -> None:
    """Raise ``DatasetFaults`` unless the data set with the new cases is sound; whether folds can be made is for later.

    The first cases of a data set are fewer than its folds, and may not show all classes.
    """
    alone = config.model_copy(update={"folds": config.folds.model_copy(update={"run": [ALL]})})
    try:
        check(alone, dataset, workers, label_check, TRIED)
    except DatasetFaults as found:
        if faults := [one for one in found.faults if one.code != "class-absent"]:
            raise DatasetFaults(dataset, found.root, faults) from None


def _require_place(dataset: str, section: DatasetConfig, root: Path) -> None:
    if section.layout != "corrections" and not section.corrections:
        raise ConfigError(
            f"datasets.{dataset}: takes no corrections; write `corrections: true` there, or make a data set of them "
            "alone: {layout: corrections, path: NAME, labels: …}"
        )
    if section.layout != "corrections" and not root.is_dir():
        raise ConfigError(f"datasets.{dataset}.path: no folder {root}; bring the data set in first (`medseg download`)")
    if section.classes is not None:
        raise ConfigError(f"datasets.{dataset}.classes: objects of several classes are not taken back; edit the files")


def _subjects(dataset: str, root: Path, subject: str | Mapping[str, str] | None) -> Callable[[str], str]:
    """Case id -> subject; ``ConfigError`` where nothing says it: one subject on two sides would flatter all scores."""
    ways = "say it: --subject FILE.csv (columns case,subject), an expression with one group, or `case` for each its own"
    if subject is None or subject in (FOLDER, NOTICED):
        said = "nothing says" if subject is None else f"`subject: {subject}` cannot say"
        raise ConfigError(f"datasets.{dataset}: {said} whose cases the corrected predictions are; {ways}")
    if subject == CASE:
        return lambda case: case
    if isinstance(subject, Mapping):
        named, where = {case_id(case): name for case, name in subject.items()}, "`subject`"
    elif is_table(subject):
        try:
            rows = read_case_table(root, subject, "subject")
        except DataError as error:
            raise ConfigError(f"{subject}: {error}") from None
        named, where = {row["case"]: text_of_cell(row["subject"]) for row in rows}, subject
    else:
        rule, named, where = subject_rule(dataset, subject), {}, f"'{subject}'"
        return lambda case: _known(case, rule(case), where, ways)
    return lambda case: _known(case, named.get(case), where, ways)


def _known(case: str, subject: str | None, where: str, ways: str) -> str:
    if not subject:
        raise ConfigError(f"case '{case}': {where} does not say whose it is; {ways}")
    return subject


def _rows(root: Path) -> dict[str, dict[str, str]]:
    """The rows of the table of corrections by case; none if there is no table."""
    if not (root / TABLE).is_file():
        return {}
    return {row["case"]: row for row in read_table(root / TABLE)[1]}


def _is_there(case: str, one: Edited, row: Mapping[str, str] | None, root: Path) -> bool:
    """Whether a case is there with these labels.

    Raises:
        DataError: if it is there with others.
    """
    if row is None:
        return False
    old = root / row["label"]
    if old.is_file() and sha256_file(old) == sha256_file(one.labels):
        return True
    raise DataError(
        f"{one.labels}: case '{case}' was added before with other labels ({old}); to replace it, take its line out of "
        f"{root / TABLE} and run the same command again"
    )


def _row(case: str, one: Edited, subject: str, by: str, today: str) -> dict[str, str]:
    """The row of a case in the table of corrections."""
    facts = one.prediction.facts
    images = [f"{CORRECTIONS}/{case}/image/{path.name}" for path in one.images]
    columns = ["image"] if len(images) == 1 else [f"image_{channel}" for channel in facts.channels]
    source = (CORRECTED, by, facts.model, facts.fingerprint, facts.weights, today, facts.voxels)
    return {
        "case": case,
        "subject": subject,
        **dict(zip(columns, images, strict=True)),
        "label": f"{CORRECTIONS}/{case}/label/{one.labels.name}",
        "series": facts.series,
        "spacing": " ".join(f"{size:g}" for size in facts.spacing or ()),
        **dict(zip(COLUMNS, source, strict=True)),
    }


def _put(
    root: Path, new: Mapping[str, Edited], rows: Mapping[str, Mapping[str, str]], ask: Callable[[], object]
) -> None:
    """Copy the files of new cases, ask whether the data set with them is sound, and write its table; or undo it all."""
    text = _table(list(rows.values()))
    try:
        for case, one in new.items():
            folder = root / CORRECTIONS / case
            # Of an earlier try that was killed.
            shutil.rmtree(folder, ignore_errors=True)
            for image in one.images:
                _copy(image, folder / "image", one.prediction.facts.series)
            _copy(one.labels, folder / "label")
        write_text(root / TRIED, text)
        ask()
    except BaseException:
        for case in new:
            shutil.rmtree(root / CORRECTIONS / case, ignore_errors=True)
        raise
    finally:
        (root / TRIED).unlink(missing_ok=True)
    write_text(root / TABLE, text)


def _copy(path: Path, folder: Path, series: str = "") -> None:
    """Copy an image, with the files that belong to it, into a folder."""
    for file, name in companions(path, series):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(file, temporary)


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """The table of corrections as text."""
    images = list(dict.fromkeys(name for row in rows for name in row if name not in (*FIRST, *COLUMNS)))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST[:2], *images, *FIRST[2:], *COLUMNS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
