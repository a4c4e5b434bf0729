"""The postprocess stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.config import Config, CrfConfig, PostprocessConfig
from medseg.errors import ConfigError, DataError
from medseg.files import digest_of, read_json, write_json, writer_lock
from medseg.formats.errors import FormatError
from medseg.formats.limits import memory_budget
from medseg.formats.read import read_content, read_labels, read_recorded
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_image
from medseg.ingest.manifest import Case, read_manifest
from medseg.postprocess.components import fill_holes, largest_component, remove_small
from medseg.predict.probabilities import read_probabilities
from medseg.predict.record import PredictedCase, read_predictions, write_predictions
from medseg.progress import Progress
from medseg.results.folders import PredictionFolder


def run(config: Config, manifest_path: Path, predictions: Path, out: Path, code: str = "") -> None:
    """Apply the data set's operations to every case of ``predictions`` (a ``predictions.json``) into ``out``.

    ``predictions.json`` comes last. Where probabilities are refined, which takes a while, a case that is already there
    from the same prediction, image, operations and ``code`` (digest of this stage's) is kept. A failed case stays one.
    """
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    steps = dataset.postprocess
    check_names(steps, manifest.labels, manifest.dataset)
    given = read_predictions(predictions)
    failed = {case_id: entry for case_id, entry in given.cases.items() if entry.failed}
    todo = {case_id: manifest.case(case_id) for case_id in given.cases if case_id not in failed}
    work = Work(Path(config.data_root) / dataset.path, given.folder, out, steps, manifest.labels, code)
    if steps.crf is not None:
        budget = int(config.budget.host_gb * 1e9) if config.budget.host_gb else memory_budget()
        work.check_memory(list(todo.values()), len(manifest.channels), budget)
    bar = Progress(f"postprocess {manifest.dataset}/{given.key.model} fold {given.key.fold}", len(todo))
    cases: dict[str, PredictedCase] = {}
    with writer_lock(out):
        for done, (case_id, case) in enumerate(todo.items(), start=1):
            cases[case_id] = work.case(case, given.cases[case_id])
            if steps.crf is not None:
                bar.update(done)
        write_predictions(replace(given, folder=out, cases=cases | failed, postprocess=steps.model_dump()))


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to every case.

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

    def case(self, case: Case, entry: PredictedCase) -> PredictedCase:
        """Make one case's label map, unless it is there; its entry in ``predictions.json``."""
        target, stamp = self.out / entry.file, self.out / f".{case.id}.json"
        key = digest_of([entry.to_json(), case.images_sha256, self.steps.model_dump(), self.table.to_json(), self.code])
        if self.steps.crf is not None and _whole(target, stamp, key):
            return PredictedCase(target.name, read_json(stamp)["sha256"])
        crf = self.steps.crf
        labels = self._predicted(entry) if crf is None else self._refined(case, entry, crf)
        write_labels(target, apply(labels, self.steps, self.table), case.geometry)
        made = PredictedCase(target.name, read_content(target).sha256)
        if crf is not None:
            write_json(stamp, {**made.to_json(), "key": key})
        return made

    def _predicted(self, entry: PredictedCase) -> NDArray[Any]:
        path = self.source / entry.file
        return read_labels(path, read_recorded(path, entry.sha256, "medseg predict"))[0]

    def _refined(self, case: Case, entry: PredictedCase, options: CrfConfig) -> NDArray[Any]:
        from medseg.postprocess.refine import refine

        if entry.probabilities is None:
            raise DataError(
                f"{PredictionFolder(self.source).record}: case '{case.id}' has no probabilities, which postprocess.crf "
                "refines; run `medseg predict` again with this configuration"
            )
        soft = entry.probabilities
        probabilities, box = read_probabilities(self.source / soft["file"], soft["sha256"])
        image = read_case_image(case, self.data)
        return refine(probabilities, box, image, case.geometry, options, self.table)

    def check_memory(self, cases: Sequence[Case], channels: int, budget: int) -> None:
        """Raise ``DataError`` if a case is too large to be refined within ``budget`` bytes."""
        from medseg.postprocess.refine import require_memory

        for case in cases:
            require_memory(case.id, case.geometry, channels, self.table.channels, budget)


def apply(labels: NDArray[Any], steps: PostprocessConfig, table: LabelTable) -> NDArray[Any]:
    """Fill holes, keep largest components, remove small ones, in this order.

    Labels (S) hold file values, one per voxel: where regions are predicted, operations work on the painted map too.
    """
    if steps.fill_holes:
        labels = fill_holes(labels, table.values)
    for name in steps.largest_component:
        labels = largest_component(labels, dict(table.names)[name])
    if steps.min_size:
        labels = remove_small(labels, table.values, steps.min_size)
    return labels


def check_names(steps: PostprocessConfig, table: LabelTable, dataset: str) -> None:
    """Raise ``ConfigError`` if an operation names a class that predictions of the data set do not have."""
    written = [n for n, v in table.names if not table.order or v in table.order]
    unknown = sorted(set(steps.largest_component) - set(written))
    if unknown:
        why = "; regions are no classes, and a class that no region paints is never predicted" if table.regions else ""
        raise ConfigError(
            f"datasets.{dataset}.postprocess.largest_component: no class {unknown}; there are {written}{why}"
        )


def _whole(target: Path, stamp: Path, key: str) -> bool:
    """Whether a result is there as it was written, made from what ``key`` says."""
    if not stamp.is_file() or not target.exists():
        return False
    facts = read_json(stamp)
    try:
        return bool(facts["key"] == key and read_content(target).sha256 == facts["sha256"])
    except FormatError:
        # What cannot be read any more is made anew.
        return False
