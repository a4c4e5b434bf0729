"""What chosen operations changed in the scores of the cases that they were applied to, and their price; for the report.

Nothing is chosen by it: these are the cases that results are about.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import PostprocessConfig
from medseg.errors import DataError
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Case
from medseg.postprocess.operations import apply
from medseg.postprocess.readers import Predicted
from medseg.postprocess.scoring import Gains, by_subject, target_scores
from medseg.predict.record import PredictedCase
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import PredictionFolder

MAKER = "medseg postprocess"


@dataclass
class Effect:
    """Scores of cases before and after the operations that were chosen.

    Attributes:
        table: label table.
        data: the data set's folder.
        predicted: the predictions.
        section: the configuration; where it lets nothing be chosen, nothing is measured.
        steps: the operations that are applied.
        scores: (before, after) of each case.
        subjects: of these cases.
        seconds: of a processor, for the cases that were processed now.
    """

    table: LabelTable
    data: Path
    predicted: Predicted
    section: PostprocessConfig
    steps: PostprocessConfig
    scores: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Count the processor's time within the block as that of a case."""
        began = time.process_time()
        yield
        self.seconds.append(time.process_time() - began)

    def take(self, case: Case, entry: PredictedCase) -> None:
        """Score a case with the fixed operations, and with all of them."""
        if not self.section.choose or self.steps == self.section.with_steps() or not case.has_reference:
            return
        reference = self.table.to_channels(read_case_labels(case, self.data), case.object_classes)
        readers = self.predicted.readers(case, entry)
        before, after = (
            target_scores(reference, apply(readers, steps, self.table), self.table)
            for steps in (self.section.with_steps(), self.steps)
        )
        self.scores.append((before, after))
        self.subjects.append(case.subject)

    def write(self, out: PredictionFolder, fingerprint: str) -> None:
        """Write ``effect.json`` and ``timing.json`` into the folder of the results, where something could be chosen."""
        if not self.section.choose:
            return
        gain = None
        if self.scores:
            before, after = (by_subject(np.array(scores), self.subjects) for scores in zip(*self.scores, strict=True))
            found = Gains.of(before, after)
            names = self.table.target_names
            classes = {name: one.to_json() for name, one in zip(names, found.classes, strict=True)}
            gain = {"score": found.score.to_json(), "classes": classes}
        subjects = len(set(self.subjects))
        write_record(out.effect, {"fingerprint": fingerprint, "subjects": subjects, "gain": gain})
        write_record(out.timing, {"cpu_seconds": sum(self.seconds), "cases": len(self.seconds)})


def read_effect(folder: PredictionFolder, fingerprint: str) -> Mapping[str, Any]:
    """What chosen operations changed: ``subjects``, ``gain`` (None: nothing was adopted), and ``cpu_seconds`` a case.

    Raises:
        DataError: if a file is missing or damaged, or of another training.
    """
    facts, timing = read_record(folder.effect, MAKER), read_record(folder.timing, MAKER)
    with as_written(folder.effect, MAKER):
        of_training, subjects, gain = facts["fingerprint"], facts["subjects"], facts["gain"]
        cases, seconds = int(timing["cases"]), float(timing["cpu_seconds"])
    if of_training != fingerprint:
        raise DataError(f"{folder.effect}: of another training; delete it and run `{MAKER}` again")
    return {"subjects": subjects, "gain": gain, "cpu_seconds": seconds / cases if cases else None}
