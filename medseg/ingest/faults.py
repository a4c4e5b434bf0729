"""What can be wrong with a data set: one table of codes, how to fix each, and whether it can be allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        fix: what the user can do about it, unless the place that finds it knows better.
        ids: the entries of the catalogue in ``docs/faults.md`` that this code answers.
        allowed: what happens to the case if the configuration allows the fault by name; None: it cannot be.
    """

    fix: str
    ids: tuple[str, ...] = ()
    allowed: str | None = None

    @property
    def duty(self) -> str:
        """``REFUSE``, or ``FLAG`` for what is refused unless the configuration allows it by name."""
        return "FLAG" if self.allowed else "REFUSE"


# Most case ids in a line of advice, which is repeated in each fault.
IDS_IN_ADVICE = 12

FAULTS: dict[str, Kind] = {
    # How files are found and paired
    "missing": Kind("check `data_root` and `path`"),
    "dataset-json": Kind("correct dataset.json"),
    "table": Kind("correct the table of cases"),
    "unlisted": Kind("list the case in dataset.json, or leave it out: `exclude: [ID]`", (), "left out"),
    "image-without-label": Kind("add its label, or leave the case out: `exclude: [ID]`", (), "left out"),
    "label-without-image": Kind("add its image, or leave the case out: `exclude: [ID]`", (), "left out"),
    "duplicate-id": Kind("rename or remove one of them", ("LB-12", "CF-08")),
    "unsafe-id": Kind(
        "rename it; ids are made from names, but from none that cannot be printed, is a path, or has another use",
        ("CF-06", "CF-08"),
    ),
    "unsafe-path": Kind("keep all files inside the data set's folder", ("CF-05", "CF-09")),
    "subject": Kind(
        "correct `subject`: an expression, FILE.csv with columns case,subject, or the word case", ("LB-11",)
    ),
    "splits": Kind("correct the file of folds", ("LB-14",)),
    # What a file holds
    "unreadable": Kind(
        "copy or export the file again",
        (
            *(f"IN-{n:02d}" for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 18, 22)),
            "LB-05",
            *(f"DX-{n:02d}" for n in (8, 9, 11, 12, 13)),
        ),
    ),
    "slice-gap": Kind("export the whole series again", ("DX-01",)),
    "slice-twice": Kind("keep one of the slices", ("DX-02",)),
    "slice-mixed": Kind("keep only the slices of one stack in the folder", ("DX-04", "DX-08")),
    "slice-position": Kind("export the series again, with its geometry", ("DX-05",)),
    "series": Kind("name one by `series`: its UID or number", ("DX-06",)),
    "decoder": Kind("decompress the series", ("DX-09",)),
    "gantry-tilt": Kind("resample to a grid with right angles", ("DX-07",), "kept: the tilted grid is used as it is"),
    "too-large": Kind("split the image, or raise `max_gb` of the data set", ("IN-07",)),
    "orientation": Kind("correct the header, or name the form that counts: `orientation: sform`", ("IN-19", "IN-20")),
    "no-orientation": Kind("set sform or qform", ("IN-21",), "kept: axes are taken as RAS"),
    "tiff-pages": Kind(
        "say what the pages are: `axes: CYX` (channels) or `axes: ZYX` (slices) of the data set; or in the files: save "
        "them as OME-TIFF or in ImageJ, or by "
        "tifffile.imwrite(path, array, photometric='minisblack', metadata={'axes': 'ZYX'})",
        ("DX-11",),
        "kept: pages are taken as slices",
    ),
    "shear": Kind("resample to a grid with right angles", ("IN-23",), "kept: the sheared grid is used as it is"),
    "nonfinite": Kind(
        "replace NaN, Inf and what 32-bit floats do not hold by real numbers",
        ("IN-15",),
        "kept: filled with the number in `fill`",
    ),
    "constant-image": Kind("export the image again, or leave the case out: `exclude: [ID]`", ("IN-16",), "kept"),
    "label-not-integer": Kind("store labels as integers; never resample them linearly", ("LB-02", "LB-03", "LB-04")),
    "label-values": Kind("correct the label file or the table of labels", ("LB-01",)),
    "segment-names": Kind(
        "call the classes in `labels` as the file calls its segments",
        ("LB-17",),
        "kept: the segments' numbers count, whatever they are called",
    ),
    "label-overlap": Kind(
        "let no voxel be in the files, or contours, of two classes",
        ("LB-18",),
        "kept: the class of the lower value has these voxels",
    ),
    "object-class": Kind(
        "give every object one of the classes in `labels`, in its class map or in the table (case,object,class)",
        ("LB-16",),
    ),
    "not-objects": Kind(
        "number the objects one by one, or take the map as one of classes: `instances: false` and "
        "`labels: {NAME: VALUE}`",
        ("LB-19",),
        "kept: each number is one object",
    ),
    "empty-label": Kind("correct the label or allow it by name", ("LB-08",), "kept"),
    "unchanged-prediction": Kind(
        "correct it, or leave it out: a network that is trained on it learns its own errors",
        ("LB-20",),
        "kept: the model's own prediction is the reference",
    ),
    # Contradictions between the files of a case, or the cases of a data set
    "shape-mismatch": Kind("export image and label on one grid", ("LB-06",)),
    "affine-mismatch": Kind("export image and label on one grid", ("LB-07",)),
    "channel-grid": Kind("give all channels of a case one field of view", ("LB-13",)),
    "channels": Kind(
        "give every case the same channels, or choose them: `channels: {NAME: NUMBER}`", ("IN-13", "LB-13", "DX-11")
    ),
    "channel-order": Kind("put its channels into the order of the others", ("LB-13",), "kept"),
    "unit": Kind(
        "give all images a size: `spacing: [...]` (and `unit: mm`) for those that state none; or count pixels: "
        "`sizes: pixels`",
        ("IN-25",),
    ),
    "voxel-size": Kind(
        "correct the size in the file, or leave the case out: `exclude: [ID]`",
        ("IN-26",),
        "kept: its size is used as it is",
    ),
    "dims-mismatch": Kind("keep pictures, single slices and volumes in separate data sets", ("IN-14",)),
    "identical-images": Kind(
        "leave the copy out: `exclude: [ID]`", ("LB-12",), "kept: one subject is never on both sides"
    ),
    "leakage": Kind("leave one out, `exclude: [ID]`; or give both one subject: `subject: FILE.csv`", ("LB-12",)),
    "same-origin": Kind(
        "give each group one subject: `medseg ingest --config C --dataset D --propose-subjects FILE.csv` writes a file "
        "that says so, `subject: FILE.csv` uses it; or trust what was noticed: `subject: same-origin`",
        ("LB-15",),
        "kept: they count as the subjects they have",
    ),
    "class-absent": Kind("add cases, use fewer folds or another seed", ("LB-09",), "kept: not defined there"),
    "lost-class": Kind("plan a finer `spacing`", ("LB-10",), "kept without that class"),
}


def fault(code: str, case: str, file: str, cause: str, fix: str = "") -> Fault:
    """A fault of a known kind, on one line whatever the names contain."""
    return Fault(code, one_line(case), one_line(file), one_line(cause), fix or FAULTS[code].fix)


def exclude_these(case_ids: Sequence[str]) -> str:
    """The line of the configuration that leaves cases out; of many, where their ids are listed."""
    if len(case_ids) > IDS_IN_ADVICE:
        return f"`exclude: [...]` with the {len(case_ids)} cases named here"
    return f"`exclude: [{', '.join(one_line(case) for case in case_ids)}]`"


def check_allowed(dataset: str, allow: Sequence[str], fill: float | None = None) -> None:
    """Raise ``ConfigError`` unless every code can be allowed; ``nonfinite`` needs a number to ``fill`` with."""
    allowable = [code for code, kind in FAULTS.items() if kind.allowed]
    for code in allow:
        if code in allowable:
            continue
        near = difflib.get_close_matches(code, allowable, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near and code not in FAULTS else f"can be: {', '.join(allowable)}"
        raise ConfigError(f"datasets.{dataset}.allow: '{code}' cannot be allowed; {hint}")
    if ("nonfinite" in allow) != (fill is not None):
        raise ConfigError(f"datasets.{dataset}: `allow: [nonfinite]` and `fill: NUMBER` go together; give both or none")


def one_line(text: str) -> str:
    """The text, with escapes unless printable: file names can hold line breaks and terminal codes."""
    return text if text.isprintable() else ascii(text)
