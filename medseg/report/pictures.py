"""Reads each case once: draws what is wanted of it, and counts the sizes of its objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluate.predicted import read_prediction
from medseg.image.labels import IGNORE
from medseg.image.objects import ObjectMap, of_numbers, voxels_per_object
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest
from medseg.metrics.pair import annotated
from medseg.progress import Progress
from medseg.report.chosen import run_of_case
from medseg.report.object_contours import Matches, match, object_contours
from medseg.report.overlays import WIDTH_SMALL, class_contours, draw, width_of
from medseg.report.planes import Planes, planes_2d, planes_3d
from medseg.report.sources import Experiment

# Sizes of objects are counted in bins of equal width on a logarithmic axis.
BINS_PER_DECADE = 12
# Stands for the reference among the models.
REFERENCE = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pictures are drawn, by case: of which models, in which width."""

    large: Mapping[str, Sequence[str]]
    small: Mapping[str, Sequence[str]]

    @property
    def cases(self) -> set[str]:
        """Cases that something is drawn of."""
        return {case for wanted in (self.large, self.small) for case, models in wanted.items() if models}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the cases of a data set gave.

    Attributes:
        large, small: (case, model) -> PNG.
        sizes: model (or ``REFERENCE``) -> bin of the logarithm of the size -> objects; empty without numbered objects.
    """

    large: dict[tuple[str, str], bytes] = field(default_factory=dict)
    small: dict[tuple[str, str], bytes] = field(default_factory=dict)
    sizes: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Maps:
    """Reference and predictions of a case: label channels (S), or objects where labels number them.

    Attributes:
        reference: of one or the other, 0 where nobody annotated.
        left_out: (S) where nobody did.
        predictions: model -> the same as ``reference``.
        objects, predicted: of the reference and of each model; None and empty where labels do not number them.
    """

    reference: NDArray[Any]
    left_out: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[Any]]
    objects: ObjectMap | None
    predicted: Mapping[str, ObjectMap]


def see(experiment: Experiment, root: Path, dataset: str, wanted: Wanted) -> Seen:
    """Draw and count; of data whose labels number objects every predicted case is read, else those that are drawn.

    Args:
        experiment: the experiment.
        root: folder of the data set.
        dataset: its name.
        wanted: the pictures.

    Raises:
        DataError: if an image, label or prediction has changed since it was recorded.
        GeometryError: if a prediction lies on another grid than the reference.
    """
    manifest, seen = experiment.manifests[dataset], Seen()
    counted = experiment.counts_objects(dataset)
    cases = [case for case in manifest.cases if counted or case.id in wanted.cases]
    progress = Progress(f"pictures {dataset}", len(cases))
    for number, case in enumerate(cases, start=1):
        maps = _read(experiment, root, case, manifest, counted)
        if maps.predictions:
            _count_sizes(seen, case, maps)
            _draw(seen, case, read_case_image(case, root) if case.id in wanted.cases else None, maps, wanted)
        progress.update(number)
    return seen


def _read(experiment: Experiment, root: Path, case: Case, manifest: Manifest, counted: bool) -> _Maps:
    """The maps of a case, of all models that have predicted it; what nobody annotated is background."""
    found = {m: run_of_case(experiment, manifest.dataset, m, case.id) for m in experiment.models(manifest.dataset)}
    runs = {model: run for model, run in found.items() if run is not None}
    if not runs:
        return _Maps(np.zeros(0), np.zeros(0, dtype=bool), {}, None, {})
    values = read_case_labels(case, root)
    reference = manifest.labels.to_channels(values, case.object_classes)
    left_out = reference == IGNORE
    objects = of_numbers(values, reference) if counted else None
    predictions: dict[str, NDArray[Any]] = {}
    predicted: dict[str, ObjectMap] = {}
    for model, run in runs.items():
        # A page must not show other data than was scored: the digest is checked.
        channels, said = read_prediction(run.folder, case, run.cases[case.id], manifest.labels)
        if objects is None or said is None:
            predictions[model] = channels
        else:
            predicted[model] = ObjectMap(annotated(said.numbers, left_out).astype(np.uint32), said.classes)
            predictions[model] = predicted[model].numbers
    shown = np.where(left_out, np.uint8(0), reference) if objects is None else objects.numbers
    return _Maps(shown, left_out, predictions, objects, predicted)


def _count_sizes(seen: Seen, case: Case, maps: _Maps) -> None:
    if maps.objects is None:
        return
    for name, objects in ((REFERENCE, maps.objects), *maps.predicted.items()):
        voxels = voxels_per_object(objects.numbers, objects.count)[1:]
        bins = size_bins(voxels[voxels > 0] * case.geometry.voxel_volume)
        counts = seen.sizes.setdefault(name, {})
        for place, number in zip(*np.unique(bins, return_counts=True), strict=True):
            counts[int(place)] = counts.get(int(place), 0) + int(number)


def size_bins(sizes: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Bin of each size: from 10^(b / n) up to 10^((b + 1) / n), with n bins per decade."""
    # Rounded first: whole powers of 10 are not to fall to either side.
    bins: NDArray[np.int64] = np.floor(np.round(np.log10(sizes) * BINS_PER_DECADE, 9)).astype(np.int64)
    return bins


def _draw(seen: Seen, case: Case, image: NDArray[Any] | None, maps: _Maps, wanted: Wanted) -> None:
    if image is None:
        return
    matches: dict[str, Matches] = {}
    if maps.objects is not None:
        matches = {model: match(maps.objects, predicted) for model, predicted in maps.predicted.items()}
    planes = _planes(case, image, maps, matches)
    for models, drawn, width in (
        (wanted.large, seen.large, width_of(case.geometry.dims)),
        (wanted.small, seen.small, WIDTH_SMALL),
    ):
        for model in _shown(models.get(case.id, ()), maps):
            which = 1 + list(maps.predictions).index(model)
            contours = (
                object_contours(planes, which, matches[model], width) if matches else class_contours(planes, which)
            )
            drawn[case.id, model] = draw(planes, width, contours)


def _shown(models: Iterable[str], maps: _Maps) -> list[str]:
    return [model for model in models if model in maps.predictions]


def _planes(case: Case, image: NDArray[Any], maps: _Maps, matches: Mapping[str, Matches]) -> Planes:
    """All maps on the same planes: of volumes, where the first model errs most."""
    every = [maps.reference, *maps.predictions.values()]
    if case.geometry.dims == 2:
        return planes_2d(image, every, case.geometry)
    first = next(iter(maps.predictions))
    if matches:
        error = matches[first].errors(every[0], every[1])
    else:
        error = (every[0] != every[1]) & ~maps.left_out
    return planes_3d(image, every, case.geometry, error)
