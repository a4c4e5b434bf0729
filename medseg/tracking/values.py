"""Scores in MLflow: of several values of one name, the last that was sent is shown, whatever the clock says.

MLflow shows the value with the largest step, and among these with the largest time; of a stored model, the one with the
largest time. So a value that replaces another one is stamped later than that, though the clock may have been set back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from medseg.tracking.failures import StoreError
from medseg.tracking.names import PREFIX, TEST_PREFIX, metric_name
from medseg.tracking.runs import now_ms


def log_values(client: Any, run: Any, values: Mapping[str, float], *, withdraw: bool, model: Any | None = None) -> int:
    """Log results of a run, and of its stored model, that are not shown yet; then see that they are.

    A stored model that shows scores which are not among the values is to be stored anew: see ``log_model``.

    Args:
        client: of the store.
        run: as it is now.
        values: by their real names.
        withdraw: scores that are shown and are not among the values become NaN, since MLflow cannot delete.
        model: the stored model of a training, as it is now.

    Returns:
        How many were sent.

    Raises:
        StoreError: if the store shows something else afterwards.
    """
    from mlflow.entities import Metric

    wanted = named_values(values)
    tables = [_newest(run.data.to_proto().metrics), *([] if model is None else [_newest(model.metrics or [])])]
    model_id = None if model is None else model.model_id
    now, new = now_ms(), []
    for key, value in wanted.items():
        if not all(_is_shown(table, key, value) for table in tables):
            later = [table[key][0] + 1 for table in tables if key in table]
            new.append(Metric(key, value, max([now, *later]), 0, model_id=model_id))
    if withdraw:
        scores = (f"{PREFIX}/", f"{TEST_PREFIX}/")
        gone = {k: v for k, v in tables[0].items() if k.startswith(scores) and k not in wanted}
        # Not those of the model: of it, MLflow would show 0.
        new += [
            Metric(k, math.nan, max(now, time + 1), 0) for k, (time, value) in gone.items() if not math.isnan(value)
        ]
        wanted |= dict.fromkeys(gone, math.nan)
    if new:
        client.log_batch(run.info.run_id, metrics=new, synchronous=True)
        _check(_newest(client.get_run(run.info.run_id).data.to_proto().metrics), wanted, run.info.run_name)
        if model is not None:
            of_model = {key: value for key, value in wanted.items() if not math.isnan(value)}
            _check(_newest(client.get_logged_model(model_id).metrics or []), of_model, f"model {model.name}")
    return len(new)


def named_values(values: Mapping[str, float]) -> dict[str, float]:
    """Values by MLflow's names; infinity is left out, of which MLflow makes a number."""
    return {metric_name(name): float(value) for name, value in values.items() if math.isfinite(value)}


def _newest(metrics: Iterable[Any]) -> dict[str, tuple[int, float]]:
    """Name -> time and value of the newest."""
    found: dict[str, tuple[int, float]] = {}
    for metric in metrics:
        if metric.key not in found or metric.timestamp > found[metric.key][0]:
            found[metric.key] = (int(metric.timestamp), float(metric.value))
    return found


def _is_shown(table: Mapping[str, tuple[int, float]], key: str, value: float) -> bool:
    """Whether a table shows a value; undefined values are alike."""
    if key not in table:
        return False
    found = table[key][1]
    return found == value or (math.isnan(found) and math.isnan(value))


def _check(table: Mapping[str, tuple[int, float]], wanted: Mapping[str, float], name: str) -> None:
    for key, value in wanted.items():
        if not _is_shown(table, key, value):
            raise StoreError(
                f"{name}: the store shows {table[key][1] if key in table else 'nothing'} as {key}, though {value} was "
                "sent; perhaps another study of this name writes to it"
            )
