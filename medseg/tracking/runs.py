"""Runs in MLflow: one parent per data set and model, one child per fold and seed, found by tags."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import TrackingError
from medseg.files import canonical_json, digest_of, read_json
from medseg.plan.plan import flat_values
from medseg.results.folders import IngestFolder
from medseg.tracking.views import MODELS, TRAININGS

Value = str | int | float

# Names of parameters that differ from those of the plan's fields, and fields that are none: numbers of the data alone.
PARAMETER_NAMES = {"name": "network"}
NO_PARAMETERS = {"statistics"}
# Fields that are one number per axis.
CROSSED = {"spacing", "patch"}
# MLflow writes the login name and the script's path here if nobody else does.
ANONYMOUS = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'=:,(\[])(?:~|file:/*)?(?:/[^/\s"',)\]]+){2,}|(?:^|\W)[A-Za-z]:\\""")
HIDDEN = "(path hidden)"
LONGEST_SEGMENT = 64


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a training is, for tracking.

    Attributes:
        dataset, model, fold, seed: which.
        fingerprint: digest of all that its weights depend on; another one is another run.
        params: flat and comparable; those of the parent run, without fold and seed.
        tags: more facts, e.g. versions.
    """

    dataset: str
    model: str
    fold: int
    seed: int
    fingerprint: str
    params: Mapping[str, Value]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def parent_key(self) -> str:
        """Name of the parent run."""
        return f"{self.dataset}/{self.model}"

    @property
    def key(self) -> str:
        """Name of the run itself."""
        return f"{self.parent_key} fold{self.fold} seed{self.seed}"

    @property
    def parent_params(self) -> dict[str, Value]:
        """Parameters of the parent run."""
        own = {"fold", "seed"}
        return {
            "dataset": self.dataset,
            "model": self.model,
            **{k: v for k, v in self.params.items() if k not in own},
        }

    @property
    def child_params(self) -> dict[str, Value]:
        """Parameters of the run itself."""
        return {**self.parent_params, "fold": self.fold, "seed": self.seed}


def training_spec(manifest: Path, plan: Path, fold: int, seed: int, fingerprint: str) -> RunSpec:
    """The spec of a training from the files that it reads.

    Args:
        manifest: ``manifest.tsv`` (its ``dataset.json`` is read).
        plan: plan of the model.
        fold, seed: which training.
        fingerprint: digest of all that its weights depend on.
    """
    facts = read_json(plan)
    dataset = read_json(IngestFolder(manifest.parent).dataset)["dataset"]
    return RunSpec(dataset, facts["model"], fold, seed, fingerprint, plan_params(facts))


def plan_params(plan: Mapping[str, Any]) -> dict[str, Value]:
    """All decisions of a plan, flat and comparable by their fields' names: ``patch`` is ``40 x 56 x 40``."""
    fields = {key.split(".")[1]: value for key, value in flat_values(plan).items()}
    return {
        PARAMETER_NAMES.get(name, name): _text(value, " x " if name in CROSSED else ", ")
        for name, value in fields.items()
        if name not in NO_PARAMETERS
    }


def _text(value: Any, separator: str) -> Value:
    if value is None or value in ([], ()):
        return "-"
    if isinstance(value, list | tuple):
        if any(isinstance(v, list | tuple) for v in value):
            return separator.join(str(_text(v, "x")) for v in value)
        return separator.join(str(v) for v in value)
    if isinstance(value, Mapping):
        return canonical_json(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str | int | float) else str(value)


def safe_text(value: object) -> str:
    """Text of a parameter or tag; a path of this machine is hidden, since stores are shared."""
    text = str(value)
    return HIDDEN if ABSOLUTE_PATH.search(text) else text


def metric_name(name: str) -> str:
    """A name that MLflow takes on every platform: in ``val/dice/<label>``, odd characters are replaced.

    A digest of four digits keeps names apart that would otherwise fall together.
    """
    return "/".join(_segment(part) for part in name.split("/"))


def _segment(part: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.\- ]", "_", part).strip()
    if clean == part and clean.strip(".") and len(clean) <= LONGEST_SEGMENT:
        return part
    return f"{clean.strip('.')[: LONGEST_SEGMENT - 5]}-{hashlib.sha256(part.encode()).hexdigest()[:4]}"


def display_tags(names: Iterable[str]) -> dict[str, str]:
    """Tags that keep the real name of every metric whose name had to change."""
    return {f"medseg.name.{metric_name(n)}": n for n in names if metric_name(n) != n}


def open_runs(
    client: Any, experiment: str, spec: RunSpec, *, start_ms: int, owner: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Find or make the parent and the child run of a training. Call with the store's lock held.

    Args:
        client: of the store.
        experiment: id.
        spec: the training.
        start_ms: start of runs that have to be made, unix ms.
        owner: tags of the process that trains; both runs are then marked RUNNING.

    Returns:
        Ids of parent and child.
    """
    parent = _find_or_make(
        client, experiment, spec.parent_key, None, spec.parent_params, {"medseg.kind": MODELS}, start_ms
    )
    tags = {**spec.tags, "medseg.kind": TRAININGS, "mlflow.parentRunId": parent, **(owner or {})}
    child = _find_or_make(client, experiment, spec.key, spec.fingerprint, spec.child_params, tags, start_ms)
    if owner is not None:
        for run in (parent, child):
            client.update_run(run, status="RUNNING")
    return parent, child


def _find_or_make(
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
    """Whether a run may be continued: MLflow lets no parameter change, but another one may come."""
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


def owner_tags() -> dict[str, str]:
    """Who trains: enough to see later, on this machine, whether that process still lives; no host name."""
    pid = os.getpid()
    return {
        "medseg.pid": str(pid),
        "medseg.host": _host(),
        "medseg.born": _born(pid) or "",
        "medseg.boot": _boot(),
    }


def _host() -> str:
    """Digest of machine and process name space: process ids mean something only within these."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return digest_of([socket.gethostname(), space])[:12]


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return digest_of(path.read_text())[:12] if path.is_file() else ""


def _born(pid: int) -> str | None:
    """Start of a living process in ticks since boot (ids are given anew); None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else fields[19]


def _is_orphan(tags: Mapping[str, str]) -> bool:
    if tags.get("medseg.host") != _host():
        return False
    if tags.get("medseg.boot") != _boot():
        return True
    return Path("/proc").is_dir() and _born(int(tags["medseg.pid"])) != tags.get("medseg.born")


def close_orphans(client: Any, experiment: str) -> int:
    """End runs, as KILLED, whose process is gone; MLflow itself leaves them RUNNING for ever.

    Call with the store's lock held. A parent is closed when none of its children runs.

    Returns:
        How many trainings were closed.
    """
    running = list(client.search_runs([experiment], "attributes.status = 'RUNNING' and tags.`medseg.key` != ''"))
    children = [r for r in running if "mlflow.parentRunId" in r.data.tags]
    dead = [r for r in children if _is_orphan(r.data.tags)]
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
    """The run with an id, or ``TrackingError``."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"no run {run_id} in the tracking store") from error
