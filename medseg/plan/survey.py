"""Measure a data set: every case is read once for the numbers that plans are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import canonical_axes
from medseg.image.labels import LabelTable
from medseg.image.resample import crop, nonzero_box, reorient
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.outputs import writing
from medseg.patches.sampling import generator
from medseg.plan.fingerprint import Fingerprint, write_fingerprint
from medseg.progress import Progress

if TYPE_CHECKING:
    from medseg.config import Config

# Foreground voxels sampled per case and channel for the intensity statistics.
SAMPLES_PER_CASE = 10_000


def take_fingerprint(manifest: Manifest, folder: Path, workers: int) -> Fingerprint:
    """The fingerprint of a data set, from every case under ``folder``; it does not depend on ``workers``.

    Raises:
        DataError: if a file is not the one that was checked at ingest.
    """
    bar = Progress(f"fingerprint {manifest.dataset}", len(manifest.cases))
    measured: list[_CaseProperties] = []
    jobs = [(i, c, folder, manifest.labels) for i, c in enumerate(manifest.cases)]
    with ThreadPoolExecutor(workers) as pool:
        for properties in pool.map(lambda job: _measure(*job), jobs):
            measured.append(properties)
            bar.update(len(measured))
    unit = manifest.cases[0].geometry.unit
    return Fingerprint(
        dataset=manifest.dataset,
        dims=manifest.dims,
        channels=manifest.channels,
        classes=manifest.labels.classes,
        subjects=len({c.subject for c in manifest.cases}),
        unit=unit,
        oriented=manifest.dims == 3 and unit == "mm",
        shapes=tuple(m.shape for m in measured),
        spacings=tuple(m.spacing for m in measured),
        median_relative_size=round(float(np.median([m.relative_size for m in measured])), 6),
        intensities=tuple(
            _statistics(np.concatenate([m.samples[c] for m in measured])) for c in range(len(manifest.channels))
        ),
        regions=manifest.labels.members if manifest.labels.regions else (),
        ignore=manifest.labels.ignore is not None,
        object_diameter=_median(np.concatenate([m.diameters for m in measured])),
        objects=manifest.labels.instances,
    )


@dataclass(frozen=True, slots=True)
class _CaseProperties:
    """Properties of one case.

    Attributes:
        shape, spacing: after cropping, along canonical axes.
        relative_size: share of its voxels that cropping keeps.
        samples: sampled foreground intensities per channel.
        diameters: of its objects, where labels are object numbers.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    relative_size: float
    samples: tuple[NDArray[np.float32], ...]
    diameters: NDArray[np.float64]


def _measure(index: int, case: Case, folder: Path, labels: LabelTable) -> _CaseProperties:
    """Read a case and measure it; ``index`` seeds its sample of intensities."""
    image = read_case_image(case, folder)
    axes, flips = canonical_axes(case.geometry)
    # This is also the bounding box of nnU-Net's mask: filling its holes does not move its outer edges.
    start, shape = nonzero_box(reorient(image, axes, flips))
    foreground, diameters = np.zeros(image.shape[1:], dtype=bool), np.empty(0)
    if case.has_reference:
        reference = read_case_labels(case, folder)
        foreground = labels.foreground(reference)
        if labels.instances:
            diameters = _diameters(reference[foreground], case.geometry.spacing)
    samples = []
    cropped_mask = crop(reorient(foreground, axes, flips), start, shape)
    for channel in image:
        values = crop(reorient(channel, axes, flips), start, shape)[cropped_mask].astype(np.float32)
        if len(values) > SAMPLES_PER_CASE:
            values = generator(0, 3, index).choice(values, SAMPLES_PER_CASE)
        samples.append(values)
    geometry = case.geometry.reoriented(axes, flips)
    spacing = tuple(round(s, 6) for s in geometry.spacing)
    return _CaseProperties(shape, spacing, math.prod(shape) / math.prod(image.shape[1:]), tuple(samples), diameters)


def _diameters(numbers: NDArray[Any], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Diameters (objects,) of the discs or balls as large as the objects, in the unit of ``spacing``.

    Args:
        numbers: object number of every voxel that belongs to an object (voxels,).
        spacing: of the image.
    """
    sizes = np.unique(numbers, return_counts=True)[1] * math.prod(spacing)
    dims = len(spacing)
    unit_ball = math.pi ** (dims / 2) / math.gamma(dims / 2 + 1)
    diameters: NDArray[np.float64] = 2 * (sizes / unit_ball) ** (1 / dims)
    return diameters


def _median(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 6) if len(values) else 0.0


def _statistics(values: NDArray[np.float32]) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "std", "median", "p00_5", "p99_5", "min", "max"), 0.0)
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    numbers = {
        "mean": values.mean(dtype=np.float64),
        "std": values.std(dtype=np.float64),
        "median": median,
        "p00_5": low,
        "p99_5": high,
        "min": values.min(),
        "max": values.max(),
    }
    return {name: round(float(v), 6) for name, v in numbers.items()}


def run_fingerprint(config: Config, manifest_path: Path, out: Path, workers: int) -> None:
    """Write ``fingerprint.json`` of a data set."""
    manifest = read_manifest(manifest_path)
    with writing(out):
        write_fingerprint(out, take_fingerprint(manifest, config.folder_of(manifest.dataset), workers))
