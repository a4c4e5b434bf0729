"""The cases of a manifest that a model predicts: which, how, into which files, and which need not be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.errors import PredictionError
from medseg.files import digest_of, sha256_file
from medseg.formats.table import class_map, label_suffix, stem_of
from medseg.ingest.cases import open_case_image, reading_facts
from medseg.ingest.manifest import Case, Manifest
from medseg.kept import kept, write_stamp
from medseg.predict.expected import EXPECTED, ExpectedDice
from medseg.predict.predictor import Predicting
from medseg.predict.probabilities import ProbabilityFile
from medseg.predict.record import PredictedCase, Predictions, label_map_digest
from medseg.predict.sinks import LabelFile, Sink
from medseg.predict.trainings import Training, facts_of
from medseg.progress import Progress, say
from medseg.records import read_record
from medseg.results.key import VALIDATION, RunKey

PROBABILITIES = ".probabilities.b2nd"


@dataclass(frozen=True, slots=True)
class Task:
    """Cases that one model, or several together, are to predict in one way.

    Attributes:
        key: which training, and of which split the cases are.
        manifest: the data set, or its test set.
        cases: ids of the cases.
        data: where the data set's files lie.
        trainings: that predict.
        fingerprint, weights_sha256: of the training, or of all of them.
        predictor: loads them, when the first case needs it.
        mirror: whether outputs are averaged over mirror images; None: of some trainings they are.
        probabilities: whether probabilities are written beside the label maps.
        code: digest of the code that predicts.
        references: whether DICOM segmentations refer to their series.
        members: of an ensemble, as in ``Predictions``.
    """

    key: RunKey
    manifest: Manifest
    cases: tuple[str, ...]
    data: Path
    trainings: tuple[Training, ...]
    fingerprint: str
    weights_sha256: str
    predictor: Callable[[], Predicting]
    mirror: bool | None
    probabilities: bool
    code: str
    references: bool = True
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How lines of progress call it."""
        split = "" if self.key.split == VALIDATION else f" {self.key.split}"
        return f"predict{split} {self.key.dataset}/{self.key.model} fold {self.key.fold} seed {self.key.seed}"

    def case_key(self, case: Case) -> str:
        """Digest of all that the label map of a case depends on."""
        key = [reading_facts(case, self.manifest.labels), facts_of(self.trainings, self.mirror), self.code]
        return digest_of(key if self.references else [*key, "anonymous"])

    @property
    def digest(self) -> str:
        """Digest of the cases, in their order, and of all that their label maps depend on."""
        return digest_of([[case_id, self.case_key(self.manifest.case(case_id))] for case_id in self.cases])

    def record(self, out: Path, entries: Mapping[str, PredictedCase]) -> Predictions:
        """What ``predictions.json`` says, cases in the order of the task."""
        cases = {case_id: entries[case_id] for case_id in self.cases}
        found = Predictions(out, self.key, self.fingerprint, self.weights_sha256, self.mirror, cases)
        return replace(found, members=self.members)


def predict_task_cases(task: Task, case_ids: Sequence[str], out: Path, label: str) -> dict[str, PredictedCase]:
    """Predict some cases of a task into ``out``; the network is built for the first that cannot be kept."""
    bar = Progress(label, len(case_ids))
    entries: dict[str, PredictedCase] = {}
    predictor: Predicting | None = None
    for done, case_id in enumerate(case_ids, start=1):
        outputs = Outputs.of(task, task.manifest.case(case_id), out)
        digests = kept(outputs.stamp, outputs.key, [path.name for path in outputs.files], output_digest)
        if digests is None:
            predictor = predictor or task.predictor()
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
        wanted = {probabilities: task.probabilities, classes: task.trainings[0].checkpoint.labels.objects_have_classes}
        files = (labels, *(path for path, want in wanted.items() if want))
        stamp = out / f".{case.id}.json"
        return cls(case, task.case_key(case), labels, probabilities, classes, stamp, files, task.references)

    def unwanted(self, task: Task) -> list[Path]:
        """Files that an earlier configuration may have written, and this one does not want."""
        stale = [path for path in (self.probabilities, self.classes) if path not in self.files and path.exists()]
        # What looks like a class map may be the label map of another case.
        alike = stem_of(self.classes)
        return [path for path in stale if path != self.classes or all(case.id != alike for case in task.manifest.cases)]

    def predict(self, predictor: Predicting, data: Path) -> dict[str, str]:
        """Make the wanted files; their digests by name."""
        classes = self.classes if self.classes in self.files else None
        sinks: list[Sink] = [LabelFile(self.labels, classes, self.references)]
        if self.probabilities in self.files:
            sinks.append(ProbabilityFile(self.probabilities))
        expected = ExpectedDice()
        predictor.predict(open_case_image(self.case, data), self.case.id, [*sinks, expected])
        return write_stamp(self.stamp, self.key, self.files, output_digest, {EXPECTED: expected.values})

    def entry(self, digests: Mapping[str, str]) -> PredictedCase:
        """The case's entry in the record."""
        probabilities, classes = (
            {"file": path.name, "sha256": digests[path.name]} if path in self.files else None
            for path in (self.probabilities, self.classes)
        )
        expected = read_record(self.stamp, "medseg predict").get(EXPECTED, {})
        return PredictedCase(self.labels.name, digests[self.labels.name], "", probabilities, classes, expected)


def output_digest(path: Path) -> str:
    """SHA-256 (hex) of a label map, a class map, or a file of probabilities."""
    return sha256_file(path) if path.name.endswith(PROBABILITIES) else label_map_digest(path)
