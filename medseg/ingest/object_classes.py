"""Which class each object has, where label files number objects of several classes: settled here, once, for all stages.

It stands in a table of the user's own (case, object, class), or in class maps on the grids of the label files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import DatasetConfig, is_table, wrong_classes
from medseg.errors import ConfigError, DataError, Fault
from medseg.image.labels import LabelTable
from medseg.image.object_classes import majority
from medseg.ingest.checked import Checked
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.subjects import read_case_table

CODE = "object-class"
# Objects and lines that are named in one fault; there can be thousands.
SHOWN = 5
# What is noted where a class map does not agree with itself.
MIXED = "objects with voxels of several classes in the class map: the class of most of them counts"
# Ends of names that predictions use for a file beside a label map.
CLASS_MAP = ".classes"
# Layouts that may have a folder of class maps.
WITH_FOLDER = ("pairs", "patterns")


def check_setting(dataset: str, layout: str, labels: LabelTable | None, section: DatasetConfig) -> None:
    """Raise ``ConfigError`` unless it is known where the class of each object stands, and only where there are several.

    Args:
        dataset: name, for error messages.
        layout: of the data set.
        labels: what label values mean; None if that could not be found out.
        section: the data set's configuration.
    """
    if labels is None or not labels.instances:
        return
    if layout == "dsb2018" and len(labels.names) > 1:
        raise ConfigError(
            f"datasets.{dataset}.labels: {', '.join(labels.class_names)}; a mask per object (dsb2018) says nothing of "
            "classes, so leave one name; or write one label map of object numbers per case (layout pairs) and "
            "`instances: true`, `classes: FILE.csv`"
        )
    if cause := wrong_classes(labels.class_names, section.classes):
        raise ConfigError(f"datasets.{dataset}.{cause}")
    if section.classes is not None and layout not in WITH_FOLDER and not is_table(section.classes):
        raise ConfigError(
            f"datasets.{dataset}.classes: '{section.classes}' would be a folder beside images and masks, which only "
            f"the layouts {' and '.join(WITH_FOLDER)} have, this is {layout}; give a table, `classes: FILE.csv` "
            "(columns case,object,class)"
        )


@dataclass(slots=True)
class _Rows:
    """The lines of one case in a table of classes.

    Attributes:
        classes: object number -> class value; 0 where its line names none.
        strange: lines that say nothing usable, in words.
    """

    classes: dict[int, int] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)


def listed_classes(
    root: Path, name: str, labels: LabelTable, cases: Collection[str], absent: Set[str]
) -> tuple[Mapping[str, Mapping[int, int]] | None, list[Fault]]:
    """Classes of objects by a table with columns case, object and class (a name or a value of ``labels``).

    Args:
        root, name: folder of the data set, and the table's name there or in the working folder.
        labels: the classes.
        cases: ids of all cases.
        absent: ids that it may name besides: cases that are left out, or have faults of their own.

    Returns:
        Case id -> object number -> class value (0 where its line names none), for every case; None if the table could
        not be read. And everything wrong with it, a fault per case.
    """
    try:
        rows = read_case_table(root, name, "object", "class")
    except DataError as error:
        fix = "write a table with columns case,object,class into the data set's folder or the working folder"
        return None, [fault(CODE, "-", name, str(error), fix)]
    values = {**{str(value): value for value in labels.values}, **dict(labels.names)}
    found: dict[str, _Rows] = defaultdict(_Rows)
    for line, row in enumerate(rows, start=2):
        mine = found[row["case"]]
        number = int(row["object"]) if row["object"].isdecimal() and len(row["object"]) < 19 else 0
        if number == 0:
            mine.strange.append(f"line {line}: object '{row['object']}', expected its number in the label file")
        elif row["class"] not in values:
            mine.strange.append(f"line {line}: class '{row['class']}' of object {number}, expected {_names(labels)}")
            # So that it is not reported as lacking a line, too.
            mine.classes[number] = 0
        elif number in mine.classes:
            mine.strange.append(f"line {line}: object {number} is there twice")
        else:
            mine.classes[number] = values[row["class"]]
    faults = []
    for case, mine in sorted(found.items()):
        if case not in cases and case not in absent:
            cause = f"{len(mine.classes) + len(mine.strange)} lines of a case that is not in the data set"
            faults.append(fault(CODE, case or "-", name, cause, "correct the id or remove the lines"))
        elif case in cases and mine.strange:
            faults.append(fault(CODE, case, name, _some(mine.strange), "correct the table"))
    return {case: found[case].classes for case in cases}, faults


def classes_of_map(
    numbers: NDArray[Any], classes: NDArray[Any], labels: LabelTable
) -> tuple[dict[int, int], Sequence[int]]:
    """The class that most voxels of each object have in a class map, background and "not annotated" not counted.

    Args:
        numbers: (S) object numbers.
        classes: (S) class values, on the same grid.
        labels: what both mean.

    Returns:
        Object number -> class value: the lower of equally frequent ones, none for an object without any voxel of a
        class; and the objects that have voxels of several classes.
    """
    inside = labels.foreground(numbers)
    said = classes[inside]
    channels = np.zeros(said.shape, dtype=np.int64)
    for channel, value in enumerate(labels.values, start=1):
        channels[said == value] = channel
    best, mixed = majority(numbers[inside], channels, len(labels.values))
    return {number: labels.values[channel - 1] for number, channel in best.items() if channel}, mixed


def settle(
    out: Checked,
    numbers: NDArray[Any],
    objects: Mapping[int, int],
    labels: LabelTable,
    class_map: NDArray[Any] | None,
    source: str,
) -> bool:
    """Note the class of each object of a case, and what is wrong with it.

    Args:
        out: what is known of the case; a table's classes are among it.
        numbers: (S) object numbers.
        objects: object number -> voxels.
        labels: what they mean.
        class_map: (S) class values; None: there is no class map, or it could not be read.
        source: name of the class map or of the table.

    Returns:
        Whether all objects have a class; also where there is but one class.
    """
    if not labels.objects_have_classes:
        return True
    classes = out.candidate.object_classes
    if class_map is not None and class_map.shape == numbers.shape:
        classes, mixed = classes_of_map(numbers, class_map, labels)
        out.remarks += [MIXED] if mixed else []
    if classes is None:
        # A fault of its own: of the class map, or of the table.
        return False
    for cause in _unclassed(objects, classes, source):
        out.add(CODE, source, cause)
    out.object_classes = {number: classes[number] for number in sorted(objects) if classes.get(number)}
    return len(out.object_classes) == len(objects)


def _unclassed(objects: Mapping[int, int], classes: Mapping[int, int], source: str) -> list[str]:
    """What is wrong with the classes of a case's objects, one cause each; arguments as for ``settle``."""
    causes = []
    lacking = [number for number in objects if number not in classes]
    if lacking and is_table(source):
        causes.append(f"no line for {len(lacking)} of {len(objects)} objects: {_some(list(map(str, lacking)))}")
    elif lacking:
        shown = [f"object {number} of {objects[number]} voxels" for number in lacking]
        causes.append(f"no voxel of a class in {len(lacking)} of {len(objects)} objects: {_some(shown)}")
    unknown = [str(number) for number in sorted(classes) if number not in objects]
    if unknown:
        causes.append(f"lines of {len(unknown)} objects that the label file does not have: {_some(unknown)}")
    return causes


def ambiguous_ids(cases: Sequence[Candidate]) -> list[Fault]:
    """The fault ``unsafe-id`` for cases whose label map would be the class map of another one."""
    ids = {case.id for case in cases}
    return [
        fault("unsafe-id", case.id, case.images[0], f"predictions of case {other} use this id for its class map")
        for case in cases
        if (other := case.id.removesuffix(CLASS_MAP)) != case.id and other in ids
    ]


def voxels_by_class(counts: Mapping[int, int], classes: Mapping[int, int], labels: LabelTable) -> dict[int, int]:
    """Class value -> voxels, from object number -> voxels; ``classes`` is not asked where there is but one class."""
    total: Counter[int] = Counter()
    for number, voxels in counts.items():
        total[classes[number] if labels.objects_have_classes else labels.values[0]] += voxels
    return dict(sorted(total.items()))


def _names(labels: LabelTable) -> str:
    return " or ".join(f"{name} ({value})" for name, value in labels.names)


def _some(texts: Sequence[str]) -> str:
    """A few of them, and how many there are besides."""
    more = f", and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more if any(" " in text for text in texts) else ", ".join(texts[:SHOWN]) + more
