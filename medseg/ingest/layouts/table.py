"""Layout ``table``: a TSV or CSV file of the user's own with a row per case."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, DataError
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, files_there, required_table, usable
from medseg.ingest.tables import COLUMNS, read_table

# What others call our columns: overlooking one of these would be worse than refusing it.
SYNONYMS = {
    **dict.fromkeys(("id", "case_id", "caseid", "name"), "case"),
    **dict.fromkeys(("patient", "patient_id", "patientid", "subject_id", "participant", "participant_id"), "subject"),
    **dict.fromkeys(("mask", "segmentation", "seg", "annotation"), "label"),
    **dict.fromkeys(("center", "centre", "hospital", "institution"), "site"),
}


def table_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Take one case per row; ``docs/data.md`` describes the columns.

    Raises:
        ConfigError: if the configuration names no table or no classes.
    """
    if not config.table:
        example = "table: cases.tsv"
        raise ConfigError(
            f"datasets.{dataset}.table: missing; the table layout needs the file of cases, e.g. {example}"
        )
    found = Found(labels=required_table(dataset, config))
    name = config.table
    try:
        header, rows = read_table(root / name)
    except DataError as error:
        found.faults.append(fault("table", "-", name, str(error).removeprefix(f"{root / name}: ")))
        return found
    images = image_columns(header, config.channel_names or ())
    column, value = (config.test.column, config.test.value) if config.test else (None, "")
    causes = _header_faults(header, images, config.channel_names or [], column)
    found.faults += [fault("table", "-", name, cause) for cause in causes]
    if causes:
        return found
    if len(images) > 1:
        found.channels = tuple(column.removeprefix("image_") for column in images)
    listed = []
    for number, row in enumerate(rows, start=2):
        wrong = row_faults(row, images)
        where = f"line {number}: "
        found.faults += [fault("table", row.get("case", "") or "-", name, where + cause) for cause in wrong]
        if not wrong:
            listed.append(_candidate(row, images, column is not None and row[column] == value))
    found.candidates, faults = files_there(root, listed)
    found.faults += faults
    kept_apart = {case.id for case in found.candidates if case.test}
    if any(row.get("fold", "") for row in rows if row["case"] not in kept_apart):
        found.splits = name
    if "subject" in header:
        found.evidence = f"the column subject of {name}"
    if column is not None and not any(row[column] == value for row in rows):
        cause = f"no row has '{value}' in the column {column}, which `test` names"
        found.faults.append(fault("table", "-", name, cause, "correct `test` or the table"))
    return found


def image_columns(header: Sequence[str], channels: Sequence[str]) -> list[str]:
    """The columns of a table that name images: those called like the channels, else ``image`` or ``image_…``."""
    own = [channel for channel in channels if channel in header]
    return own or [column for column in header if column == "image" or re.fullmatch(r"image_.+", column)]


def _header_faults(header: list[str], images: list[str], channels: list[str], test: str | None) -> list[str]:
    """What is wrong with the names of the columns, misspelt ones included; others are the user's own."""
    causes = [f"two columns '{name}'" for name in sorted({n for n in header if header.count(n) > 1})]
    if test is not None and test not in header:
        causes.append(f"no column '{test}', which `test` names; there are {', '.join(header)}")
    for name in header:
        if name in COLUMNS or name in images or name == test:
            continue
        plain = name.lower().strip()
        near = difflib.get_close_matches(plain, COLUMNS, n=1, cutoff=0.8) or [SYNONYMS.get(plain, "")]
        if near[0] and near[0] not in header:
            causes.append(f"unknown column '{name}'; did you mean '{near[0]}'?")
    missing = [name for name in ("case", "label") if name not in header]
    causes += [f"no column '{name}'" for name in missing if not any(f"mean '{name}'" in cause for cause in causes)]
    if not images and not any("mean 'image'" in cause for cause in causes):
        causes.append("no column 'image', nor one per channel (image_1, image_2, … or the names in `channels`)")
    elif len(images) > 1 and "image" in images:
        causes.append(f"columns {', '.join(images)}: either 'image' or one per channel")
    if channels and len(images) > 1 and len(images) != len(channels):
        causes.append(f"columns {', '.join(images)}, but the configuration names channels {', '.join(channels)}")
    return causes


def row_faults(row: Mapping[str, str], images: list[str]) -> list[str]:
    """What is wrong with the cells of one row of a table whose columns ``images`` name images."""
    causes = [f"column '{name}' is empty" for name in ("case", *images) if not row[name]]
    for name in (*images, "label"):
        if row.get(name) and not usable(row[name]):
            causes.append(f"column '{name}': {row[name][:80]!r} can be no file's name")
    if row.get("spacing") and spacing_of(row["spacing"]) is None:
        causes.append(f"column 'spacing': {row['spacing']!r}, expected micrometres per axis, e.g. '0.5 0.25 0.25'")
    if "subject" in row and not row["subject"]:
        causes.append("column 'subject' is empty")
    return causes


def spacing_of(text: str) -> tuple[float, ...] | None:
    """Numbers above 0, separated by spaces, 'x' or ';', or None."""
    try:
        numbers = tuple(float(part) for part in re.split(r"\s*[x;]\s*|\s+", text.strip()))
    except ValueError:
        return None
    return numbers if len(numbers) in (2, 3) and all(math.isfinite(n) and n > 0 for n in numbers) else None


def _candidate(row: Mapping[str, str], images: list[str], test: bool) -> Candidate:
    files = tuple(str(PurePosixPath(row[column])) for column in images)
    label = (str(PurePosixPath(row["label"])),) if row["label"] else ()
    return Candidate(
        id=row["case"],
        subject=row.get("subject", ""),
        images=files,
        labels=label,
        site=row.get("site", ""),
        series=row.get("series", ""),
        spacing=spacing_of(row["spacing"]) if row.get("spacing") else None,
        test=test,
    )
