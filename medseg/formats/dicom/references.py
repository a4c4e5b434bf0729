"""What a segmentation says of the series that it was made from: study, frame of reference, series and instances
(DICOM PS3.3 C.7.2.1, C.7.4.1, C.8.20.2, C.7.6.16.2.6). Viewers and archives need it to show both together.

These UIDs are an identity. They go from an image into its segmentation, and nowhere else; ``docs/dicom.md`` names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medseg.formats.dicom.header import DicomFile, foreign_errors

# Elements of an image that its segmentation repeats.
REFERENCES = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")
_UID = re.compile(r"[0-9][0-9.]{0,63}")
# Codes of PS3.16: why an image was derived, and what for the source was used.
_SEGMENTATION = {"CodeValue": "113076", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Segmentation"}
_SOURCE = {
    "CodeValue": "121322",
    "CodingSchemeDesignator": "DCM",
    "CodeMeaning": "Source image for image processing operation",
}


class Instance(NamedTuple):
    """An image, or a frame of one (from 1; 0: it has but one): SOP class, SOP instance."""

    sop_class: str
    uid: str
    frame: int


def of_series(path: Path, first: DicomFile, slices: Iterable[tuple[DicomFile, int]]) -> Mapping[str, Any]:
    """The references to a series; none if it has no valid UIDs.

    Args:
        path: for messages.
        first: any of its files.
        slices: file and frame (as in ``Instance``) of every slice, in their order.
    """
    with foreign_errors(path, first.name):
        fields = {name: str(first.fields.get(name, "")) for name in REFERENCES}
        instances = [Instance(f.sop_class, str(f.fields.get("SOPInstanceUID", "")), frame) for f, frame in slices]
    return _valid(fields, instances)


def of_segmentation(path: Path, header: DicomFile, slots: Sequence[int], slices: int) -> Mapping[str, Any]:
    """The references that a segmentation has, so that what is made from it has them too; none if it has none.

    Args:
        path, header: of the segmentation.
        slots: slice of each of its frames.
        slices: how many there are.
    """
    with foreign_errors(path, header.name):
        series = list(header.fields.get("ReferencedSeriesSequence") or [])
        if len(series) != 1:
            return {}
        fields = {name: str(header.fields.get(name, "")) for name in REFERENCES}
        fields["SeriesInstanceUID"] = str(series[0].get("SeriesInstanceUID", ""))
        found: dict[int, Instance] = {}
        for slot, groups in zip(slots, header.fields.PerFrameFunctionalGroupsSequence, strict=True):
            sources = [
                s for d in groups.get("DerivationImageSequence") or [] for s in d.get("SourceImageSequence") or []
            ]
            for source in sources[:1]:
                found[slot] = _instance(source)
    return _valid(fields, [found[slot] for slot in range(slices)]) if len(found) == slices else {}


def _instance(reference: Any) -> Instance:
    """The image that an item of a sequence refers to; of several frames the first."""
    frames = reference.get("ReferencedFrameNumber") or 0
    first = frames if isinstance(frames, int | str) else next(iter(frames))
    names = (reference.get("ReferencedSOPClassUID", ""), reference.get("ReferencedSOPInstanceUID", ""))
    return Instance(str(names[0]), str(names[1]), int(first))


def _valid(fields: Mapping[str, str], instances: Sequence[Instance]) -> Mapping[str, Any]:
    """References, if all UIDs are valid; only the frame of reference may be absent."""
    uids = [fields["StudyInstanceUID"], fields["SeriesInstanceUID"]]
    uids += [uid for one in instances for uid in (one.sop_class, one.uid)]
    if fields["FrameOfReferenceUID"]:
        uids.append(fields["FrameOfReferenceUID"])
    if not all(_UID.fullmatch(uid) for uid in uids):
        return {}
    return {**fields, "instances": tuple(instances)}


def refer(image: Any, references: Mapping[str, Any]) -> None:
    """Let a segmentation refer to a series: it is in its study and frame of reference, and lists its instances."""
    from pydicom.dataset import Dataset

    image.StudyInstanceUID = references["StudyInstanceUID"]
    if references["FrameOfReferenceUID"]:
        image.FrameOfReferenceUID = references["FrameOfReferenceUID"]
    series = Dataset()
    series.SeriesInstanceUID = references["SeriesInstanceUID"]
    whole = dict.fromkeys(Instance(one.sop_class, one.uid, 0) for one in references["instances"])
    series.ReferencedInstanceSequence = [_reference(one) for one in whole]
    image.ReferencedSeriesSequence = [series]


def derivation(instance: Instance) -> Any:
    """The functional group that names the image of a frame's slice."""
    from pydicom.dataset import Dataset

    source = _reference(instance)
    source.PurposeOfReferenceCodeSequence = [_code(_SOURCE)]
    item = Dataset()
    item.SourceImageSequence = [source]
    item.DerivationCodeSequence = [_code(_SEGMENTATION)]
    return item


def _reference(instance: Instance) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.sop_class, instance.uid
    if instance.frame:
        item.ReferencedFrameNumber = instance.frame
    return item


def _code(fields: Mapping[str, str]) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, text in fields.items():
        setattr(item, keyword, text)
    return item
