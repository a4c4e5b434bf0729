"""Runs in MLflow: one parent per data set and model, one child per fold and seed, found by tags."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from medseg.errors import TrackingError
from medseg.tracking.names import safe_text
from medseg.owner import is_orphan
from medseg.tracking.spec import RunSpec, Value
from medseg.tracking.views import MODELS, TRAININGS

# MLflow writes the login name and the script's path here if nobody else does.
ANONYMOUS = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}


def open_runs(
    client: Any, experiment: str, spec: RunSpec, *, start_ms: int, owner: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Find or create the parent and the child run of a training. Call with the store's lock held.

    Args:
        client: of the store.
        experiment: id.
        spec: the training.
        start_ms: start of runs that have to be created, unix ms.
        owner: tags of the process that trains; both runs are then marked RUNNING.

    Returns:
        Ids of parent and child.
    """
    parent = _find_or_create(
        client, experiment, spec.parent_key, None, spec.parent_params, {"medseg.kind": MODELS}, start_ms
    )
    tags = {**spec.tags, "medseg.kind": TRAININGS, "mlflow.parentRunId": parent, **(owner or {})}
    child = _find_or_create(client, experiment, spec.key, spec.fingerprint, spec.child_params, tags, start_ms)
    if owner is not None:
        for run in (parent, child):
            client.update_run(run, status="RUNNING")
    return parent, child


def _find_or_create(
    client: Any,
    experiment: str,
    key: str,
    fingerprint: str | None,
    params: Mapping[str, Value],
    tags: Mapping[str, str],
    start_ms: int,
) -> str:
    identity = {"medseg.key": key, **({} if fingerprint is None else {"medseg.fingerprint": fingerprint})}
    all_tags = {k: safe_text(v) for k, v in {**tags, **identity, "medseg.superseded": "false", **ANONYMOUS}.items()}
    same = [run for run in runs_of(client, experiment, key) if _is_same(run.data, identity, params)]
    if same:
        run = min(same, key=lambda r: (r.data.tags["medseg.superseded"], r.info.start_time, r.info.run_id))
    else:
        run = client.create_run(experiment, start_time=start_ms, tags=all_tags, run_name=key)
    log_new(client, run, params=params, tags=all_tags)
    return str(run.info.run_id)


def _is_same(data: Any, identity: Mapping[str, str], params: Mapping[str, Value]) -> bool:
    """Whether a run may be reused: MLflow allows new parameters, but no other value of a known one."""
    agrees = all(data.params.get(k, safe_text(v)) == safe_text(v) for k, v in params.items())
    return agrees and all(data.tags.get(name) == value for name, value in identity.items())


def log_new(client: Any, run: Any, *, params: Mapping[str, Value], tags: Mapping[str, str]) -> None:
    """Write the parameters that a run lacks and the tags that it lacks or has otherwise."""
    from mlflow.entities import Param, RunTag

    new_params = [Param(k, safe_text(v)) for k, v in params.items() if k not in run.data.params]
    new_tags = [RunTag(k, safe_text(v)) for k, v in tags.items() if run.data.tags.get(k) != safe_text(v)]
    if new_params or new_tags:
        client.log_batch(run.info.run_id, params=new_params, tags=new_tags, synchronous=True)


def runs_of(client: Any, experiment: str, key: str) -> list[Any]:
    """All runs with a key, outdated ones too."""
    return list(client.search_runs([experiment], f"tags.`medseg.key` = '{key}'"))


def supersede_others(client: Any, experiment: str, key: str, keep: Iterable[str]) -> None:
    """Mark the runs of a key that are not in ``keep`` as outdated."""
    kept = set(keep)
    for run in runs_of(client, experiment, key):
        if run.info.run_id not in kept and run.data.tags.get("medseg.superseded") != "true":
            client.set_tag(run.info.run_id, "medseg.superseded", "true")


def close_orphans(client: Any, experiment: str) -> int:
    """Set runs to KILLED whose process does not run any more; MLflow itself leaves them RUNNING.

    Call with the store's lock held. A parent is closed when none of its children runs.

    Returns:
        How many trainings were closed.
    """
    running = list(client.search_runs([experiment], "attributes.status = 'RUNNING' and tags.`medseg.key` != ''"))
    children = [r for r in running if "mlflow.parentRunId" in r.data.tags]
    dead = [r for r in children if is_orphan(r.data.tags)]
    alive = {r.data.tags["mlflow.parentRunId"] for r in children if r not in dead}
    parents = [r for r in running if r not in children and r.info.run_id not in alive]
    for run in [*dead, *parents]:
        client.set_terminated(run.info.run_id, "KILLED")
    return len(dead)


def close_run(client: Any, experiment: str, parent: str, child: str, status: str) -> None:
    """End a training's run, and its parent if no other child runs. Call with the store's lock held."""
    client.set_terminated(child, status)
    query = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{parent}'"
    if not client.search_runs([experiment], query):
        client.set_terminated(parent, status)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def require_run(client: Any, run_id: str) -> Any:
    """The run with an id; raises ``TrackingError`` if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"no run {run_id} in the tracking store") from error
