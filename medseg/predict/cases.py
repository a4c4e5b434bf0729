"""The cases of a manifest that a model predicts: which, how, into which files, and which need not be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import PredictionError
from medseg.files import digest_of, sha256_file
from medseg.formats.table import class_map, label_suffix, stem_of
from medseg.ingest.cases import open_case_image, reading_facts
from medseg.ingest.manifest import Case, Manifest
from medseg.kept import kept, write_stamp
from medseg.plan.plan import flat_values
from medseg.predict.predictor import Predictor
from medseg.predict.probabilities import ProbabilityFile
from medseg.predict.record import PredictedCase, Predictions, label_map_digest
from medseg.predict.sinks import LabelFile, Sink
from medseg.progress import Progress, say
from medseg.results.key import VALIDATION, RunKey
from medseg.train.checkpoint import Checkpoint

PROBABILITIES = ".probabilities.b2nd"


@dataclass(frozen=True, slots=True)
class Task:
    """Cases that one model is to predict in one way.

    Attributes:
        key: which training, and of which split the cases are.
        manifest: the data set, or its test set.
        cases: ids of the cases.
        data: where the data set's files lie.
        model: model folder.
        checkpoint: what its ``model.json`` says.
        weights_sha256: digest of its weights.
        mirror: whether outputs are averaged over mirror images.
        probabilities: whether probabilities are written beside the label maps.
        code: digest of the code that predicts.
        references: whether DICOM segmentations refer to their series.
    """

    key: RunKey
    manifest: Manifest
    cases: tuple[str, ...]
    data: Path
    model: Path
    checkpoint: Checkpoint
    weights_sha256: str
    mirror: bool
    probabilities: bool
    code: str
    references: bool = True

    @property
    def label(self) -> str:
        """How lines of progress call it."""
        split = "" if self.key.split == VALIDATION else f" {self.key.split}"
        return f"predict{split} {self.key.dataset}/{self.key.model} fold {self.key.fold} seed {self.key.seed}"

    def case_key(self, case: Case) -> str:
        """Digest of all that the label map of a case depends on."""
        # The plan says how the image is prepared and cut into windows, and on what the network runs; the label table of
        # the model says which values are written. Equal weights may come with others of both.
        plan, labels = flat_values(self.checkpoint.plan.to_json()), self.checkpoint.labels.to_json()
        facts, decoding = reading_facts(case, self.manifest.labels), self.checkpoint.decoding
        key = [facts, self.weights_sha256, plan, labels, self.mirror, self.code, decoding and decoding.to_json()]
        return digest_of(key if self.references else [*key, "anonymous"])

    @property
    def digest(self) -> str:
        """Digest of the cases, in their order, and of all that their label maps depend on."""
        return digest_of([[case_id, self.case_key(self.manifest.case(case_id))] for case_id in self.cases])

    def record(self, out: Path, entries: Mapping[str, PredictedCase]) -> Predictions:
        """What ``predictions.json`` says, cases in the order of the task."""
        cases = {case_id: entries[case_id] for case_id in self.cases}
        return Predictions(out, self.key, self.checkpoint.fingerprint, self.weights_sha256, self.mirror, cases)


def predict_task_cases(task: Task, case_ids: Sequence[str], out: Path, label: str) -> dict[str, PredictedCase]:
    """Predict some cases of a task into ``out``; the network is built for the first that cannot be kept."""
    bar = Progress(label, len(case_ids))
    entries: dict[str, PredictedCase] = {}
    predictor: Predictor | None = None
    for done, case_id in enumerate(case_ids, start=1):
        outputs = Outputs.of(task, task.manifest.case(case_id), out)
        digests = kept(outputs.stamp, outputs.key, [path.name for path in outputs.files], output_digest)
        if digests is None:
            predictor = predictor or Predictor(task.model, mirror=task.mirror)
            try:
                digests = outputs.predict(predictor, task.data)
            except PredictionError as error:
                entries[case_id] = PredictedCase(failed=str(error))
                say(f"{label}: case failed and will be scored as the worst: {error}")
        if digests is not None:
            entries[case_id] = outputs.entry(digests)
        for stale in outputs.unwanted(task):
            stale.unlink(missing_ok=True)
        bar.update(done)
    return entries


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of one predicted case.

    Attributes:
        case: the case.
        key: digest of everything that they depend on.
        labels, probabilities, classes, stamp: where they lie.
        files: those that are wanted, without the stamp.
        references: as in ``Task``.
    """

    case: Case
    key: str
    labels: Path
    probabilities: Path
    classes: Path
    stamp: Path
    files: tuple[Path, ...]
    references: bool = True

    @classmethod
    def of(cls, task: Task, case: Case, out: Path) -> Outputs:
        """The outputs of a case of a task in ``out``."""
        labels = out / f"{case.id}{label_suffix(task.data / case.images[0])}"
        probabilities, classes = out / f"{case.id}{PROBABILITIES}", class_map(labels)
        wanted = {probabilities: task.probabilities, classes: task.checkpoint.labels.objects_have_classes}
        files = (labels, *(path for path, want in wanted.items() if want))
        stamp = out / f".{case.id}.json"
        return cls(case, task.case_key(case), labels, probabilities, classes, stamp, files, task.references)

    def unwanted(self, task: Task) -> list[Path]:
        """Files that an earlier configuration may have written, and this one does not want."""
        stale = [path for path in (self.probabilities, self.classes) if path not in self.files and path.exists()]
        # What looks like a class map may be the label map of another case.
        alike = stem_of(self.classes)
        return [path for path in stale if path != self.classes or all(case.id != alike for case in task.manifest.cases)]

    def predict(self, predictor: Predictor, data: Path) -> dict[str, str]:
        """Make the wanted files; their digests by name."""
        classes = self.classes if self.classes in self.files else None
        sinks: list[Sink] = [LabelFile(self.labels, classes, self.references)]
        if self.probabilities in self.files:
            sinks.append(ProbabilityFile(self.probabilities))
        predictor.predict(open_case_image(self.case, data), self.case.id, sinks)
        return write_stamp(self.stamp, self.key, self.files, output_digest)

    def entry(self, digests: Mapping[str, str]) -> PredictedCase:
        """The case's entry in the record."""
        probabilities, classes = (
            {"file": path.name, "sha256": digests[path.name]} if path in self.files else None
            for path in (self.probabilities, self.classes)
        )
        return PredictedCase(self.labels.name, digests[self.labels.name], "", probabilities, classes)


def output_digest(path: Path) -> str:
    """SHA-256 (hex) of a label map, a class map, or a file of probabilities."""
    return sha256_file(path) if path.name.endswith(PROBABILITIES) else label_map_digest(path)
