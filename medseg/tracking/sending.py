"""What is sent of one training and of one parent: files first, then one request with all that is new of a run."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.files import digest_of, sha256_bytes, sha256_file
from medseg.owner import is_here, owner_tags
from medseg.progress import say
from medseg.results.key import fold_order
from medseg.results.paths import Results
from medseg.tracking import pages, runs
from medseg.tracking.current import Study, StudyModel
from medseg.tracking.curves import COMPLETE, Beside, Curves, Turn, points_digest
from medseg.tracking.finished import MEMBERS, Trained
from medseg.tracking.images import LOGGED_IMAGES, fixed_images
from medseg.tracking.listed import models_of_all
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
from medseg.tracking.store import Store, store_lock
from medseg.tracking.uploads import upload
from medseg.tracking.values import Wanted, check_model, check_run, log_values, named_values, wanted_values


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent of a training.

    Attributes:
        run: its id.
        model: id of its stored model; empty: it has none.
        wanted: the results that its run and its model are to show.
        new: how much of each kind was sent.
    """

    run: str
    model: str
    wanted: Wanted
    new: Counter[str]


class Sending:
    """Sends trainings and parents of a study."""

    def __init__(self, client: Any, experiment: str, store: Store, results: Path, study: Study) -> None:
        self._client, self._experiment, self._store = client, experiment, store
        self._results, self._study = results, study
        self._report = ""

    def child(
        self, trained: Trained, known: Any | None, parent: str, start_ms: int, stored: Iterable[Any], pictured: bool
    ) -> Sent:
        """Send what the store lacks of a training: its run and stored models, as they were listed."""
        run, spec = known, trained.spec
        if run is None:
            with store_lock(self._store.lock):
                run = runs.create_child(self._client, self._experiment, spec, parent, start_ms=start_ms)
        child = run.info.run_id
        values = {} if trained.seconds is None else {"time/train_s": trained.seconds}
        tags = {"medseg.plan": _plan_digest(trained), "medseg.dataset_digest": self._digest(trained)}
        files = {"ensemble.json": trained.members} if trained.members else {}
        scores = self._study.scores.of(spec.key)
        if scores is not None:
            values |= training_metrics(scores)
            tags |= {**length_unit(scores["unit"]), **training_tolerances(scores)}
            images = fixed_images(self._results, spec, scores["case"], run.info.start_time) if pictured else {}
            files |= {"evaluate/cases.csv": case_table(scores), **images}
            tags |= LOGGED_IMAGES if images else {}
        uploaded, put = self._put(run, files)
        names = None if scores is None else named_values(values)
        model, made = None, False
        # An ensemble has no weights of its own; its members' lie with their runs.
        if not trained.members:
            model, made = log_model(self._client, self._store, run, trained, names, stored)
        wanted = wanted_values(run, values, withdraw=scores is not None, model=model)
        tags |= {**runs.child_tags(spec, parent), **display_tags([*trained.renamed, *values]), **put}
        params = {**spec.child_params, **_late_params(trained), **_tuned_params(trained)}
        points = self._send(run, trained, wanted.new, params, tags, is_new=known is None)
        self._log_dataset(run, trained)
        # A process that trains the same in another folder ends its run itself.
        if run.info.status != "FINISHED" and not is_at_work_here(run):
            end = max((p.time_ms for p in trained.curve), default=runs.now_ms())
            self._client.set_terminated(child, "FINISHED", end)
        new = Counter(points=points, values=len(wanted.new), files=uploaded, models=int(made))
        return Sent(child, "" if model is None else model.model_id, wanted, new)

    def _send(
        self,
        run: Any,
        trained: Trained,
        metrics: Sequence[Any],
        params: Mapping[str, Value],
        tags: Mapping[str, str],
        *,
        is_new: bool,
    ) -> int:
        """Send the points that a run lacks, with its other metrics, parameters and tags; how many points."""
        from mlflow.exceptions import MlflowException

        run_id, client = run.info.run_id, self._client
        whole = {COMPLETE: points_digest(trained.curve)}
        points = () if run.data.tags.get(COMPLETE) == whole[COMPLETE] else trained.curve
        if is_new and self._store.database is None:
            turn: Turn = functools.partial(contextlib.nullcontext, run)
        else:
            turn = functools.partial(replay_turn, self._store, client, run_id)
        curves = Curves(client, run_id)
        while True:
            new_params, new_tags = runs.new_facts(run, params, {**tags, **whole})
            try:
                return curves.send(points, turn, beside=Beside(new_params, new_tags, metrics))
            except MlflowException:
                # Of two processes that write a parameter at once, MLflow refuses one, though both write the same.
                known, run = len(run.data.params), client.get_run(run_id)
                if len(run.data.params) == known:
                    raise

    def check(self, sent: Sequence[Sent], below: Mapping[str, Any]) -> None:
        """Raise ``StoreError`` if the store shows other results of trainings than were sent."""
        late = [one for one in sent if one.wanted.new]
        stored = models_of_all(self._client, self._experiment, [one.run for one in late])
        for one in late:
            check_run(below[one.run], one.wanted)
            for model in stored[one.run]:
                if model.model_id == one.model:
                    check_model(model, one.wanted)

    def parent(self, model: StudyModel, run_id: str, sent: Sequence[Sent], below: Mapping[str, Any]) -> Counter[str]:
        """Bring the parent of trainings up to date, and show it last; how much was sent."""
        run, new = self._client.get_run(run_id), Counter[str]()
        members, first = list(model.trained), model.trained[0]
        tags = {
            **first.spec.tags,
            **runs.ANONYMOUS,
            "medseg.plan": _plan_digest(first),
            "medseg.dataset_digest": self._digest(first),
            "medseg.folds": " ".join(str(f) for f in sorted({t.spec.fold for t in members}, key=fold_order)),
            "medseg.seeds": " ".join(str(s) for s in sorted({t.spec.seed for t in members})),
            "mlflow.note.content": note_card(first.spec, model.rows, members, self._link(model)),
            **length_unit(row["unit"] for row in model.rows),
            **summary_tolerances(model.rows),
        }
        for name in ("medseg.weights_sha256", MEMBERS):  # one per child
            tags.pop(name, None)
        if self._link(model) or pages.LINK in run.data.tags:
            tags[pages.LINK] = self._report if self._link(model) else "none"
        if model.has_scores:
            self._link_models(run, [one.model for one in sent if one.model])
            values = {**summary_metrics(model.rows), **summary_metrics(model.test_rows, TEST_PREFIX)}
            seconds = [t.seconds for t in members if t.seconds is not None]
            values |= {"time/train_s": sum(seconds) / len(seconds)} if seconds else {}
            tags |= display_tags(values)
            new["values"] = log_values(self._client, run, values, withdraw=True)
            # Those on all cases have none.
            cases = [case for t in members for case in self._study.scores.cases(t.spec.key)]
            images = fixed_images(self._results, first.spec, cases, run.info.start_time)
            pictures = {
                place: path.read_bytes() for place, path in overlays_of(self._results, first.spec, cases).items()
            }
            new["files"], put = self._put(run, {**pictures, **images})
            tags |= {**(LOGGED_IMAGES if images else {}), **put}
        else:
            say(f"tracking: {first.spec.parent_key}: no scores of the model, since {model.reason}")
        self._log_dataset(run, first)
        params = {**first.spec.parent_params, **_late_params(first)}
        shown = {runs.SUPERSEDED: "false", **({runs.SCORES: state(model)} if model.has_scores else {})}
        runs.log_new(self._client, run, params=params, tags={**tags, **shown})
        if run.info.status != "FINISHED" and not any(one.info.status == "RUNNING" for one in below.values()):
            ends = [below[one.run].info.end_time for one in sent]
            self._client.set_terminated(run_id, "FINISHED", max(end for end in ends if end is not None))
        return new

    def report(self, wanted: bool) -> int:
        """Store the report in its run, for all parents to link to; how many files were sent.

        Where none is to be shown (none is ``wanted``, or the one on disk is of other scores), none is there afterwards.
        """
        page = pages.current_page(self._results) if wanted else None
        self._report = ""
        with store_lock(self._store.lock):
            if page is None:
                for run in pages.report_runs(self._client, self._experiment):
                    self._client.delete_run(run.info.run_id)
                return 0
            run = pages.report_run(self._client, self._experiment)
        self._report = str(run.info.run_id)
        sent, put = self._put(run, {pages.PLACE: page})
        if sent:
            runs.log_new(self._client, run, params={}, tags=put)
        if run.info.status != "FINISHED":
            self._client.set_terminated(run.info.run_id, "FINISHED")
        return sent

    def _link(self, model: StudyModel) -> str:
        """Address of the report for a model whose scores are in it; empty where there is none."""
        return pages.link_to(self._experiment, self._report) if self._report and model.rows else ""

    def _link_models(self, parent: Any, models: Iterable[str]) -> None:
        """Link the models of all folds to the parent run, since the UI lists runs without a model elsewhere."""
        from mlflow.entities import LoggedModelOutput

        known = {output.model_id for output in parent.outputs.model_outputs}
        new = [LoggedModelOutput(model, 0) for model in models if model not in known]
        if new:
            self._client.log_outputs(parent.info.run_id, new)

    def _put(self, run: Any, files: Mapping[str, bytes]) -> tuple[int, dict[str, str]]:
        """Upload files unless the run has them; how many, and a tag with their digest, to be set after it."""
        digest = digest_of({name: sha256_bytes(data) for name, data in files.items()})[:16]
        if not files:
            return 0, {}
        if run.data.tags.get("medseg.files") == digest:
            return 0, {"medseg.files": digest}
        with tempfile.TemporaryDirectory() as temporary:
            for name, data in files.items():
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            upload(self._store, run.info.artifact_uri, Path(temporary))
        return len(files), {"medseg.files": digest}

    def _digest(self, trained: Trained) -> str:
        """Digest of the manifest, which holds those of all files; MLflow takes at most 36 characters."""
        manifest = Results(self._results).ingest(trained.spec.dataset).manifest
        return sha256_file(manifest)[:32] if manifest.is_file() else "unknown"

    def _log_dataset(self, run: Any, trained: Trained) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        name, digest = trained.spec.dataset, self._digest(trained)
        known = run.inputs.dataset_inputs if run.inputs else ()
        if any((i.dataset.name, i.dataset.digest) == (name, digest) for i in known):
            return
        data = Dataset(name, digest, source_type="medseg", source=name)
        inputs = [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
        try:
            self._client.log_inputs(run.info.run_id, inputs)
        except MlflowException:
            # Of several that are the first to name a data set, a server refuses all but one; then it is there.
            self._client.log_inputs(run.info.run_id, inputs)


def state(model: StudyModel) -> str:
    """Digest of what a parent's scores are made from."""
    return digest_of([model.dataset, model.model, model.fingerprint, model.scored])


def is_at_work_here(run: Any) -> bool:
    """Whether another process of this machine trains for a run; those that ended were closed before."""
    tags, own = run.data.tags, owner_tags()
    ours = all(tags.get(name) == value for name, value in own.items())
    return run.info.status == "RUNNING" and is_here(tags) and not ours


def _plan_digest(trained: Trained) -> str:
    return digest_of(trained.facts["plan"])[:16]


def _late_params(trained: Trained) -> dict[str, Value]:
    """Parameters that are known only after the network was built, so they do not identify a run."""
    return {"parameters": int(trained.facts["parameters"])} if "parameters" in trained.facts else {}


def _tuned_params(trained: Trained) -> dict[str, Value]:
    """How objects are read off the network's maps, tuned after this very training: ``decoding.seed``."""
    return {f"decoding.{name}": float(value) for name, value in trained.facts.get("decoding", {}).items()}
