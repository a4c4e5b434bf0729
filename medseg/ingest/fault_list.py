"""Faults of a data set for reading in a terminal: by kind, with what to do about it once."""

from __future__ import annotations

from itertools import groupby

from medseg.errors import DatasetFaults
from medseg.ingest.faults import FAULTS


def fault_list(error: DatasetFaults) -> str:
    """All faults, one per line under their kind; with the configuration's line that allows a kind, if there is one."""
    faults = sorted(error.faults, key=lambda f: (f.code, f.fix, f))
    lines = [str(error).partition("\n")[0]]
    for (code, fix), group in groupby(faults, key=lambda f: (f.code, f.fix)):
        same = list(group)
        allowed = FAULTS[code].allowed
        choice = f"; or `allow: [{code}]` ({allowed})" if allowed else ""
        lines += ["", f"{code} ({len(same)}): {fix}{choice}"]
        # What concerns no case or no file has a dash there.
        lines += ["  " + " · ".join(part for part in (f.case, f.file, f.cause) if part != "-") for f in same]
    return "\n".join(lines)
