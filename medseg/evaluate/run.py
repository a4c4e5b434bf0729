"""The evaluate stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.config import Config
from medseg.errors import DataError
from medseg.evaluate.choice import choice_of, require_chosen
from medseg.evaluate.predicted import read_prediction
from medseg.evaluate.quality import calibrate
from medseg.evaluate.score import COLUMNS, Objects, score_case
from medseg.evaluate.table import read_table, write_table
from medseg.image.objects import of_numbers
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.outputs import listing, writing
from medseg.predict.quality import write_quality
from medseg.predict.record import Predictions, read_predictions, require_made_as, require_predicted_by
from medseg.results.folders import ModelFolder, table_of_shard
from medseg.results.key import VALIDATION
from medseg.shards import Shard
from medseg.trained import read_trained


def run(
    config: Config,
    manifest_path: Path,
    predictions: Path,
    out: Path,
    shard: Shard | None = None,
    model: Path | None = None,
) -> None:
    """Score every case of ``predictions`` (a ``predictions.json``) against its reference into the parquet file ``out``.

    A case that is recorded there as failed gets the worst value and its reason; it is never left out. With ``shard``,
    only that part of the cases is scored, into a file of its own (``table_of_shard``), to be joined by ``join``. With
    ``model``, a model folder, predictions of another training than the one in it are refused; always, those that were
    made with other mirror images or another post-processing than configured.

    Raises:
        ConfigError: if the configuration asks for a metric or a class that there is not.
        DataError: if a prediction changed since it was written, a case has no reference, or a value is no class.
        GeometryError: if a prediction is not on its reference's grid.
    """
    target = out if shard is None else table_of_shard(out, shard.name)
    with writing(target):
        given = _read(config, predictions, model)
        table = _score(config, read_manifest(manifest_path), given, shard)
        if shard is None:
            _write_quality(given, table, model)
        write_table(target, table)


def _write_quality(given: Predictions, table: pd.DataFrame, model: Path | None) -> None:
    """Write how Dice is estimated into the model folder, where there is one and these are its validation cases."""
    if model is None or given.key.split != VALIDATION:
        return
    with listing(ModelFolder(model).quality, ModelFolder(model).quality):
        write_quality(read_trained(model), *calibrate(given, table))


def _read(config: Config, predictions: Path, model: Path | None) -> Predictions:
    """Predictions, if they were made as configured, and by the training in the folder ``model``."""
    given = read_predictions(predictions)
    if model is not None:
        require_predicted_by(model, given)
    require_made_as(config, given, model)
    return given


def _score(config: Config, manifest: Manifest, given: Predictions, shard: Shard | None) -> pd.DataFrame:
    folder = config.folder_of(manifest.dataset)
    choice, labels = choice_of(config, manifest.dataset, manifest.labels), manifest.labels
    rows: list[Mapping[str, Any]] = []
    cases = list(given.cases.items())
    for case_id, entry in cases if shard is None else shard.of(cases):
        case = manifest.case(case_id)
        values = read_case_labels(case, folder)
        reference, predicted, said = labels.to_channels(values, case.object_classes), None, None
        if not entry.failed:
            predicted, said = read_prediction(given.folder, case, entry, labels)
        objects = Objects(of_numbers(values, reference), said) if labels.instances else None
        made = (reference, predicted, labels, case.geometry)
        about = (entry.failed, entry.sha256, choice, given.fingerprint)
        rows += score_case(given.key, case.id, case.subject, *made, *about, objects=objects)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def join(config: Config, predictions: Path, out: Path, count: int, model: Path | None = None) -> None:
    """Join the tables of ``count`` shards into ``out``: the same table as ``run`` without shards writes.

    Arguments as for ``run``.

    Raises:
        DataError: if a shard's table is missing or damaged, or is not about these predictions.
    """
    with writing(out):
        given = _read(config, predictions, model)
        table = _joined(config, given, out, count)
        _write_quality(given, table, model)
        write_table(out, table)


def _joined(config: Config, given: Predictions, out: Path, count: int) -> pd.DataFrame:
    parts = [_read_part(out, Shard(index, count), given) for index in range(count)]
    # A shard without a case has a table without types.
    filled = [table for table in parts if len(table)] or parts[:1]
    table = pd.concat(filled, ignore_index=True)
    require_chosen(config, given.key.dataset, list(dict.fromkeys(table["label"])), table)
    order = {case_id: place for place, case_id in enumerate(given.cases)}
    return table.sort_values("case", key=lambda cases: cases.map(order), kind="stable")


def _read_part(out: Path, shard: Shard, given: Predictions) -> pd.DataFrame:
    """The table of a shard, if it was made from these predictions."""
    path = table_of_shard(out, shard.name)
    again = f"run `medseg evaluate --shard {shard.index}/{shard.count}` again"
    table = read_table(path, f"medseg evaluate --shard {shard.index}/{shard.count}")
    missing = set(COLUMNS) - set(table.columns)
    if missing:
        raise DataError(f"{path}: columns {sorted(missing)} are missing; {again}")
    for column, value in {**asdict(given.key), "fingerprint": given.fingerprint}.items():
        other = set(table[column]) - {value}
        if other:
            raise DataError(f"{path}: scores of {column} {sorted(other)}; {given.folder} is of '{value}'; {again}")
    scored = dict(zip(table["case"], table["prediction"], strict=True))
    expected = {case_id: entry.sha256 for case_id, entry in shard.of(list(given.cases.items()))}
    if set(scored) != set(expected):
        raise DataError(f"{path}: scores of other cases than this part of {given.folder} has; {again}")
    stale = sorted(case_id for case_id, digest in expected.items() if scored[case_id] != digest)
    if stale:
        raise DataError(f"{path}: the predictions of {', '.join(stale[:3])} changed after they were scored; {again}")
    return table
