"""Runs in MLflow: one parent per data set and model, one child per fold and seed, found by tags.

A child is one training: its key and its fingerprint. A parent begins open, without scores, so that the curves of its
trainings have a place; a replay closes it by the digest of the trainings whose scores it gets, and from then on it
stands for just these. Other trainings of the model, later, are another parent's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medseg.owner import is_orphan
from medseg.tracking.listed import KEY, PARENT, models_of, runs_of, search
from medseg.tracking.names import safe_text
from medseg.tracking.spec import RunSpec, Value
from medseg.tracking.views import MODELS, TRAININGS

# MLflow writes the login name and the script's path here if nobody else does.
ANONYMOUS = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
FINGERPRINT, KIND = "medseg.fingerprint", "medseg.kind"
# "true": no run of what the study is now. Both of MLflow's tables leave it out.
SUPERSEDED = "medseg.superseded"
# Of a parent that is closed: digest of its trainings; and of what its scores were made from.
CLOSED, SCORES = "medseg.trainings", "medseg.scores"
# Of a run that was created where others may create the same: its number in the queue, once its process has drawn one.
NUMBER, DRAWING = "medseg.number", "drawing"
# How long one that draws its number is waited for: it may have been killed.
DRAW_S, LOOK_S = 10.0, 0.05
# Status of trainings that did not come to their end.
ENDED = ("KILLED", "FAILED")


class Known:
    """Runs as they were listed, found by their key and by their parent.

    Attributes:
        all: in the order of the list.
    """

    def __init__(self, listed: Iterable[Any]) -> None:
        self.all = tuple(listed)
        self._by_key: dict[str, list[Any]] = {}
        self._below: dict[str, list[Any]] = {}
        for run in self.all:
            self._by_key.setdefault(run.data.tags[KEY], []).append(run)
            if PARENT in run.data.tags:
                self._below.setdefault(run.data.tags[PARENT], []).append(run)

    def of(self, key: str) -> Sequence[Any]:
        """Those with a key."""
        return self._by_key.get(key, ())

    def child(self, spec: RunSpec) -> Any | None:
        """The run of a training, if there is one."""
        return find_child(self.of(spec.key), spec)

    def below(self, parent: str) -> Sequence[Any]:
        """Those whose parent this is."""
        return self._below.get(parent, ())


def is_current(run: Any) -> bool:
    """Whether a run is one of what the study is now."""
    return bool(run.data.tags.get(SUPERSEDED) == "false")


def is_open(run: Any) -> bool:
    """Whether a parent never got scores."""
    return KIND in run.data.tags and run.data.tags[KIND] == MODELS and CLOSED not in run.data.tags


def open_runs(client: Any, experiment: str, spec: RunSpec, *, start_ms: int, alone: bool = True) -> tuple[str, str]:
    """Find or create the child run of a training that begins, and its parent. Call with the store's lock held.

    A child that is there stays with its parent. A new one, and one whose parent is gone, belongs to an open parent.
    What an earlier attempt with other settings left unfinished is marked as outdated. Finished trainings stay: until
    the study has others, they are what it says.

    Args:
        client: of the store.
        experiment: id.
        spec: the training.
        start_ms: start of runs that have to be created, unix ms.
        alone: the lock excludes all other processes, as it does for a SQLite file.

    Returns:
        Ids of parent and child.
    """
    attempts = drawn_runs(client, experiment, spec.key)
    child = find_child(attempts, spec)
    parents = drawn_runs(client, experiment, spec.parent_key)
    given = None if child is None else child.data.tags.get(PARENT)
    parent = next((run for run in parents if run.info.run_id == given), None)
    if parent is None:
        parent = first([run for run in parents if is_open(run) and agrees(run, spec.parent_params)])
    if parent is None:
        parent = create_parent(client, experiment, spec, start_ms=start_ms, alone=alone)
    elif is_open(parent) and not is_current(parent):
        client.set_tag(parent.info.run_id, SUPERSEDED, "false")
    made = put_child(client, experiment, spec, child, parent.info.run_id, start_ms=start_ms, alone=alone)
    hide(client, (run for run in attempts if run is not child and run.info.status in ENDED))
    for run in parents:
        if run is not parent and is_open(run) and is_current(run):
            query = f"tags.`{PARENT}` = '{run.info.run_id}' and tags.`{SUPERSEDED}` = 'false'"
            if not search(client, experiment, query):
                hide(client, [run])
    return str(parent.info.run_id), str(made.info.run_id)


def find_child(runs: Iterable[Any], spec: RunSpec) -> Any | None:
    """The run of this training among runs, if there is one."""
    tags = {KEY: spec.key, FINGERPRINT: spec.fingerprint}
    same = [run for run in runs if all(run.data.tags.get(k) == v for k, v in tags.items())]
    return first([run for run in same if agrees(run, spec.child_params)])


def put_child(
    client: Any, experiment: str, spec: RunSpec, child: Any | None, parent: str, *, start_ms: int, alone: bool = True
) -> Any:
    """Make a child run current and put it below a parent; it is created if it is None. Arguments as ``open_runs``."""
    if child is None:
        child = create_child(client, experiment, spec, parent, start_ms=start_ms, alone=alone)
    log_new(client, child, params=spec.child_params, tags=child_tags(spec, parent))
    return child


def create_child(client: Any, experiment: str, spec: RunSpec, parent: str, *, start_ms: int, alone: bool = True) -> Any:
    """A new run of a training, without its parameters; arguments as ``open_runs``."""
    return _create(client, experiment, spec.key, child_tags(spec, parent), spec.child_params, start_ms, alone)


def child_tags(spec: RunSpec, parent: str) -> dict[str, str]:
    """Tags of a current run below a parent."""
    own = {FINGERPRINT: spec.fingerprint, KIND: TRAININGS, PARENT: parent, SUPERSEDED: "false"}
    return {**spec.tags, **own, **ANONYMOUS}


def create_parent(
    client: Any, experiment: str, spec: RunSpec, *, start_ms: int, alone: bool = True, closed: str | None = None
) -> Any:
    """A new parent for a training, without its other tags; arguments as ``open_runs``.

    It is open and current at once; or, if it gets scores, closed by the digest of their trainings, and out of sight
    until it has them.
    """
    tags = {KIND: MODELS, SUPERSEDED: "false"} if closed is None else {KIND: MODELS, SUPERSEDED: "true", CLOSED: closed}
    run = _create(client, experiment, spec.parent_key, tags, spec.parent_params, start_ms, alone)
    log_new(client, run, params=spec.parent_params, tags={**tags, **ANONYMOUS})
    return run


def _create(
    client: Any,
    experiment: str,
    key: str,
    tags: Mapping[str, str],
    params: Mapping[str, Value],
    start: int,
    alone: bool,
) -> Any:
    """A new run. Of several that processes on different machines create at once, all take the same.

    A server has no lock, so who comes first is settled by Lamport's bakery algorithm (Communications of the ACM 17(8),
    1974), which needs nothing but reading and writing: a run is created as one that draws a number; its number is one
    more than all that are there; once no other is drawing, the lowest number holds. However long each request takes,
    all processes agree, unless one of them hangs for ``DRAW_S`` while it draws.
    """
    every = {k: safe_text(v) for k, v in {**tags, **ANONYMOUS, KEY: key}.items()}
    if alone:
        return client.create_run(experiment, start_time=start, tags=every, run_name=key)
    made = client.create_run(experiment, start_time=start, tags={**every, NUMBER: DRAWING}, run_name=key)
    client.set_tag(made.info.run_id, NUMBER, str(_next_number(runs_of(client, experiment, key))))
    same = [run for run in drawn_runs(client, experiment, key) if _is_rival(run, made) and agrees(run, params)]
    chosen = first(same) or made
    if chosen.info.run_id != made.info.run_id:
        client.delete_run(made.info.run_id)
    return chosen


def drawn_runs(client: Any, experiment: str, key: str) -> list[Any]:
    """All runs with a key, once none of them draws its number; one whose process hangs or was killed is put last."""
    until = time.monotonic() + DRAW_S
    while True:
        found = runs_of(client, experiment, key)
        drawing = [run for run in found if _number(run) is None]
        if not drawing:
            return found
        if time.monotonic() > until:
            client.set_tag(drawing[0].info.run_id, NUMBER, str(_next_number(found)))
        else:
            time.sleep(LOOK_S)


def _number(run: Any) -> int | None:
    """The number that a run has drawn; 0 if it never had to, None if its process is drawing."""
    value = run.data.tags.get(NUMBER, "0")
    return None if value == DRAWING else int(value)


def _next_number(runs: Iterable[Any]) -> int:
    return 1 + max((_number(run) or 0 for run in runs), default=0)


def _is_rival(run: Any, made: Any) -> bool:
    """Whether a run is the one that was made, or was made for the same thing."""
    same = all(run.data.tags.get(name) == made.data.tags.get(name) for name in (KIND, FINGERPRINT))
    return same and CLOSED not in run.data.tags


def first(runs: Iterable[Any]) -> Any | None:
    """The run that everybody takes of several: the first that was created, a current one, the oldest."""

    def order(run: Any) -> tuple[Any, ...]:
        number = _number(run)
        return number is None, number or 0, not is_current(run), run.info.start_time, run.info.run_id

    return min(runs, key=order, default=None)


def agrees(run: Any, params: Mapping[str, Value]) -> bool:
    """Whether a run may be reused: MLflow allows new parameters, but no other value of a known one."""
    return all(run.data.params.get(k, safe_text(v)) == safe_text(v) for k, v in params.items())


def new_facts(run: Any, params: Mapping[str, Value], tags: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
    """MLflow's parameters that a run lacks, and tags that it lacks or has otherwise."""
    from mlflow.entities import Param, RunTag

    new_params = [Param(k, safe_text(v)) for k, v in params.items() if k not in run.data.params]
    return new_params, [RunTag(k, safe_text(v)) for k, v in tags.items() if run.data.tags.get(k) != safe_text(v)]


def log_new(client: Any, run: Any, *, params: Mapping[str, Value], tags: Mapping[str, str]) -> None:
    """Write the parameters that a run lacks and the tags that it lacks or has otherwise."""
    from mlflow.exceptions import MlflowException

    while True:
        new_params, new_tags = new_facts(run, params, tags)
        if not (new_params or new_tags):
            return
        try:
            client.log_batch(run.info.run_id, params=new_params, tags=new_tags, synchronous=True)
            return
        except MlflowException:
            # Of two processes that write a parameter at once, MLflow refuses one, though both write the same.
            known, run = len(run.data.params), client.get_run(run.info.run_id)
            if len(run.data.params) == known:
                raise


def hide(client: Any, runs: Iterable[Any]) -> None:
    """Mark runs as outdated, those that are not yet; the models of each before it. One that is gone needs no mark."""
    from mlflow.exceptions import MlflowException

    for run in runs:
        if run.data.tags.get(SUPERSEDED) != "true":
            for model in models_of(client, run.info.experiment_id, run.info.run_id):
                client.set_logged_model_tags(model.model_id, {SUPERSEDED: "true"})
            try:
                client.set_tag(run.info.run_id, SUPERSEDED, "true")
            except MlflowException:
                # Of runs that were created at once, all but one are deleted by those who created them.
                if client.get_run(run.info.run_id).info.lifecycle_stage != "deleted":
                    raise


def close_orphans(client: Any, experiment: str) -> int:
    """Set runs to KILLED whose process does not run any more; MLflow itself leaves them RUNNING.

    Call with the store's lock held. A parent is closed when none of its children runs.

    Returns:
        How many trainings were closed.
    """
    running = search(client, experiment, f"attributes.status = 'RUNNING' and tags.`{KEY}` != ''")
    children = [r for r in running if PARENT in r.data.tags]
    dead = [r for r in children if is_orphan(r.data.tags)]
    alive = {r.data.tags[PARENT] for r in children if r not in dead}
    parents = [r for r in running if r not in children and r.info.run_id not in alive]
    for run in [*dead, *parents]:
        client.set_terminated(run.info.run_id, "KILLED")
    return len(dead)


def close_run(client: Any, experiment: str, parent: str, child: str, status: str) -> None:
    """End a training's run, and its parent if no other child runs. Call with the store's lock held."""
    client.set_terminated(child, status)
    if not search(client, experiment, f"attributes.status = 'RUNNING' and tags.`{PARENT}` = '{parent}'"):
        client.set_terminated(parent, status)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)
