"""Sends the results of an experiment to MLflow: complete, repeatable, and nothing twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError, TrackingError
from medseg.files import digest_of, sha256_bytes, sha256_file, writer_lock
from medseg.results.folders import ModelFolder
from medseg.results.paths import Results
from medseg.tracking.curves import Curves, JournalReader
from medseg.tracking.finished import Trained, find_trained
from medseg.tracking.logged import (
    case_table,
    length_unit,
    note_card,
    overlays_of,
    summary_metrics,
    summary_of,
    summary_tolerances,
    training_metrics,
    training_scores,
    training_tolerances,
)
from medseg.tracking.models import log_model
from medseg.tracking.names import display_tags, metric_name
from medseg.tracking.runs import close_orphans, log_new, now_ms, open_runs, supersede_others
from medseg.tracking.store import (
    Store,
    load_mlflow,
    one_line,
    open_store,
    read_store,
    store_errors,
    store_lock,
)


def sync(results: Path) -> str:
    """Send everything under ``results/<experiment>`` that the store lacks; returns a summary line.

    Raises:
        TrackingError: if the store cannot be reached, or ``results`` has none.
        DataError: if a result is damaged.
        BusyError: if another process is doing the same.
    """
    store = read_store(Results(results).tracking.store)
    load_mlflow()
    try:
        with writer_lock(store.folder):
            return _Replay(store, results).run()
    except store_errors() as error:
        raise TrackingError(
            f"{store.uri}: {one_line(error)}\nAll results are complete on disk; when it can be reached, "
            f"`medseg track sync {results}` sends what is missing and can be repeated at any time"
        ) from error


class _Replay:
    def __init__(self, store: Store, results: Path) -> None:
        self.store = store
        self.results = results
        self.points = self.values = self.files = self.models = 0
        with store_lock(store.lock):
            self.client, self.experiment = open_store(store)
            close_orphans(self.client, self.experiment)

    def run(self) -> str:
        """Send all; the summary line."""
        by_parent: dict[str, dict[str, Trained]] = {}
        current: dict[str, set[str]] = {}
        trainings = find_trained(self.results)
        for trained in trainings:
            parent, child = self._child(trained)
            by_parent.setdefault(parent, {})[child] = trained
            current.setdefault(trained.spec.parent_key, set()).add(parent)
            current.setdefault(trained.spec.key, set()).add(child)
        for parent, members in by_parent.items():
            self._parent(parent, members)
        for key, kept in current.items():
            supersede_others(self.client, self.experiment, key, kept)
        return (
            f"tracking: {len(trainings)} trainings of {len(by_parent)} models in experiment "
            f"'{self.store.experiment}' ({self.store.uri}); new: {self.points} curve points, "
            f"{self.values} results, {self.files} files, {self.models} models"
        )

    def _child(self, trained: Trained) -> tuple[str, str]:
        reader = JournalReader(ModelFolder(trained.folder).history)
        curve = reader.read()
        if reader.damaged:
            raise DataError(f"{reader.path}: {reader.damaged} damaged lines; run `medseg train` again")
        times = [p.time_ms for p in curve] or [now_ms()]
        with store_lock(self.store.lock):
            parent, child = open_runs(self.client, self.experiment, trained.spec, start_ms=min(times))
        run = self.client.get_run(child)
        self.points += Curves(self.client, child).send(curve)
        model, made = log_model(self.client, self.experiment, run, trained)
        self.models += made
        values = {"time/train_s": trained.seconds}
        tags = {
            "medseg.plan": digest_of(trained.facts["plan"])[:16],
            "medseg.dataset_digest": self._digest(trained),
        }
        if trained.scores.is_file():
            scores = training_scores(trained.scores)
            values |= training_metrics(scores)
            tags |= {**length_unit(scores["unit"]), **training_tolerances(scores)}
            self._put(run, {"evaluate/cases.csv": case_table(scores)})
        log_new(
            self.client,
            run,
            params=_late_params(trained),
            tags={**tags, **display_tags([*reader.renamed, *values])},
        )
        self._log_values(run, values, model)
        self._log_dataset(run, trained)
        if run.info.status != "FINISHED":
            self.client.set_terminated(child, "FINISHED", max(times))
        return parent, child

    def _parent(self, parent: str, children: Mapping[str, Trained]) -> None:
        run = self.client.get_run(parent)
        self._link_models(run, children)
        members = list(children.values())
        first = members[0]
        rows = summary_of(self.results, first.spec.dataset, first.spec.model)
        values = {**summary_metrics(rows), "time/train_s": sum(t.seconds for t in members) / len(members)}
        tags = {
            **first.spec.tags,
            "medseg.plan": digest_of(first.facts["plan"])[:16],
            "medseg.dataset_digest": self._digest(first),
            "medseg.folds": " ".join(str(f) for f in sorted({t.spec.fold for t in members})),
            "medseg.seeds": " ".join(str(s) for s in sorted({t.spec.seed for t in members})),
            "mlflow.note.content": note_card(first.spec, rows, members),
            **length_unit(row["unit"] for row in rows),
            **summary_tolerances(rows),
            **display_tags(values),
        }
        del tags["medseg.weights_sha256"]  # one per child
        log_new(self.client, run, params=_late_params(first), tags=tags)
        self._log_values(run, values, None)
        self._log_dataset(run, first)
        page = Results(self.results).report.page
        cases = [c for t in members if t.scores.is_file() for c in training_scores(t.scores)["case"]]
        pictures = overlays_of(self.results, first.spec, cases)
        files = {"report/index.html": page.read_bytes()} if page.is_file() else {}
        self._put(run, {**files, **{f"overlays/{p.name}": p.read_bytes() for p in pictures}})
        query = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{parent}'"
        if run.info.status != "FINISHED" and not self.client.search_runs([self.experiment], query):
            ends = [self.client.get_run(child).info.end_time for child in children]
            self.client.set_terminated(parent, "FINISHED", max(ends))

    def _log_values(self, run: Any, values: Mapping[str, float], model: str | None) -> None:
        """Log results that changed; one that was measured again gets a later time, which is what the UI shows."""
        from mlflow.entities import Metric

        known = run.data.metrics
        named = {metric_name(name): value for name, value in values.items()}
        new = [Metric(k, v, now_ms(), 0, model_id=model) for k, v in named.items() if known.get(k) != v]
        if new:
            self.client.log_batch(run.info.run_id, metrics=new, synchronous=True)
        self.values += len(new)

    def _link_models(self, parent: Any, children: Iterable[str]) -> None:
        """Link the models of all folds to the parent run, since the UI lists runs without a model elsewhere."""
        from mlflow.entities import LoggedModelOutput

        known = {output.model_id for output in parent.outputs.model_outputs}
        found = [output.model_id for c in children for output in self.client.get_run(c).outputs.model_outputs]
        new = [LoggedModelOutput(model, 0) for model in found if model not in known]
        if new:
            self.client.log_outputs(parent.info.run_id, new)

    def _put(self, run: Any, files: Mapping[str, bytes]) -> None:
        """Upload files unless the run has them; a tag holds their digest and is set after the last upload."""
        digest = digest_of({name: sha256_bytes(data) for name, data in files.items()})[:16]
        if not files or run.data.tags.get("medseg.files") == digest:
            return
        for artifact, data in files.items():
            folder, _, name = artifact.rpartition("/")
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary) / name
                path.write_bytes(data)
                self.client.log_artifact(run.info.run_id, str(path), folder)
        self.client.set_tag(run.info.run_id, "medseg.files", digest)
        self.files += len(files)

    def _digest(self, trained: Trained) -> str:
        """Digest of the manifest, which holds those of all files; MLflow takes at most 36 characters."""
        manifest = Results(self.results).ingest(trained.spec.dataset).manifest
        return sha256_file(manifest)[:32] if manifest.is_file() else "unknown"

    def _log_dataset(self, run: Any, trained: Trained) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest = trained.spec.dataset, self._digest(trained)
        if any((i.dataset.name, i.dataset.digest) == (name, digest) for i in run.inputs.dataset_inputs):
            return
        data = Dataset(name, digest, source_type="medseg", source=name)
        self.client.log_inputs(run.info.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])


def _late_params(trained: Trained) -> dict[str, int]:
    """Parameters that are known only after the network was built, so they do not identify a run."""
    return {"parameters": int(trained.facts["parameters"])} if "parameters" in trained.facts else {}
