"""The replay of a study into MLflow: every run as the study has it now, and all others out of sight.

Whenever it is killed, no parent that is current shows scores that are not those of its own trainings: before anything
changes, all runs that do not stay as they are are marked as outdated; a parent becomes current last.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from medseg.files import digest_of, sha256_bytes, sha256_file
from medseg.owner import is_here, owner_tags
from medseg.progress import say
from medseg.results.key import fold_order
from medseg.results.paths import Results
from medseg.tracking import runs
from medseg.tracking.current import Study, StudyModel
from medseg.tracking.curves import Curves
from medseg.tracking.finished import Trained
from medseg.tracking.images import LOGGED_IMAGES, fixed_images
from medseg.tracking.logged import (
    case_table,
    length_unit,
    note_card,
    overlays_of,
    summary_metrics,
    summary_tolerances,
    training_metrics,
    training_tolerances,
)
from medseg.tracking.models import log_model
from medseg.tracking.names import TEST_PREFIX, display_tags
from medseg.tracking.sender import replay_turn
from medseg.tracking.spec import Value
from medseg.tracking.store import Store, open_store, store_lock
from medseg.tracking.synced import STATE_TAG
from medseg.tracking.values import log_values, named_values
from medseg.tracking.views import MODELS


class Replay:
    """Sends a study to its store.

    Attributes:
        trainings: how many have been sent.
    """

    def __init__(self, store: Store, results: Path, study: Study) -> None:
        self.trainings = 0
        self._store, self._results, self._study = store, results, study
        self._points = self._values = self._files = self._models = 0
        with store_lock(store.lock):
            self._client, self._experiment = open_store(store)
            runs.close_orphans(self._client, self._experiment)

    def run(self) -> str:
        """Send all; the summary line."""
        if self._stored_state() != self._study.digest():
            self._client.set_experiment_tag(self._experiment, STATE_TAG, "")
        known = runs.our_runs(self._client, self._experiment)
        models = [model for model in self._study.models if model.trained]
        parents = [self._known_parent(model, known) for model in models]
        runs.hide(self._client, self._outdated(models, parents, known))
        for model, parent in zip(models, parents, strict=True):
            self._model(model, parent, known)
        if self._stored_state() != self._study.digest():
            self._client.set_experiment_tag(self._experiment, STATE_TAG, self._study.digest())
        return (
            f"tracking: {self.trainings} trainings of {len(models)} models in experiment "
            f"'{self._store.experiment}' ({self._store.uri}); new: {self._points} curve points, "
            f"{self._values} results, {self._files} files, {self._models} models"
        )

    def _stored_state(self) -> str | None:
        found = self._client.get_experiment(self._experiment).tags.get(STATE_TAG)
        return None if found is None else str(found)

    def _known_parent(self, model: StudyModel, known: Sequence[Any]) -> Any | None:
        """The parent that a model of the study has, or may take; None if it needs a new one."""
        spec = model.trained[0].spec
        mine = [run for run in known if run.data.tags[runs.KEY] == spec.parent_key]
        if model.has_scores:
            closed = runs.first([run for run in mine if run.data.tags.get(runs.CLOSED) == model.fingerprint])
            if closed is not None:
                return closed
        own = {run.info.run_id for t in model.trained if (run := runs.find_child(known, t.spec)) is not None}

        def is_free(run: Any) -> bool:
            others = (c for c in runs.children_of(known, run.info.run_id) if c.info.run_id not in own)
            return runs.is_open(run) and runs.agrees(run, spec.parent_params) and not any(map(runs.has_scores, others))

        return runs.first([run for run in mine if is_free(run)])

    def _outdated(self, models: Sequence[StudyModel], parents: Sequence[Any | None], known: Sequence[Any]) -> list[Any]:
        """The runs that are not what the study is now, or will not be what they are."""
        finished, begun = set(), set()
        for model in self._study.models:
            finished |= self._finished(model, known)
            begun |= self._begun(model, known)
        stay = {run.info.run_id for run in known if runs.is_open(run) and _has_child_in(run, known, begun)}
        for model, parent in zip(models, parents, strict=True):
            if parent is not None:
                # One that gets scores, or others, is out of sight until it has them all.
                good = parent.data.tags.get(runs.SCORES) == _state(model) if model.has_scores else True
                stay = stay | {parent.info.run_id} if good else stay - {parent.info.run_id}
        outdated = [run for run in known if run.info.run_id not in finished | begun | stay]
        # A parent before its trainings, without which its scores would not be theirs.
        return sorted(outdated, key=lambda run: run.data.tags.get(runs.KIND) != MODELS)

    @staticmethod
    def _finished(model: StudyModel, known: Sequence[Any]) -> set[str]:
        """Runs of the finished trainings of a model."""
        found = (runs.find_child(known, trained.spec) for trained in model.trained)
        return {run.info.run_id for run in found if run is not None}

    @staticmethod
    def _begun(model: StudyModel, known: Sequence[Any]) -> set[str]:
        """Runs of unfinished trainings with the present plan: what is at work, and the last that was."""
        finished = {t.spec.key for t in model.trained}
        found: set[str] = set()
        for spec in model.wanted:
            mine = [run for run in known if run.data.tags[runs.KEY] == spec.key and run.info.status != "FINISHED"]
            mine = [run for run in mine if runs.agrees(run, spec.child_params)]
            if spec.key in finished:
                found |= {run.info.run_id for run in mine if _is_at_work_here(run)}
            else:
                found |= {run.info.run_id for run in mine if run.info.status == "RUNNING" or run is mine[0]}
        return found

    def _model(self, model: StudyModel, parent: Any | None, known: Sequence[Any]) -> None:
        """Bring the runs of one model up to date."""
        first = model.trained[0]
        starts = [min((p.time_ms for p in t.curve), default=runs.now_ms()) for t in model.trained]
        if parent is None:
            with store_lock(self._store.lock):
                parent = runs.create_parent(
                    self._client, self._experiment, first.spec, start_ms=min(starts), shown=not model.has_scores
                )
        run_id = parent.info.run_id
        if model.has_scores:
            # From here on, until it is shown, nothing else may take this parent for one without scores.
            runs.log_new(self._client, parent, params={}, tags={runs.CLOSED: model.fingerprint})
        ordered = zip(model.trained, starts, strict=True)
        children = [self._child(t, run_id, start, known, _is_pictured(t, model)) for t, start in ordered]
        self._parent(model, self._client.get_run(run_id), children)

    def _child(self, trained: Trained, parent: str, start_ms: int, known: Sequence[Any], pictured: bool) -> str:
        found = runs.find_child(known, trained.spec)
        with store_lock(self._store.lock):
            run = runs.put_child(self._client, self._experiment, trained.spec, found, parent, start_ms=start_ms)
        child = run.info.run_id
        run = self._client.get_run(child)
        turn = functools.partial(replay_turn, self._store, self._client, child)
        self._points += Curves(self._client, child).send(trained.curve, turn)
        values = {"time/train_s": trained.seconds}
        tags = {"medseg.plan": _plan_digest(trained), "medseg.dataset_digest": self._digest(trained)}
        scores = self._study.scores.get(trained.spec.key)
        if scores is not None:
            values |= training_metrics(scores)
            tags |= {**length_unit(scores["unit"]), **training_tolerances(scores)}
            images = fixed_images(self._results, trained.spec, scores["case"], run.info.start_time) if pictured else {}
            self._put(run, {"evaluate/cases.csv": case_table(scores), **images})
            tags |= LOGGED_IMAGES if images else {}
        names = None if scores is None else named_values(values)
        model, made = log_model(self._client, self._experiment, run, trained, names)
        self._models += made
        shown = display_tags([*trained.renamed, *values])
        late = {**_late_params(trained), **_tuned_params(trained)}
        runs.log_new(self._client, run, params=late, tags={**tags, **shown})
        self._values += log_values(self._client, run, values, withdraw=scores is not None, model=model)
        self._log_dataset(run, trained)
        # A process that trains the same in another folder ends its run itself.
        if run.info.status != "FINISHED" and not _is_at_work_here(run):
            end = max((p.time_ms for p in trained.curve), default=runs.now_ms())
            self._client.set_terminated(child, "FINISHED", end)
        self.trainings += 1
        return str(child)

    def _parent(self, model: StudyModel, run: Any, children: Sequence[str]) -> None:
        members, first, run_id = list(model.trained), model.trained[0], run.info.run_id
        tags = {
            **first.spec.tags,
            "medseg.plan": _plan_digest(first),
            "medseg.dataset_digest": self._digest(first),
            "medseg.folds": " ".join(str(f) for f in sorted({t.spec.fold for t in members}, key=fold_order)),
            "medseg.seeds": " ".join(str(s) for s in sorted({t.spec.seed for t in members})),
            "mlflow.note.content": note_card(first.spec, model.rows, members),
            **length_unit(row["unit"] for row in model.rows),
            **summary_tolerances(model.rows),
        }
        del tags["medseg.weights_sha256"]  # one per child
        if model.has_scores:
            self._link_models(run, children)
            values = {**summary_metrics(model.rows), **summary_metrics(model.test_rows, TEST_PREFIX)}
            values |= {"time/train_s": sum(t.seconds for t in members) / len(members)}
            tags |= display_tags(values)
            self._values += log_values(self._client, run, values, withdraw=True)
            # Those on all cases have none.
            scored = [self._study.scores[t.spec.key] for t in members if t.spec.key in self._study.scores]
            cases = [case for scores in scored for case in scores["case"]]
            images = fixed_images(self._results, first.spec, cases, run.info.start_time)
            self._put(run, {**self._pages(first, cases), **images})
            tags |= LOGGED_IMAGES if images else {}
        else:
            say(f"tracking: {first.spec.parent_key}: no scores of the model, since {model.reason}")
        self._log_dataset(run, first)
        shown = {runs.SUPERSEDED: "false", **({runs.SCORES: _state(model)} if model.has_scores else {})}
        runs.log_new(self._client, run, params=_late_params(first), tags={**tags, **shown})
        query = f"attributes.status = 'RUNNING' and tags.`{runs.PARENT}` = '{run_id}'"
        if run.info.status != "FINISHED" and not runs.search(self._client, self._experiment, query):
            ends = [self._client.get_run(child).info.end_time for child in children]
            self._client.set_terminated(run_id, "FINISHED", max(end for end in ends if end is not None))

    def _pages(self, trained: Trained, cases: Iterable[str]) -> dict[str, bytes]:
        """The report, and its pictures of a model's predictions."""
        page = Results(self._results).report.page
        files = {"report/index.html": page.read_bytes()} if page.is_file() else {}
        pictures = overlays_of(self._results, trained.spec, cases)
        return {**files, **{place: path.read_bytes() for place, path in pictures.items()}}

    def _link_models(self, parent: Any, children: Iterable[str]) -> None:
        """Link the models of all folds to the parent run, since the UI lists runs without a model elsewhere."""
        from mlflow.entities import LoggedModelOutput

        known = {output.model_id for output in parent.outputs.model_outputs}
        found = [output.model_id for c in children for output in self._client.get_run(c).outputs.model_outputs]
        new = [LoggedModelOutput(model, 0) for model in found if model not in known]
        if new:
            self._client.log_outputs(parent.info.run_id, new)

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
                self._client.log_artifact(run.info.run_id, str(path), folder)
        self._client.set_tag(run.info.run_id, "medseg.files", digest)
        self._files += len(files)

    def _digest(self, trained: Trained) -> str:
        """Digest of the manifest, which holds those of all files; MLflow takes at most 36 characters."""
        manifest = Results(self._results).ingest(trained.spec.dataset).manifest
        return sha256_file(manifest)[:32] if manifest.is_file() else "unknown"

    def _log_dataset(self, run: Any, trained: Trained) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest = trained.spec.dataset, self._digest(trained)
        if any((i.dataset.name, i.dataset.digest) == (name, digest) for i in run.inputs.dataset_inputs):
            return
        data = Dataset(name, digest, source_type="medseg", source=name)
        self._client.log_inputs(run.info.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])


def _state(model: StudyModel) -> str:
    """Digest of what a parent's scores are made from."""
    return digest_of([model.dataset, model.model, model.fingerprint, model.scored])


def _is_at_work_here(run: Any) -> bool:
    """Whether another process of this machine trains for a run; those that ended were closed before."""
    tags, own = run.data.tags, owner_tags()
    ours = all(tags.get(name) == value for name, value in own.items())
    return run.info.status == "RUNNING" and is_here(tags) and not ours


def _has_child_in(parent: Any, known: Sequence[Any], wanted: Set[str]) -> bool:
    return any(child.info.run_id in wanted for child in runs.children_of(known, parent.info.run_id))


def _plan_digest(trained: Trained) -> str:
    return digest_of(trained.facts["plan"])[:16]


def _is_pictured(trained: Trained, model: StudyModel) -> bool:
    """Whether the report's pictures of a fold are of this training: of several seeds it shows the first."""
    return trained.spec.seed == min(t.spec.seed for t in model.trained if t.spec.fold == trained.spec.fold)


def _late_params(trained: Trained) -> dict[str, Value]:
    """Parameters that are known only after the network was built, so they do not identify a run."""
    return {"parameters": int(trained.facts["parameters"])} if "parameters" in trained.facts else {}


def _tuned_params(trained: Trained) -> dict[str, Value]:
    """How objects are read off the network's maps, tuned after this very training: ``decoding.seed``."""
    return {f"decoding.{name}": float(value) for name, value in trained.facts.get("decoding", {}).items()}
