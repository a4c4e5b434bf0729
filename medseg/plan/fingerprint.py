"""The fingerprint: what a data set is like, in a few numbers (Isensee et al. 2021, supplementary note 2)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import canonical_axes
from medseg.image.resample import crop, nonzero_box, reorient
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest
from medseg.patches.sampling import generator
from medseg.progress import Progress

# Foreground voxels sampled per case and channel for the intensity statistics.
SAMPLES_PER_CASE = 10_000


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What planning knows about the data; axes in canonical orientation, after cropping to the non-zero box.

    Attributes:
        dataset, dims, channels, classes (background included), cases, subjects: as in the manifest.
        unit: unit of spacing: mm, um or px.
        oriented: whether axes have a world orientation.
        median_spacing, p10_spacing: per axis, over cases.
        median_shape: voxels per axis.
        median_extent: shape x spacing per axis.
        intensities: per channel: mean, std, p00_5, p99_5, min, max of foreground voxels.
    """

    dataset: str
    dims: int
    channels: tuple[str, ...]
    classes: int
    cases: int
    subjects: int
    unit: str
    oriented: bool
    median_spacing: tuple[float, ...]
    p10_spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    median_extent: tuple[float, ...]
    intensities: tuple[Mapping[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprint:
        """The inverse of ``to_json``."""
        facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**facts)


def take_fingerprint(manifest: Manifest, folder: Path, workers: int) -> Fingerprint:
    """Read every case under ``folder`` and summarise; the result does not depend on ``workers``."""
    bar = Progress(f"fingerprint {manifest.dataset}", len(manifest.cases))
    facts = []
    with ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda job: _case_facts(*job), [(i, c, folder) for i, c in enumerate(manifest.cases)])
        for fact in jobs:
            facts.append(fact)
            bar.update(len(facts))
    shapes = np.array([f[0] for f in facts], dtype=np.float64)
    spacings = np.array([f[1] for f in facts])
    samples = [np.concatenate([f[2][c] for f in facts]) for c in range(len(manifest.channels))]
    unit = manifest.cases[0].geometry.unit
    return Fingerprint(
        dataset=manifest.dataset,
        dims=manifest.dims,
        channels=manifest.channels,
        classes=manifest.labels.channels,
        cases=len(manifest.cases),
        subjects=len({c.subject for c in manifest.cases}),
        unit=unit,
        oriented=manifest.dims == 3 and unit == "mm",
        median_spacing=_rounded(np.median(spacings, axis=0)),
        p10_spacing=_rounded(np.percentile(spacings, 10, axis=0)),
        median_shape=_rounded(np.median(shapes, axis=0)),
        median_extent=_rounded(np.median(shapes * spacings, axis=0)),
        intensities=tuple(_statistics(s) for s in samples),
    )


def _case_facts(
    index: int, case: Case, folder: Path
) -> tuple[tuple[int, ...], tuple[float, ...], list[NDArray[np.float32]]]:
    """Cropped shape, spacing and sampled foreground intensities per channel of one case."""
    image = read_case_image(case, folder)
    axes, flips = canonical_axes(case.geometry)
    start, shape = nonzero_box(reorient(image, axes, flips))
    foreground = np.zeros(image.shape[1:], dtype=bool)
    if case.labels:
        foreground = read_case_labels(case, folder) > 0
    samples = []
    cropped_mask = crop(reorient(foreground, axes, flips), start, shape)
    for channel in image:
        values = crop(reorient(channel, axes, flips), start, shape)[cropped_mask].astype(np.float32)
        if len(values) > SAMPLES_PER_CASE:
            values = generator(0, 3, index).choice(values, SAMPLES_PER_CASE)
        samples.append(values)
    geometry = case.geometry.reoriented(axes, flips)
    return shape, geometry.spacing, samples


def _statistics(values: NDArray[np.float32]) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "std", "p00_5", "p99_5", "min", "max"), 0.0)
    low, high = np.percentile(values, (0.5, 99.5))
    numbers = {
        "mean": values.mean(dtype=np.float64),
        "std": values.std(dtype=np.float64),
        "p00_5": low,
        "p99_5": high,
        "min": values.min(),
        "max": values.max(),
    }
    return {name: round(float(v), 6) for name, v in numbers.items()}


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
