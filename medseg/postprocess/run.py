"""The postprocess stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.config import Config, PostprocessConfig
from medseg.errors import ConfigError, DataError
from medseg.files import digest_of
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.ingest.cases import reading_facts
from medseg.ingest.manifest import Case, read_manifest
from medseg.kept import kept, write_stamp
from medseg.late import resolve
from medseg.outputs import writing
from medseg.postprocess.effect import Effect
from medseg.postprocess.objects import class_values
from medseg.postprocess.operations import PROBABILITIES, apply, check, possible, wanted
from medseg.postprocess.readers import Predicted
from medseg.postprocess.settled import require_settled
from medseg.predict.record import (
    PredictedCase,
    label_map_digest,
    read_predictions,
    require_predicted_by,
    write_predictions,
)
from medseg.preprocess.memory import host_budget
from medseg.progress import Progress
from medseg.results.folders import PredictionFolder


def run(
    config: Config, manifest_path: Path, predictions: Path, out: Path, code: str = "", model: Path | None = None
) -> None:
    """Apply the data set's operations to every case of ``predictions`` (a ``predictions.json``) into ``out``.

    ``predictions.json`` is written last. A label map that was made from the same prediction, image (read in the same
    way), label table, operations and ``code`` (digest of this stage's code) is kept. A case that failed in prediction
    stays failed. With ``model``, a model folder, predictions of another training than the one in it are refused.

    Raises:
        ConfigError: if an operation does not fit the data set's classes, before anything is written.
        DataError: if a case takes more memory than the host budget, before any is read; or a prediction changed.
    """
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    check(dataset.postprocess, manifest.labels, manifest.dataset)
    given = read_predictions(predictions)
    if model is not None:
        require_predicted_by(model, given)
    steps = steps_of(dataset.postprocess, manifest.dataset, model)
    failed = {case_id: entry for case_id, entry in given.cases.items() if entry.failed}
    todo = {case_id: manifest.case(case_id) for case_id in given.cases if case_id not in failed}
    budget = host_budget(config.budget.host_gb)
    require_memory(list(todo.values()), len(manifest.channels), steps, manifest.labels, budget)
    asking = [name for name, row in wanted(steps).items() if PROBABILITIES in row.needs]
    predicted = Predicted(config.folder_of(manifest.dataset), given.folder, asking)
    processor = Processor(predicted, out, steps, manifest.labels, code)
    bar = Progress(f"postprocess {manifest.dataset}/{given.key.model} fold {given.key.fold}", len(todo))
    cases: dict[str, PredictedCase] = {}
    measured = Effect(manifest.labels, config.folder_of(manifest.dataset), predicted, dataset.postprocess, steps)
    with writing(PredictionFolder(out).record, out, whole=True):
        for done, (case_id, case) in enumerate(todo.items(), start=1):
            with measured.timing():
                cases[case_id] = processor.process(case, given.cases[case_id])
            measured.take(case, given.cases[case_id])
            bar.update(done)
        measured.write(PredictionFolder(out), given.fingerprint)
        write_predictions(replace(given, folder=out, cases=cases | failed, postprocess=steps.model_dump()))


def steps_of(section: PostprocessConfig, dataset: str, model: Path | None) -> PostprocessConfig:
    """The operations of a model: those that are configured, and those that were chosen for it.

    Args:
        section: of the configuration.
        dataset: its name.
        model: model folder; None: only what is configured.

    Raises:
        ConfigError: if some are to be chosen and there is no model.
        DataError: if they were not chosen yet, or for another configuration or training.
    """
    if not section.choose:
        return section
    if model is None:
        raise ConfigError(
            f"datasets.{dataset}.postprocess.choose: what was chosen stands in the model folder; give it (--model)"
        )
    return require_settled(model, section).steps


@dataclass(frozen=True, slots=True)
class Processor:
    """Applies the operations of a configuration to cases.

    Attributes:
        given: the predictions.
        out: folder of the results.
        steps, table: operations and label table.
        code: digest of this stage's code.
    """

    given: Predicted
    out: Path
    steps: PostprocessConfig
    table: LabelTable
    code: str

    def process(self, case: Case, entry: PredictedCase) -> PredictedCase:
        """Write the label map of one case, unless it can be kept; returns its entry in ``predictions.json``.

        Of objects of several classes, the class map is written, too: those that are left keep their classes.
        """
        target, stamp = self.out / entry.file, self.out / f".{case.id}.json"
        facts = reading_facts(case, self.table)
        key = digest_of([entry.to_json(), facts, self.steps.model_dump(), self.code])
        classes = None if entry.classes is None else self.out / entry.classes["file"]
        files = [target] if classes is None else [target, classes]
        digests = kept(stamp, key, [path.name for path in files], label_map_digest)
        if digests is None:
            labels = apply(self.given.readers(case, entry), self.steps, self.table)
            # A prediction has the world of its image.
            world = self.given.opened(entry.file, entry.sha256).world
            about = About.of_classes(world, self.table.names)
            write_labels(target, labels, case.geometry, About(world) if self.table.instances else about)
            if classes is not None and entry.classes is not None:
                before = self.given.recorded(entry.classes["file"], entry.classes["sha256"])
                write_labels(classes, class_values(labels, before, self.table), case.geometry, about)
            digests = write_stamp(stamp, key, files, label_map_digest)
        beside = None if classes is None else {"file": classes.name, "sha256": digests[classes.name]}
        return PredictedCase(target.name, digests[target.name], classes=beside, expected=entry.expected)


def require_memory(
    cases: Sequence[Case], channels: int, steps: PostprocessConfig, table: LabelTable, budget: int
) -> None:
    """Raise ``DataError`` if an operation would take more than ``budget`` bytes for a case; known before one is read.

    Args:
        cases: those to be processed.
        channels: of their images.
        steps, table: operations, those that may be chosen included, and label table.
        budget: bytes.
    """
    for name, operation in possible(steps).items():
        if operation.peak_bytes is None:
            continue
        for case in cases:
            need = resolve(operation.peak_bytes)(case.geometry, channels, table.channels)
            if need > budget:
                raise DataError(
                    f"postprocess.{name} takes about {need / 1e9:.1f} GB for case '{case.id}', allowed are "
                    f"{budget / 1e9:.1f} GB; set budget.host_gb on a machine that has them, or leave out "
                    f"postprocess.{name}"
                )
