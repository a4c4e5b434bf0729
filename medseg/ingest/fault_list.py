"""Faults of a data set for reading in a terminal: by kind, with what to do about it once, long lists cut short."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from medseg.errors import DatasetFaults, Fault
from medseg.files import write_text
from medseg.ingest.faults import FAULTS

# From how many faults of one kind on a list is cut, and how many of them are shown then.
CUT_FROM, SHOWN = 10, 3


def fault_list(error: DatasetFaults) -> str:
    """All faults, one per line under their kind; with the configuration's line that allows a kind, if there is one.

    Of ``CUT_FROM`` and more that one thing would fix, ``SHOWN`` are listed, unless ``error.everything`` is set; how to
    get all of them is said at the end.
    """
    lines = [str(error).partition("\n")[0]]
    cut = 0
    for (code, fix), same in _groups(error):
        allowed = FAULTS[code].allowed
        choice = f"; or `allow: [{code}]` ({allowed})" if allowed else ""
        lines += ["", f"{code} ({len(same)}): {fix}{choice}"]
        shown = same if error.everything or len(same) < CUT_FROM else same[:SHOWN]
        lines += _lines(shown)
        if left := len(same) - len(shown):
            lines.append(f"  … and {left} more")
            cut += left
    if cut:
        where = f"; all are in {error.file}" if error.file else ""
        lines += ["", f"{cut} of {len(error.faults)} are not shown: `medseg ingest --all` shows them{where}"]
    return "\n".join(lines)


def write_list(error: DatasetFaults, file: Path) -> None:
    """Write every fault to a file, if their list is long enough to be cut in a terminal, and note where it is."""
    if any(len(same) >= CUT_FROM for _, same in _groups(error)):
        everything = DatasetFaults(error.dataset, error.root, error.faults)
        everything.everything = True
        write_text(file, fault_list(everything) + "\n")
        error.file = file


def _groups(error: DatasetFaults) -> list[tuple[tuple[str, str], list[Fault]]]:
    """The faults of one kind that one thing would fix, sorted."""
    faults = sorted(error.faults, key=lambda f: (f.code, f.fix, f))
    return [(key, list(same)) for key, same in groupby(faults, key=lambda f: (f.code, f.fix))]


def _lines(faults: Sequence[Fault]) -> list[str]:
    """A line per fault; what concerns no case or no file has a dash there."""
    return ["  " + " · ".join(part for part in (f.case, f.file, f.cause) if part != "-") for f in faults]
