"""The replay of a study into MLflow: every run as the study has it now, and all others out of sight.

Whenever it is killed, no parent that is current shows scores that are not those of its own trainings: before anything
changes, all runs that do not stay as they are are marked as outdated; a parent becomes current last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from medseg.tracking import runs
from medseg.tracking.current import Study, StudyModel
from medseg.tracking.finished import Trained
from medseg.tracking.listed import children_of, models_of_all, our_runs
from medseg.tracking.names import PREFIX
from medseg.tracking.runs import Known
from medseg.tracking.sending import Sending, Sent, is_at_work_here, state
from medseg.tracking.store import Store, open_store, store_lock
from medseg.tracking.synced import STATE_TAG
from medseg.tracking.views import MODELS
from medseg.tracking.workers import Map, workers


class Replay:
    """Sends a study to its store.

    Attributes:
        sent: keys of the trainings that have been sent, and of which the store shows what was sent.
    """

    def __init__(self, store: Store, results: Path, study: Study) -> None:
        self.sent: list[str] = []
        self._store, self._study = store, study
        with store_lock(store.lock):
            self._client, self._experiment = open_store(store)
            runs.close_orphans(self._client, self._experiment)
        self._sending = Sending(self._client, self._experiment, store, results, study)

    def run(self) -> str:
        """Send all; the summary line."""
        if self._stored_state() != self._study.digest():
            self._client.set_experiment_tag(self._experiment, STATE_TAG, "")
        known = Known(our_runs(self._client, self._experiment))
        models = [model for model in self._study.models if model.trained]
        parents = [self._known_parent(model, known) for model in models]
        runs.hide(self._client, self._outdated(models, parents, known))
        files = self._sending.report(any(model.rows for model in models))
        # Models beside one another, and of each its trainings: those who wait for the others' end are other threads.
        with workers(self._store) as each_model, workers(self._store) as each_training:

            def send(job: tuple[StudyModel, Any | None]) -> Counter[str]:
                model, parent = job
                return self._model(model, parent, known, each_training)

            new = each_model(send, zip(models, parents, strict=True))
        if self._stored_state() != self._study.digest():
            self._client.set_experiment_tag(self._experiment, STATE_TAG, self._study.digest())
        total = sum(new, Counter(files=files))
        return (
            f"tracking: {len(self.sent)} trainings of {len(models)} models in experiment "
            f"'{self._store.experiment}' ({self._store.uri}); new: {total['points']} curve points, "
            f"{total['values']} results, {total['files']} files, {total['models']} models"
        )

    def _stored_state(self) -> str | None:
        found = self._client.get_experiment(self._experiment).tags.get(STATE_TAG)
        return None if found is None else str(found)

    def _known_parent(self, model: StudyModel, known: Known) -> Any | None:
        """The parent that a model of the study has, or may take; None if it needs a new one."""
        spec = model.trained[0].spec
        mine = known.of(spec.parent_key)
        if model.has_scores:
            closed = runs.first([run for run in mine if run.data.tags.get(runs.CLOSED) == model.fingerprint])
            if closed is not None:
                return closed
        own = {run.info.run_id for t in model.trained if (run := known.child(t.spec)) is not None}

        def is_free(run: Any) -> bool:
            others = (c for c in known.below(run.info.run_id) if c.info.run_id not in own)
            return runs.is_open(run) and runs.agrees(run, spec.parent_params) and not any(map(_has_scores, others))

        return runs.first([run for run in mine if is_free(run)])

    def _outdated(self, models: Sequence[StudyModel], parents: Sequence[Any | None], known: Known) -> list[Any]:
        """The runs that are not what the study is now, or will not be what they are."""
        finished, begun = set(), set()
        for model in self._study.models:
            finished |= self._finished(model, known)
            begun |= self._begun(model, known)
        stay = {run.info.run_id for run in known.all if runs.is_open(run) and _has_child_in(run, known, begun)}
        for model, parent in zip(models, parents, strict=True):
            if parent is not None:
                # One that gets scores, or others, is out of sight until it has them all.
                good = parent.data.tags.get(runs.SCORES) == state(model) if model.has_scores else True
                stay = stay | {parent.info.run_id} if good else stay - {parent.info.run_id}
        outdated = [run for run in known.all if run.info.run_id not in finished | begun | stay]
        # A parent before its trainings, without which its scores would not be theirs.
        return sorted(outdated, key=lambda run: run.data.tags.get(runs.KIND) != MODELS)

    @staticmethod
    def _finished(model: StudyModel, known: Known) -> set[str]:
        """Runs of the finished trainings of a model."""
        found = (known.child(trained.spec) for trained in model.trained)
        return {run.info.run_id for run in found if run is not None}

    @staticmethod
    def _begun(model: StudyModel, known: Known) -> set[str]:
        """Runs of unfinished trainings with the present plan: what is at work, and the last that was."""
        finished = {t.spec.key for t in model.trained}
        found: set[str] = set()
        for spec in model.wanted:
            mine = [run for run in known.of(spec.key) if run.info.status != "FINISHED"]
            mine = [run for run in mine if runs.agrees(run, spec.child_params)]
            if spec.key in finished:
                found |= {run.info.run_id for run in mine if is_at_work_here(run)}
            else:
                found |= {run.info.run_id for run in mine if run.info.status == "RUNNING" or run is mine[0]}
        return found

    def _model(self, model: StudyModel, parent: Any | None, known: Known, each_training: Map) -> Counter[str]:
        """Bring the runs of one model up to date; how much was sent."""
        first = model.trained[0]
        starts = {t.spec.key: min((p.time_ms for p in t.curve), default=runs.now_ms()) for t in model.trained}
        closed = model.fingerprint if model.has_scores else None
        if parent is None:
            with store_lock(self._store.lock):
                start = min(starts.values())
                parent = runs.create_parent(self._client, self._experiment, first.spec, start_ms=start, closed=closed)
        elif closed is not None:
            # From here on, until it is shown, nothing else may take this parent for one without scores.
            runs.log_new(self._client, parent, params={}, tags={runs.CLOSED: closed})
        run_id = parent.info.run_id
        there = [run.info.run_id for t in model.trained if (run := known.child(t.spec)) is not None]
        stored = models_of_all(self._client, self._experiment, there)

        def send(trained: Trained) -> Sent:
            run = known.child(trained.spec)
            models = [] if run is None else stored[run.info.run_id]
            return self._sending.child(
                trained, run, run_id, starts[trained.spec.key], models, _is_pictured(trained, model)
            )

        sent = each_training(send, model.trained)
        below = {run.info.run_id: run for run in children_of(self._client, self._experiment, run_id)}
        self._sending.check(sent, below)
        self.sent += [trained.spec.key for trained in model.trained]
        new = self._sending.parent(model, run_id, sent, below)
        return sum((one.new for one in sent), new)


def _has_child_in(parent: Any, known: Known, wanted: Set[str]) -> bool:
    return any(child.info.run_id in wanted for child in known.below(parent.info.run_id))


def _is_pictured(trained: Trained, model: StudyModel) -> bool:
    """Whether the report's pictures of a fold are of this training: of several seeds it shows the first."""
    return trained.spec.seed == min(t.spec.seed for t in model.trained if t.spec.fold == trained.spec.fold)


def _has_scores(run: Any) -> bool:
    """Whether scores were logged for a run."""
    return any(name.startswith(f"{PREFIX}/") for name in run.data.metrics)
