"""The manifest: one row per case, with a digest, geometry and label set for every file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.errors import DataError
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.recode import Recoding
from medseg.ingest.grouping import NOBODY, Grouping
from medseg.ingest.label_source import LabelSource
from medseg.ingest.recorded import MAKER, read_dataset, read_table, write_table
from medseg.reading import AS_STORED, Reading
from medseg.records import as_written
from medseg.results.folders import IngestFolder
from medseg.text import cell, text_of_cell

COLUMNS = (
    "case",
    "subject",
    "site",
    "series",
    "images",
    "labels",
    "images_sha256",
    "labels_sha256",
    "geometry",
    "dtype",
    "label_counts",
    "object_classes",
    "fill",
    "orientation",
    "remarks",
    "reading",
    "label_values",
    "label_source",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One case: an image of one or more channels and its reference label map.

    Attributes:
        id: case id, safe in paths and command lines.
        subject: grouping key for folds and statistics.
        images: files (or DICOM folders), one per channel or one with all, relative to the data set's folder.
        labels: label files, relative likewise: none, one label map, or one mask file per object.
        images_sha256, labels_sha256: digests of those files' bytes.
        geometry: grid of the image (and, checked, of the label).
        dtype: stored type of the image.
        label_counts: value in the label table -> voxels; of object numbers, value of their class -> voxels.
        site: where the case was acquired, for folds that leave one site out; empty if unknown.
        series: the series wanted of its DICOM folders; empty if they hold one.
        fill: number that replaces the image's NaN and Inf voxels, where that was allowed; or None.
        remarks: what a reader decided with certainty, such as a dropped axis of length 1.
        orientation: which form of contradicting NIfTI headers counts; empty if they agree.
        object_classes: object number in the label file -> value of its class; empty where there is but one class.
        source: of a reference that began as a prediction; None: it is as the data set has it.
        recodings: what the values of each label file mean; empty: they are those of the label table.
        reading: what else was declared of its files and changes what is read: axes, channels (by number), sizes.
    """

    id: str
    subject: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    images_sha256: tuple[str, ...]
    labels_sha256: tuple[str, ...]
    geometry: Geometry
    dtype: str
    label_counts: Mapping[int, int]
    site: str = ""
    series: str = ""
    fill: float | None = None
    orientation: str = ""
    remarks: tuple[str, ...] = ()
    object_classes: Mapping[int, int] = field(default_factory=dict)
    reading: Reading = AS_STORED
    recodings: tuple[Recoding, ...] = ()
    source: LabelSource | None = None

    @property
    def has_reference(self) -> bool:
        """Whether it has a reference: label files, or a folder of objects that was there and empty."""
        return bool(self.labels) or set(self.label_counts) == {0}

    @property
    def pixel_size(self) -> tuple[float, ...] | None:
        """Micrometres per axis for files of this case that state no size: the spacing of the grid that was checked."""
        return None if self.geometry.unit == "px" else self.geometry.in_unit("um").spacing

    @property
    def image_reading(self) -> Reading:
        """How its images are read, as they were when they were checked."""
        reading = replace(self.reading, orientation=self.orientation, fill=self.fill)
        return reading.sized(self.pixel_size if self.geometry.dims in (2, 3) else None)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked data set.

    Attributes:
        dataset: name.
        dims: spatial dimensions, 2 or 3.
        channels: channel names.
        labels: what the label values mean.
        cases: sorted by id.
        allowed: faults that were found and allowed by name, as text.
        excluded: ids of cases that the configuration leaves out.
        grouping: how it is known which cases belong together.
        reading: what the configuration declares of its files; goes into models that are trained on them.
        accepts: codes of faults that the configuration allows by name; go into models likewise.
    """

    dataset: str
    dims: int
    channels: tuple[str, ...]
    labels: LabelTable
    cases: tuple[Case, ...]
    allowed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    grouping: Grouping = NOBODY
    reading: Reading = AS_STORED
    accepts: tuple[str, ...] = ()
    _by_id: Mapping[str, Case] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The first of several, which `medseg ingest` refuses.
        object.__setattr__(self, "_by_id", {case.id: case for case in reversed(self.cases)})

    @property
    def independence(self) -> str:
        """The unit of independence, who declared it, and how many there are: one plain sentence."""
        return self.grouping.sentence(len({case.subject for case in self.cases}))

    def case(self, case_id: str) -> Case:
        """The case with this id, or ``DataError``."""
        if (found := self._by_id.get(case_id)) is None:
            raise DataError(f"case '{case_id}' is not in the manifest of data set '{self.dataset}'")
        return found


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.tsv`` (a row per case) and ``dataset.json`` (what holds for all) into ``folder``."""
    files = IngestFolder(folder)
    write_table(
        files.manifest,
        _table(manifest.cases),
        files.dataset,
        {
            "dataset": manifest.dataset,
            "dims": manifest.dims,
            "channels": list(manifest.channels),
            "labels": manifest.labels.to_json(),
            "allowed": list(manifest.allowed),
            "excluded": list(manifest.excluded),
            "reading": manifest.reading.to_json(),
            "accepts": list(manifest.accepts),
            "unit": {**asdict(manifest.grouping), "subjects": len({case.subject for case in manifest.cases})},
        },
    )


def write_test(cases: Sequence[Case], allowed: Sequence[str], declared: Mapping[str, Any] | None, folder: Path) -> None:
    """Write the test set beside the manifest, in files of its own, so that no other stage sees it.

    Args:
        cases: of the test set; none: the table has a header alone.
        allowed: faults of these cases that were allowed by name.
        declared: the configuration's section ``test``, which later must be the same.
        folder: where ``test.tsv`` and ``test.json`` go.
    """
    files = IngestFolder(folder)
    facts = {"declared": declared, "cases": len(cases), "allowed": list(allowed)}
    write_table(files.test_manifest, _table(cases), files.test_declaration, facts)


def _table(cases: Sequence[Case]) -> str:
    """A manifest's rows as tab-separated text."""
    rows = [
        {
            "case": c.id,
            "subject": cell(c.subject),
            "site": cell(c.site),
            "series": cell(c.series),
            "images": json.dumps(c.images),
            "labels": json.dumps(c.labels),
            "images_sha256": json.dumps(c.images_sha256),
            "labels_sha256": json.dumps(c.labels_sha256),
            "geometry": json.dumps(c.geometry.to_json()),
            "dtype": c.dtype,
            "label_counts": json.dumps({str(k): v for k, v in c.label_counts.items()}),
            "object_classes": _classes_cell(c.object_classes),
            "fill": "" if c.fill is None else repr(c.fill),
            "orientation": c.orientation,
            "remarks": json.dumps(c.remarks),
            "label_values": json.dumps([r.to_json() for r in c.recodings]) if c.recodings else "",
            "reading": "" if c.reading == AS_STORED else json.dumps(c.reading.to_json()),
            "label_source": "" if c.source is None else json.dumps(c.source.to_json()),
        }
        for c in cases
    ]
    text = io.StringIO()
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(text, sep="\t", index=False)
    return text.getvalue()


def read_manifest(path: Path) -> Manifest:
    """Read ``manifest.tsv`` (or ``test.tsv``, of the test set) and the ``dataset.json`` beside it.

    Raises:
        DataError: if either is missing or not as written by ``write_manifest``.
    """
    facts, text = read_dataset(path), read_table(path)
    with as_written(path, MAKER):
        table = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False)
        cases = tuple(_case_from_row(row) for row in table.to_dict("records"))
    with as_written(IngestFolder(path.parent).dataset, MAKER):
        return Manifest(
            facts["dataset"],
            facts["dims"],
            tuple(facts["channels"]),
            LabelTable.from_json(facts["labels"]),
            cases,
            tuple(facts["allowed"]),
            tuple(facts["excluded"]),
            Grouping(facts["unit"]["by"], facts["unit"]["how"]),
            Reading.from_json(facts["reading"]),
            tuple(facts["accepts"]),
        )


def _classes_cell(classes: Mapping[int, int]) -> str:
    """Class value -> its objects, as JSON; empty where objects have no classes."""
    objects: dict[str, list[int]] = {str(value): [] for value in sorted(set(classes.values()))}
    for number, value in sorted(classes.items()):
        objects[str(value)].append(number)
    return json.dumps(objects, separators=(",", ":")) if objects else ""


def _classes_of_cell(text: str) -> dict[int, int]:
    found = {int(number): int(value) for value, objects in json.loads(text or "{}").items() for number in objects}
    return dict(sorted(found.items()))


def _case_from_row(row: Mapping[Any, Any]) -> Case:
    return Case(
        id=row["case"],
        subject=text_of_cell(row["subject"]),
        images=tuple(json.loads(row["images"])),
        labels=tuple(json.loads(row["labels"])),
        images_sha256=tuple(json.loads(row["images_sha256"])),
        labels_sha256=tuple(json.loads(row["labels_sha256"])),
        geometry=Geometry.from_json(json.loads(row["geometry"])),
        dtype=row["dtype"],
        label_counts={int(k): v for k, v in json.loads(row["label_counts"]).items()},
        site=text_of_cell(row["site"]),
        series=text_of_cell(row["series"]),
        fill=float(row["fill"]) if row["fill"] else None,
        orientation=row["orientation"],
        remarks=tuple(json.loads(row["remarks"])),
        object_classes=_classes_of_cell(row["object_classes"]),
        reading=Reading.from_json(json.loads(row["reading"] or "{}")),
        recodings=tuple(Recoding.from_json(value) for value in json.loads(row["label_values"] or "[]")),
        source=LabelSource.from_json(json.loads(row["label_source"])) if row.get("label_source") else None,
    )
