"""What can be wrong with a data set: one table of codes, how to mend each, and whether it can be allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        mend: what the user can do about it, unless the place that finds it knows better.
        allowed: what happens to the case if the configuration allows the fault by name; None: it cannot be.
    """

    mend: str
    allowed: str | None = None


FAULTS: dict[str, Kind] = {
    "missing": Kind("check `data_root` and `path`"),
    "dataset-json": Kind("correct dataset.json"),
    "unlisted": Kind("list the case in dataset.json or remove its files", "left out"),
    "image-without-label": Kind("add its label or remove the image", "left out"),
    "label-without-image": Kind("add its image or remove the label", "left out"),
    "duplicate-id": Kind("rename or remove one of them"),
    "unsafe-id": Kind("rename to 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"),
    "unsafe-path": Kind("keep all files inside the data set's folder"),
    "subject": Kind("correct `subject` or the case id"),
    "unreadable": Kind("copy or export the file again"),
    "orientation": Kind("correct the header", "kept: sform is used, or axes are taken as RAS"),
    "dims-mismatch": Kind("keep 2-D and 3-D cases in separate data sets"),
    "channels": Kind("give every case the same channels"),
    "shape-mismatch": Kind("export image and label on one grid"),
    "affine-mismatch": Kind("export image and label on one grid"),
    "nonfinite": Kind("replace NaN and Inf by real numbers"),
    "label-not-integer": Kind("store labels as integers; never resample them linearly"),
    "label-values": Kind("correct the label file or the table of labels"),
    "empty-label": Kind("correct the label or allow it by name", "kept"),
    "identical-images": Kind("remove one of the cases", "kept"),
}


def fault(code: str, case: str, file: str, cause: str, mend: str = "") -> Fault:
    """A fault of a known kind, told on one line whatever the names contain."""
    return Fault(code, _one_line(case), _one_line(file), _one_line(cause), mend or FAULTS[code].mend)


def check_allowed(dataset: str, allow: Sequence[str]) -> None:
    """Raise ``ConfigError`` unless every code can be allowed."""
    allowable = [code for code, kind in FAULTS.items() if kind.allowed]
    for code in allow:
        if code in allowable:
            continue
        near = difflib.get_close_matches(code, allowable, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near and code not in FAULTS else f"can be: {', '.join(allowable)}"
        raise ConfigError(f"datasets.{dataset}.allow: '{code}' cannot be allowed; {hint}")


def _one_line(text: str) -> str:
    """The text, with escapes unless printable: file names can hold line breaks and terminal codes."""
    return text if text.isprintable() else ascii(text)
