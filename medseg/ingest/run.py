"""The stage: find, check, split, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.config import Config, DatasetConfig
from medseg.errors import ConfigError, DatasetFaults
from medseg.image.formats import FORMATS, suffix_of
from medseg.image.labels import LabelTable
from medseg.ingest.checks import check_cases
from medseg.ingest.faults import check_allowed
from medseg.ingest.manifest import Manifest, write_manifest
from medseg.ingest.phantoms import generate
from medseg.ingest.sources import Source, find_cases
from medseg.ingest.splits import Fold, make_folds, write_splits


@dataclass(frozen=True, slots=True)
class _Ingested:
    """A data set that may be used."""

    manifest: Manifest
    folds: list[Fold]


def run(config: Config, dataset: str, out: Path, workers: int = 1) -> Manifest:
    """Check a data set and write ``dataset.json``, ``manifest.tsv`` and ``splits.json`` into ``out``.

    Args:
        config: the experiment.
        dataset: name of one of its data sets.
        out: folder of this stage's results.
        workers: threads that read cases.

    Raises:
        DatasetFaults: with every fault that is not allowed by name; then nothing is written.
        ConfigError: if the configuration does not fit the layout, or there are fewer subjects than folds.
    """
    ingested = _ingest(config, dataset, workers)
    write_manifest(ingested.manifest, out)
    write_splits(out / "splits.json", ingested.folds, config.folds.seed)
    return ingested.manifest


def check(config: Config, dataset: str, workers: int = 1) -> Manifest:
    """All that ``run`` does, except writing; same errors."""
    return _ingest(config, dataset, workers).manifest


def run_phantoms(config: Config, dataset: str) -> Path:
    """Generate the data set that ``generate:`` describes; returns its folder (``phantoms.json`` comes last).

    Raises:
        ConfigError: if the data set has no ``generate:``.
        DataError: if its folder holds other data.
    """
    section = config.dataset(dataset)
    if section.generate is None:
        raise ConfigError(f"datasets.{dataset}: has no `generate`, so there is nothing to generate")
    folder = Path(config.data_root) / section.path
    generate(section.generate.kind, section.generate.cases, section.generate.seed, folder)
    return folder


def _ingest(config: Config, dataset: str, workers: int) -> _Ingested:
    section = config.dataset(dataset)
    check_allowed(dataset, section.allow)
    source = find_cases(dataset, Path(config.data_root) / section.path, section)
    _check_spacing(dataset, section, source)
    checked, channels, faults = check_cases(dataset, source, section.spacing, workers)
    errors = [f for f in faults if f.code not in section.allow]
    if not checked and not errors:
        errors = faults
    if errors:
        raise DatasetFaults(dataset, source.root, errors)
    cases = tuple(one.case() for one in checked)
    labels: LabelTable = source.labels  # type: ignore[assignment]  # None only beside a fault
    manifest = Manifest(dataset, cases[0].geometry.dims, channels, labels, cases, tuple(str(f) for f in sorted(faults)))
    folds = make_folds([c.id for c in cases], [c.subject for c in cases], config.folds.count, config.folds.seed)
    return _Ingested(manifest, folds)


def _check_spacing(dataset: str, section: DatasetConfig, source: Source) -> None:
    """`spacing` has one number per axis of the formats that it serves."""
    used = {suffix_of(Path(file)) for c in source.candidates for file in c.images}
    for suffix in sorted(used & FORMATS.keys()):
        dims = FORMATS[suffix].dims
        if section.spacing is not None and len(section.spacing) not in dims:
            found = len(section.spacing)
            axes = " or ".join(str(n) for n in dims)
            raise ConfigError(f"datasets.{dataset}.spacing: {found} numbers, {suffix} files have {axes} axes")
