"""The postprocess stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.config import Config, PostprocessConfig
from medseg.errors import ConfigError
from medseg.files import read_json, write_json, writer_lock
from medseg.image.formats import read_content, read_labels, read_recorded, write_labels
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest
from medseg.postprocess.components import fill_holes, largest_component, remove_small


def run(config: Config, manifest_path: Path, predictions: Path, out: Path) -> None:
    """Apply the data set's operations to every label map of ``predictions`` (a ``predictions.json``) into ``out``."""
    manifest = read_manifest(manifest_path)
    steps = config.dataset(manifest.dataset).postprocess
    check_names(steps, manifest.labels, manifest.dataset)
    facts = read_json(predictions)
    cases = {}
    with writer_lock(out):
        for case_id, entry in facts["cases"].items():
            case = manifest.case(case_id)
            source = predictions.parent / entry["file"]
            labels, _ = read_labels(source, read_recorded(source, entry["sha256"], "medseg predict"))
            target = out / entry["file"]
            write_labels(target, apply(labels, steps, manifest.labels), case.geometry)
            cases[case_id] = {"file": target.name, "sha256": read_content(target).sha256}
        write_json(out / "predictions.json", {**facts, "cases": cases, "postprocess": steps.model_dump()})


def apply(labels: NDArray[Any], steps: PostprocessConfig, table: LabelTable) -> NDArray[Any]:
    """Fill holes, keep largest components, remove small ones, in this order.

    Labels (S) hold file values, one per voxel: where regions are predicted, operations work on the painted map too.
    """
    if steps.fill_holes:
        labels = fill_holes(labels, table.values)
    for name in steps.largest_component:
        labels = largest_component(labels, dict(table.names)[name])
    if steps.min_size:
        labels = remove_small(labels, table.values, steps.min_size)
    return labels


def check_names(steps: PostprocessConfig, table: LabelTable, dataset: str) -> None:
    """Raise ``ConfigError`` if an operation names a class that predictions of the data set do not have."""
    written = [n for n, v in table.names if not table.order or v in table.order]
    unknown = sorted(set(steps.largest_component) - set(written))
    if unknown:
        why = "; regions are no classes, and a class that no region paints is never predicted" if table.regions else ""
        raise ConfigError(
            f"datasets.{dataset}.postprocess.largest_component: no class {unknown}; there are {written}{why}"
        )
