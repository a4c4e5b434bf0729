"""What is known of a label map that a model predicted: its image, the model, its voxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.image.labels import LabelTable
from medseg.records import as_written, read_record

MAKER = "medseg predict"
# Key of the stamp beside a label map.
KEY = "predicted"


@dataclass(frozen=True, slots=True)
class Predicted:
    """A label map that a model predicted; no path is in it, so that it may travel.

    Attributes:
        images: name and SHA-256 of each file of the image, as ``Content.sha256``.
        channels: of the model, as many as files where each file holds one.
        series: the series wanted of its DICOM folders; empty if they hold one.
        spacing: micrometres per axis that were said of the image, beside its file; or None.
        labels: what the values of the label map mean.
        model: data set, name, fold and seed of the training that predicted.
        fingerprint, weights: of that training: its fingerprint and the SHA-256 of its weights.
        voxels: ``ingest.counting.digest_labels`` of the label map.
    """

    images: tuple[tuple[str, str], ...]
    channels: tuple[str, ...]
    series: str
    spacing: tuple[float, ...] | None
    labels: LabelTable
    model: str
    fingerprint: str
    weights: str
    voxels: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**own, "labels": self.labels.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Predicted:
        """The inverse of ``to_json``."""
        spacing = value["spacing"]
        return cls(
            tuple((str(name), str(sha256)) for name, sha256 in value["images"]),
            tuple(map(str, value["channels"])),
            str(value["series"]),
            None if spacing is None else tuple(map(float, spacing)),
            LabelTable.from_json(value["labels"]),
            *(str(value[name]) for name in ("model", "fingerprint", "weights", "voxels")),
        )


def stamp_of(labels: Path) -> Path:
    """Where it stands what a label map was made from."""
    return labels.with_name(f".{labels.name}.json")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A label map in a folder of predictions, and what its stamp says of it.

    Attributes:
        name: of its image, relative to the folder, without a suffix.
        labels: the file, which may have been changed or removed since.
        sha256: of the file as it was written.
        others: files that were written beside it: of classes, of uncertainty.
        facts: what it was made from.
    """

    name: str
    labels: Path
    sha256: str
    others: tuple[Path, ...]
    facts: Predicted


def read_prediction(stamp: Path, folder: Path, name: str) -> Prediction | None:
    """What the stamp of a label map says; None if it is the stamp of something else.

    Args:
        stamp: a hidden file in ``folder`` or below it.
        folder: of predictions.
        name: of the label map without its suffix, relative to the folder.

    Raises:
        DataError: if it is damaged, or of a version that recorded less.
    """
    record = read_record(stamp, MAKER)
    if "key" not in record or "sha256" not in record:
        return None
    labels = stamp.with_name(stamp.name.removeprefix(".").removesuffix(".json"))
    if KEY not in record:
        raise DataError(f"{labels}: an earlier version predicted it and did not record the image; predict it again")
    with as_written(stamp, MAKER):
        digests, sha256 = dict(record["sha256"]), str(record["sha256"][labels.name])
        predicted = Predicted.from_json(record[KEY])
    others = tuple(labels.with_name(other) for other in digests if other != labels.name)
    return Prediction(name, labels, sha256, others, predicted)
