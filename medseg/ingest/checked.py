"""What reading one case gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from medseg.errors import Fault
from medseg.image.geometry import Geometry
from medseg.image.recode import Recoding
from medseg.ingest.faults import fault
from medseg.ingest.label_source import UNCHANGED
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.manifest import Case
from medseg.ingest.origin.sketch import Sketch
from medseg.reading import AS_STORED, Reading


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """The objects of a label map.

    Attributes:
        numbers: in ascending order.
        voxels: of each.
        parts: of each, those that are small against the largest left out.
        far: numbers of those that have a part far from the largest.
    """

    numbers: tuple[int, ...]
    voxels: tuple[int, ...]
    parts: tuple[int, ...]
    far: tuple[int, ...]


@dataclass(slots=True)
class Checked:
    """What reading one case gave: its facts, and everything wrong with it.

    Attributes:
        candidate: the case's files.
        faults: everything wrong with it.
        settled: contradictions for which the configuration names the winner: reported and recorded, but no errors.
        images_sha256, labels_sha256: digests of the files; empty text for one that could not be opened.
        voxels_sha256: digests of the voxels of the images; empty text for one that is constant or could not be read.
        geometry: grid of the first image, or None if it could not be read.
        channels: over all images, or None likewise.
        spreads: of several channels, the 5th to 95th percentile range of intensities of each.
        dtype: stored type of the first image.
        label_counts: as in ``medseg.ingest.manifest.Case``; None if the label, or a class of its objects, could not be
            read.
        object_classes: as in ``medseg.ingest.manifest.Case``.
        fill, orientation, remarks, reading: as in ``medseg.ingest.manifest.Case``.
        objects: of a label map that numbers objects; None: it could not be read, or shows classes.
        world: whether the first image has a place in a world (an affine), not only a size.
        origin: of the first image, as in ``medseg.formats.source.Source``.
        channel_names: the file's own, of an image of one file; empty: it names none.
        recodings: what the values of each label file mean, as in ``medseg.ingest.manifest.Case``.
        unchanged: whether its reference has the very voxels that a model predicted.
        sketch: of the first image, to find cases of one origin; None if it is constant or could not be read.
    """

    candidate: Candidate
    faults: list[Fault] = field(default_factory=list)
    settled: list[Fault] = field(default_factory=list)
    images_sha256: list[str] = field(default_factory=list)
    labels_sha256: list[str] = field(default_factory=list)
    voxels_sha256: list[str] = field(default_factory=list)
    geometry: Geometry | None = None
    channels: int | None = None
    spreads: list[float] = field(default_factory=list)
    dtype: str = ""
    label_counts: dict[int, int] | None = None
    object_classes: Mapping[int, int] = field(default_factory=dict)
    fill: float | None = None
    orientation: str = ""
    remarks: list[str] = field(default_factory=list)
    reading: Reading = AS_STORED
    channel_names: tuple[str, ...] = ()
    recodings: list[Recoding] = field(default_factory=list)
    world: bool = False
    origin: Sequence[float] | None = None
    objects: ObjectFacts | None = None
    sketch: Sketch | None = None
    unchanged: bool = False

    def add(self, code: str, file: str, cause: str, fix: str = "") -> None:
        """Note a fault of this case."""
        self.faults.append(fault(code, self.candidate.id, file, cause, fix))

    def case(self) -> Case:
        """The manifest's row; only for a case without faults that forbid one."""
        assert self.geometry is not None
        c = self.candidate
        return Case(
            id=c.id,
            subject=c.subject,
            images=c.images,
            labels=c.labels,
            images_sha256=tuple(self.images_sha256),
            labels_sha256=tuple(self.labels_sha256),
            geometry=self.geometry,
            dtype=self.dtype,
            label_counts=self.label_counts or {},
            site=c.site,
            series=c.series,
            fill=self.fill,
            orientation=self.orientation,
            recodings=tuple(self.recodings) if any(one.changes for one in self.recodings) else (),
            remarks=tuple(self.remarks),
            object_classes=self.object_classes,
            reading=self.reading,
            source=None if c.source is None else replace(c.source, kind=UNCHANGED if self.unchanged else c.source.kind),
        )
