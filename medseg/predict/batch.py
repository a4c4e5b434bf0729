"""Image files that one model, or several together, are to predict: how, and which label maps can be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import digest_of
from medseg.formats.read import open_content, read_labels
from medseg.formats.source import Source
from medseg.formats.table import stem_of, suffix_of
from medseg.formats.write import map_suffix
from medseg.ingest.counting import digest_labels
from medseg.ingest.predicted import KEY, Predicted, stamp_of
from medseg.predict.failures import Failure
from medseg.predict.finish import Finish
from medseg.predict.input import Input
from medseg.predict.predictor import Predicting, is_mirrored
from medseg.predict.record import label_map_digest
from medseg.predict.sinks import Sink
from medseg.predict.terms import Found, Terms, shared_terms
from medseg.predict.trainings import Training, facts_of
from medseg.records import read_record
from medseg.train.checkpoint import Checkpoint

# Called with each image (its first file), opened, and its label map, when that is there.
Then = Callable[[Path, Source, Path], None]


@dataclass(frozen=True, slots=True)
class How:
    """How image files are predicted; what is not given is as in the training.

    Attributes:
        layout: a row of ``INPUT_LAYOUTS``, by which images are found; None: files are images.
        series: which series of DICOM folders is wanted, if they hold several.
        spacing: micrometres per axis of files that state no size.
        orientation: which form counts where a NIfTI header contradicts itself.
        fill: stands for NaN and Inf voxels, with ``nonfinite`` in ``allow``.
        allow: doubts about images that are allowed by name.
        axes: what the planes of TIFF files are, the slowest first: ``CYX``, ``ZYX``.
        channels: numbers from 0, or the files' own names, of the channels that are taken, in this order.
        device, threads, mirror, runtime, overlap: of each training, see ``Predictor``.
        max_gb: memory that predicting, and one decoded file, may take; None: what is available, and half of the
            machine's.
        code: digest of the code that predicts: what another version predicted is not kept.
        references: whether DICOM segmentations refer to their series.
        finish: the operations that belong to the model; None: label maps are the network's own.
        uncertainty: write maps of entropy and disagreement beside the label maps.
    """

    layout: str | None = None
    series: str = ""
    spacing: Sequence[float] | None = None
    orientation: str | None = None
    fill: float | None = None
    allow: tuple[str, ...] = ()
    axes: str | None = None
    channels: tuple[int | str, ...] = ()
    device: str | None = None
    threads: int | None = None
    mirror: bool | None = None
    runtime: str | None = None
    overlap: float | None = None
    max_gb: float | None = None
    code: str = ""
    references: bool = True
    finish: Finish | None = None
    uncertainty: bool = False

    @property
    def running(self) -> tuple[str | None, int | None, bool | None, str | None, float | None]:
        """How networks run, as ``predicting`` takes it."""
        return self.device, self.threads, self.mirror, self.runtime, self.overlap


@dataclass(slots=True)
class Batch:
    """Images that one model, or several together, are to predict into one folder.

    Attributes:
        inputs: the images.
        out: folder of the label maps.
        how: as asked for.
        trainings: that predict, together if there are several.
        terms: on which images are taken.
        then: called for every label map that is there.
        watchers: sinks that see every slab beside the label map; an error of theirs ends the batch.
        predictor: what predicts, loaded; None: it is loaded for the first image that is predicted.
        failed: image -> why it has none.
        kept: images whose label maps were there.
        allowed: doubts that were allowed.
        digests: of the files of each image, as ``key`` read them.
        unsized: images whose files state no voxel size, and are taken to have that of the training's.
        expected: image -> class or region -> the Dice that its prediction expects of itself.
    """

    inputs: Sequence[Input]
    out: Path
    how: How
    trainings: tuple[Training, ...]
    terms: Terms
    then: Then | None = None
    watchers: Sequence[Sink] = ()
    predictor: Predicting | None = None
    failed: dict[Input, list[Failure]] = field(default_factory=dict)
    kept: set[Input] = field(default_factory=set)
    allowed: list[Found] = field(default_factory=list)
    unsized: list[Input] = field(default_factory=list)
    digests: dict[Input, list[str]] = field(default_factory=dict)
    expected: dict[Input, Mapping[str, float]] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint:
        """What the first training says: of labels and channels the same as the others."""
        return self.trainings[0].checkpoint

    @property
    def written(self) -> list[Path]:
        """The label maps, in the order of the images."""
        return [one.labels(self.out) for one in self.inputs if one not in self.failed]

    def outputs(self, one: Input) -> list[Path]:
        """The files that an image gets: its label map, and the classes of its objects if there are several."""
        return [one.labels(self.out), *([one.classes(self.out)] if self.checkpoint.labels.objects_have_classes else [])]

    def maps(self, one: Input) -> list[Path]:
        """The maps of uncertainty that an image gets: entropy, and disagreement if there are several members."""
        if not self.how.uncertainty:
            return []
        labels, grid = one.labels(self.out), self.checkpoint.plan.grid
        suffix = map_suffix(one.files[0], grid.dims)
        several = len(self.trainings) > 1 or is_mirrored(self.checkpoint.plan, self.how.mirror)
        kinds = ["entropy", *(["disagreement"] if several else [])]
        return [labels.with_name(f"{stem_of(labels)}.{kind}{suffix}") for kind in kinds]

    def stamp(self, one: Input) -> Path:
        """Where it stands what the files of an image were made from."""
        return stamp_of(one.labels(self.out))

    def key(self, one: Input) -> str:
        """Digest of all that the files of an image depend on.

        Raises:
            FormatError: if a file of the image cannot be read.
        """
        how = self.how
        images = self.digests[one] = [open_content(file, one.series).sha256 for file in one.files]
        reading = [self.terms.reading.sized(one.spacing).to_json(), one.series, [suffix_of(file) for file in one.files]]
        made_by = facts_of(self.trainings, how.mirror)
        facts: list[Any] = [images, reading, made_by, how.device, how.threads, how.code]
        facts += [] if how.finish is None else [how.finish.key]
        facts += [] if how.runtime is None and how.overlap is None else [[how.runtime, how.overlap]]
        return digest_of(facts if how.references else [*facts, "anonymous"])

    def require_unedited(self, one: Input) -> None:
        """Raise ``DataError`` if somebody edited the label map of an image, which would be replaced.

        What is no label map any more, since it was cut, say, was not edited.
        """
        labels = one.labels(self.out)
        try:
            stamp = read_record(self.stamp(one), "medseg predict")
            if stamp["sha256"][labels.name] == label_map_digest(labels):
                return
            same = stamp[KEY]["voxels"] == digest_labels(read_labels(labels)[0])
        except (DataError, OSError, KeyError, TypeError):
            return
        if not same:
            raise DataError(
                f"{one.shown}: its label map {labels} was edited since it was predicted, and would be replaced; move "
                "it to another folder (docs/correct.md), or delete it, and run the same command again"
            )

    def predicted(self, one: Input) -> dict[str, Any]:
        """What the stamp of a label map says for those who correct it; the label map is there."""
        made, how = self.checkpoint, self.how
        facts = Predicted(
            tuple((file.name, sha256) for file, sha256 in zip(one.files, self.digests[one], strict=True)),
            made.channels,
            one.series,
            one.spacing or (None if how.spacing is None else tuple(how.spacing)),
            made.labels,
            " + ".join(training.name for training in self.trainings),
            "+".join(training.checkpoint.fingerprint for training in self.trainings),
            "+".join(training.weights_sha256 for training in self.trainings),
            digest_labels(read_labels(one.labels(self.out))[0]),
        )
        return {KEY: facts.to_json()}


def terms_of(trainings: Sequence[Training], how: How) -> Terms:
    """On which terms images are taken by trainings together; errors as for ``Terms.of`` and ``shared_terms``."""
    given = {name: getattr(how, name) for name in ("orientation", "fill", "allow", "spacing", "axes", "channels")}
    return shared_terms({str(one.folder): Terms.of(one.checkpoint, **given) for one in trainings})


def options_of(given: Mapping[str, Any]) -> How:
    """Options by name, as the command line and MLflow have them; none stands for what the training says."""
    values = {name: value for name, value in given.items() if value is not None}
    for name in ("allow", "channels"):
        if name in values:
            values[name] = tuple(values[name])
    return How(**values)
