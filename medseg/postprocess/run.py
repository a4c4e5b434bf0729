"""The postprocess stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import Config, PostprocessConfig
from medseg.errors import DataError
from medseg.files import digest_of
from medseg.formats.read import open_image, read_recorded
from medseg.formats.source import Source
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.ingest.cases import open_case_image, reading_facts
from medseg.ingest.manifest import Case, read_manifest
from medseg.kept import kept, write_stamp
from medseg.late import resolve
from medseg.outputs import writing
from medseg.postprocess.objects import class_values
from medseg.postprocess.operations import IMAGE, LABELS, PROBABILITIES, Readers, apply, check, wanted
from medseg.predict.probabilities import Probabilities, read_probabilities
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
    steps = dataset.postprocess
    check(steps, manifest.labels, manifest.dataset)
    given = read_predictions(predictions)
    if model is not None:
        require_predicted_by(model, given)
    failed = {case_id: entry for case_id, entry in given.cases.items() if entry.failed}
    todo = {case_id: manifest.case(case_id) for case_id in given.cases if case_id not in failed}
    budget = host_budget(config.budget.host_gb)
    require_memory(list(todo.values()), len(manifest.channels), steps, manifest.labels, budget)
    processor = Processor(config.folder_of(manifest.dataset), given.folder, out, steps, manifest.labels, code)
    bar = Progress(f"postprocess {manifest.dataset}/{given.key.model} fold {given.key.fold}", len(todo))
    cases: dict[str, PredictedCase] = {}
    with writing(PredictionFolder(out).record, out, whole=True):
        for done, (case_id, case) in enumerate(todo.items(), start=1):
            cases[case_id] = processor.process(case, given.cases[case_id])
            bar.update(done)
        write_predictions(replace(given, folder=out, cases=cases | failed, postprocess=steps.model_dump()))


@dataclass(frozen=True, slots=True)
class Processor:
    """Applies the operations of a configuration to cases.

    Attributes:
        data: the data set's folder.
        source, out: folders of the predictions and of the results.
        steps, table: operations and label table.
        code: digest of this stage's code.
    """

    data: Path
    source: Path
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
            labels = apply(self._readers(case, entry), self.steps, self.table)
            # A prediction has the world of its image.
            world = self._opened(entry.file, entry.sha256).world
            about = About.of_classes(world, self.table.names)
            write_labels(target, labels, case.geometry, About(world) if self.table.instances else about)
            if classes is not None and entry.classes is not None:
                before = self._recorded(entry.classes["file"], entry.classes["sha256"])
                write_labels(classes, class_values(labels, before, self.table), case.geometry, about)
            digests = write_stamp(stamp, key, files, label_map_digest)
        beside = None if classes is None else {"file": classes.name, "sha256": digests[classes.name]}
        return PredictedCase(target.name, digests[target.name], classes=beside)

    def _opened(self, name: str, sha256: str) -> Source:
        """A file of the predictions."""
        path = self.source / name
        return open_image(path, read_recorded(path, sha256, "medseg predict"))

    def _recorded(self, name: str, sha256: str) -> NDArray[Any]:
        """Values (S) of a file of the predictions."""
        return np.ascontiguousarray(self._opened(name, sha256).labels())

    def _readers(self, case: Case, entry: PredictedCase) -> Readers:
        """What operations may work on, read when it is asked for."""

        def labels() -> NDArray[Any]:
            return self._recorded(entry.file, entry.sha256)

        def probabilities() -> Probabilities:
            if entry.probabilities is None:
                asking = [
                    f"postprocess.{name}" for name, row in wanted(self.steps).items() if PROBABILITIES in row.needs
                ]
                raise DataError(
                    f"{PredictionFolder(self.source).record}: case '{case.id}' has no probabilities, which "
                    f"{', '.join(asking)} works on; run `medseg predict` again with this configuration"
                )
            return read_probabilities(self.source / entry.probabilities["file"], entry.probabilities["sha256"])

        def image() -> Source:
            return open_case_image(case, self.data)

        return {LABELS: labels, PROBABILITIES: probabilities, IMAGE: image}


def require_memory(
    cases: Sequence[Case], channels: int, steps: PostprocessConfig, table: LabelTable, budget: int
) -> None:
    """Raise ``DataError`` if an operation would take more than ``budget`` bytes for a case; known before one is read.

    Args:
        cases: those to be processed.
        channels: of their images.
        steps, table: operations and label table.
        budget: bytes.
    """
    for name, operation in wanted(steps).items():
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
