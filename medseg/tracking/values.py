"""Scores in MLflow: of several values of one name, the last that was sent is shown, whatever the clock says.

MLflow shows the value with the largest step, and among these with the largest time; of a stored model, the one with the
largest time. So a value that replaces another one is stamped later than that, though the clock may have been set back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.tracking.failures import StoreError
from medseg.tracking.names import PREFIX, TEST_PREFIX, metric_name
from medseg.tracking.runs import now_ms


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results of a run, and of its stored model, by MLflow's names.

    Attributes:
        new: MLflow's metrics that are to be sent, so that all is shown.
        of_run, of_model: what is to be shown afterwards.
    """

    new: Sequence[Any]
    of_run: Mapping[str, float]
    of_model: Mapping[str, float]


def wanted_values(run: Any, values: Mapping[str, float], *, withdraw: bool, model: Any | None = None) -> Wanted:
    """What a run lacks of its results; after it was sent, ``check_run`` and ``check_model`` see that it is shown.

    A stored model that shows scores which are not among the values is to be stored anew: see ``log_model``.

    Args:
        run: as it is now.
        values: by their real names.
        withdraw: scores that are shown and are not among the values become NaN, since MLflow cannot delete.
        model: the stored model of a training, as it is now.
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
    of_model = wanted if model is not None else {}
    if withdraw:
        scores = (f"{PREFIX}/", f"{TEST_PREFIX}/")
        gone = {k: v for k, v in tables[0].items() if k.startswith(scores) and k not in wanted}
        # Not those of the model: of it, MLflow would show 0.
        new += [
            Metric(k, math.nan, max(now, time + 1), 0) for k, (time, value) in gone.items() if not math.isnan(value)
        ]
        wanted = wanted | dict.fromkeys(gone, math.nan)
    return Wanted(new, wanted, of_model)


def log_values(client: Any, run: Any, values: Mapping[str, float], *, withdraw: bool) -> int:
    """Log results of a run that are not shown yet; then see that they are.

    Args:
        client: of the store.
        run, values, withdraw: as for ``wanted_values``.

    Returns:
        How many were sent.

    Raises:
        StoreError: if the store shows something else afterwards.
    """
    wanted = wanted_values(run, values, withdraw=withdraw)
    if wanted.new:
        client.log_batch(run.info.run_id, metrics=wanted.new, synchronous=True)
        check_run(client.get_run(run.info.run_id), wanted)
    return len(wanted.new)


def check_run(run: Any, wanted: Wanted) -> None:
    """Raise ``StoreError`` if a run shows something else than what was sent."""
    _check(_newest(run.data.to_proto().metrics), wanted.of_run, run.info.run_name)


def check_model(model: Any, wanted: Wanted) -> None:
    """Raise ``StoreError`` if a stored model shows something else than what was sent."""
    _check(_newest(model.metrics or []), wanted.of_model, f"model {model.name}")


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
