"""The choice of a model's post-processing, on predictions of cases that its results are not about.

For a model of fold f these are the validation predictions of the other folds of the same model and seed. Operations are
tried one after the other (Isensee et al. 2021 do so on the very cases that they report on), and adopted by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import Config, PostprocessConfig
from medseg.errors import DataError
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.ingest.splits import read_split
from medseg.outputs import writing
from medseg.postprocess.candidates import Change, Situation, rounds
from medseg.postprocess.operations import PROBABILITIES, apply, check, possible
from medseg.postprocess.readers import Predicted
from medseg.postprocess.run import require_memory
from medseg.postprocess.scoring import Gains, by_subject, target_scores
from medseg.postprocess.settled import Settled, write_settled
from medseg.predict.record import PredictedCase, Predictions, read_predictions
from medseg.preprocess.memory import host_budget
from medseg.progress import Progress, say
from medseg.results.folders import ModelFolder
from medseg.results.key import ALL, VALIDATION, RunKey, fold_order
from medseg.trained import Trained, read_trained

# Of the one-sided test that an operation does not help.
LEVEL = 0.05
RULE = (
    f"adopted if the mean score over subjects rises (one-sided sign-flip test over subjects, p <= {LEVEL:g}, "
    "not corrected for the number of candidates) and the mean of no class falls"
)
NO_DATA = "no other fold of this model was trained, so there are no inner data, and nothing is chosen"


def run(config: Config, manifest_path: Path, splits: Path, model: Path, predictions: Sequence[Path]) -> None:
    """Choose the post-processing of the model in a folder and write it there (``postprocess.json``).

    Args:
        config: the experiment; what it names as fixed is part of the model, too.
        manifest_path, splits: the data set's ``manifest.tsv`` and ``splits.json``.
        model: model folder.
        predictions: ``predictions.json`` of validation cases of the other folds; may be none.

    Raises:
        ConfigError: if an operation does not fit the data set's classes.
        DataError: if predictions are of another model, seed or data set, of the model's own fold, or changed.
    """
    trained, manifest = read_trained(model), read_manifest(manifest_path)
    section = config.dataset(manifest.dataset).postprocess
    check(section, manifest.labels, manifest.dataset)
    with writing(ModelFolder(model).postprocess):
        if not section.choose:
            settled = Settled(section.model_dump(mode="json"), section)
        else:
            inner = _inner(trained.key, manifest, splits, [read_predictions(path) for path in predictions])
            settled = _settled(config, manifest, section, trained, inner)
        write_settled(trained, settled)


def _inner(key: RunKey, manifest: Manifest, splits: Path, given: Sequence[Predictions]) -> list[Predictions]:
    """The predictions by fold, if none of them is of a case that the model's results are about."""
    found = sorted(given, key=lambda one: fold_order(one.key.fold))
    for one in found:
        mine = RunKey(key.dataset, key.model, one.key.fold, key.seed, VALIDATION)
        if one.key != mine or one.key.fold in (key.fold, ALL):
            raise DataError(
                f"{one.folder}: predictions of {one.key.name}; expected those of another numbered fold of "
                f"{key.dataset}/{key.model}, seed {key.seed}, since {key.name} is not judged by its own cases"
            )
    if key.fold == ALL:
        return found
    own = {manifest.case(case).subject for case in read_split(splits, key.fold)[1]}
    for one in found:
        shared = sorted(case for case in one.cases if manifest.case(case).subject in own)
        if shared:
            raise DataError(
                f"{one.folder}: case '{shared[0]}' shares its subject with the validation cases of fold {key.fold}; "
                "run `medseg predict` again with the present splits"
            )
    return found


@dataclass
class Inner:
    """Predictions that are chosen on, read one case at a time.

    Attributes:
        table: label table.
        cases: predictions, case and entry of each case that was predicted.
        data: the data set's folder.
        label: how lines of progress call it.
        volumes: class or region -> volume in each reference that shows it; after the first scores.
    """

    table: LabelTable
    data: Path
    cases: Sequence[tuple[Predicted, Case, PredictedCase]]
    label: str
    volumes: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def subjects(self) -> list[str]:
        """Of the cases."""
        return [case.subject for _, case, _ in self.cases]

    def scores(self, variants: Sequence[PostprocessConfig], what: str) -> list[NDArray[np.float64]]:
        """For each of several post-processings, scores of subjects (N, R); every case is read once."""
        found = np.full((len(variants), len(self.cases), len(self.table.target_names)), np.nan)
        bar = Progress(f"{self.label}: {what}", len(self.cases))
        for place, (predicted, case, entry) in enumerate(self.cases):
            reference = self.table.to_channels(read_case_labels(case, self.data), case.object_classes)
            readers = predicted.readers(case, entry)
            for k, steps in enumerate(variants):
                found[k, place] = target_scores(reference, apply(readers, steps, self.table), self.table)
            self._note(case, reference)
            bar.update(place + 1)
        # A class that no reference shows has no mean.
        found[:, :, [name not in self.volumes for name in self.table.target_names]] = np.nan
        return [by_subject(one, self.subjects) for one in found]

    def _note(self, case: Case, reference: NDArray[np.uint8]) -> None:
        """Note the volumes of the classes that a reference shows."""
        counts = np.bincount(reference.ravel(), minlength=self.table.classes)
        for name, members in zip(self.table.target_names, self.table.members, strict=True):
            voxels = int(counts[list(members)].sum())
            if voxels:
                self.volumes.setdefault(name, {})[case.id] = voxels * case.geometry.voxel_volume


def _settled(
    config: Config, manifest: Manifest, section: PostprocessConfig, trained: Trained, given: Sequence[Predictions]
) -> Settled:
    """The post-processing of a model and how it was chosen."""
    folder, label = config.folder_of(manifest.dataset), f"choose {trained.key.name}"
    asking = [name for name, row in possible(section).items() if PROBABILITIES in row.needs]
    cases = [
        (Predicted(folder, one.folder, asking), manifest.case(case), entry)
        for one in given
        for case, entry in one.cases.items()
        if not entry.failed
    ]
    fixed, facts = section.with_steps(), {"rule": RULE, "folds": [one.key.fold for one in given]}
    if not cases:
        say(f"{label}: {NO_DATA}")
        return Settled(section.model_dump(mode="json"), fixed, {**facts, "said": NO_DATA, "candidates": []})
    budget = host_budget(config.budget.host_gb)
    require_memory([case for _, case, _ in cases], len(manifest.channels), section, manifest.labels, budget)
    inner = Inner(manifest.labels, folder, cases, label)
    steps, tried, total = _choose(inner, section)
    adopted = [one for one in tried if one["adopted"]]
    say(f"{label}: {', '.join(map(described, adopted)) or 'nothing'} adopted of {len(tried)} candidates")
    of_total = None if total is None else {"score": total.score.to_json(), "classes": _of_classes(total, inner.table)}
    about = {"subjects": len(set(inner.subjects)), "cases": len(cases), "said": "", "candidates": tried}
    return Settled(section.model_dump(mode="json"), steps, {**facts, **about, "gain": of_total})


def _choose(inner: Inner, section: PostprocessConfig) -> tuple[PostprocessConfig, list[dict[str, Any]], Gains | None]:
    """The operations, what was tried, and what all that was adopted changes together."""
    fixed = steps = section.with_steps()
    (first,) = inner.scores([fixed], "before")
    shown = [name for name in inner.table.target_names if name in inner.volumes]
    volumes = {name: float(np.median(list(inner.volumes[name].values()))) for name in shown}
    tried: list[dict[str, Any]] = []
    for one in rounds(Situation(section, inner.table, volumes)):
        changes = [change for group in one for change in group if _fits(change, steps)]
        if not changes:
            continue
        before, *after = inner.scores([steps, *(change.on(steps) for change in changes)], changes[0].operation)
        gains = {change: Gains.of(before, scores) for change, scores in zip(changes, after, strict=True)}
        best = [_best({c: gains[c] for c in group if c in gains}, inner.table) for group in one]
        for change in changes:
            tried.append(_judged(change, gains[change], change in best, inner.table))
        for change in filter(None, best):
            steps = change.on(steps)
    if steps == fixed:
        return fixed, tried, None
    (last,) = inner.scores([steps], "after")
    total = Gains.of(first, last)
    if _why_not(total, inner.table):
        # Regions overlap: what helps alone may harm together.
        return fixed, [{**one, "adopted": False, "why": "harms together with the others"} for one in tried], None
    return steps, tried, total


def _fits(change: Change, steps: PostprocessConfig) -> bool:
    """Whether a change can come on top of what was adopted."""
    return not (change.operation == "threshold" and steps.crf is not None)


def _best(gains: Mapping[Change, Gains], table: LabelTable) -> Change | None:
    """The change of a group that helps most of those that harm nothing; of equal ones the first."""
    helping = [change for change, gain in gains.items() if not _why_not(gain, table)]
    return max(helping, key=lambda change: gains[change].score.mean, default=None)


def _why_not(gains: Gains, table: LabelTable) -> str:
    """Why a change is not adopted; empty if it may be."""
    if not gains.changed:
        return "changes no score"
    if falling := gains.falls():
        named = ", ".join(f"{table.target_names[k]} by {-gains.classes[k].mean:.2g}" for k in falling)
        return f"the mean falls: {named}"
    if not gains.score.mean > 0 or gains.p > LEVEL:
        return f"the score does not rise by more than noise (p = {gains.p:.2g})"
    return ""


def _judged(change: Change, gains: Gains, adopted: bool, table: LabelTable) -> dict[str, Any]:
    why = "" if adopted else _why_not(gains, table) or "another value helps more"
    of = {"score": gains.score.to_json(), "classes": _of_classes(gains, table)}
    return {**change.to_json(), **of, "p": gains.p, "changed": gains.changed, "adopted": adopted, "why": why}


def _of_classes(gains: Gains, table: LabelTable) -> dict[str, Any]:
    return {name: gain.to_json() for name, gain in zip(table.target_names, gains.classes, strict=True)}


def described(one: Mapping[str, Any]) -> str:
    """A candidate in words, from its JSON."""
    words = one["operation"].replace("_", " ")
    value = f" {one['value']:g}" if isinstance(one["value"], float) else ""
    target = f" of {one['target']}" if one["target"] else ""
    return f"{words}{target}{value}"
