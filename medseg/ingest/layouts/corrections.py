"""Layout ``corrections``: the cases that `medseg ingest --add` put into the data set's folder, with their sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from medseg.config import DatasetConfig
from medseg.ingest.faults import fault
from medseg.ingest.label_source import COLUMNS, CORRECTED, source_of_row
from medseg.ingest.layouts.found import CORRECTIONS, Found
from medseg.ingest.layouts.table import table_layout
from medseg.ingest.tables import read_table

TABLE = f"{CORRECTIONS}/cases.csv"


def corrections_layout(dataset: str, root: Path, config: DatasetConfig, table: str = TABLE) -> Found:
    """Take one case per row of ``table``, as the table layout does; what predicted it stands in further columns."""
    section = config.model_copy(update={"layout": "table", "table": table, "test": None})
    found = table_layout(dataset, root, section)
    if any(f.code == "table" for f in found.faults):
        fix = "`medseg ingest --add` writes this table; put it back as it was, or take its lines out"
        found.faults = [dataclasses.replace(f, fix=fix) if f.code == "table" else f for f in found.faults]
        return found
    header, rows = read_table(root / table)
    if lacking := [column for column in ("subject", *COLUMNS) if column not in header]:
        found.faults.append(fault("table", "-", table, f"no column {lacking[0]!r}, which `medseg ingest --add` writes"))
        return found
    sources = {row["case"]: source_of_row(row) for row in rows}
    for case, source in sources.items():
        if source.kind != CORRECTED or not all((source.annotator, source.model, source.predicted)):
            cause = "its source is incomplete: label_source is 'corrected', annotator, model and predicted say the rest"
            found.faults.append(fault("table", case, table, cause))
    found.candidates = [dataclasses.replace(one, source=sources[one.id]) for one in found.candidates]
    found.splits = ""
    return found
