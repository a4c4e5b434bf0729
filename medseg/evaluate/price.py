"""What ``medseg predict --fast`` costs in Dice and saves in time, measured on a model's own validation cases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import Config
from medseg.errors import DataError
from medseg.image.labels import LabelTable
from medseg.ingest.cases import open_case_image, read_case_labels
from medseg.ingest.manifest import read_manifest
from medseg.metrics.counts import overlap_counts
from medseg.predict.fast import fast_options
from medseg.predict.predictor import Predictor
from medseg.predict.run import require_unseen, validation_cases
from medseg.predict.trainings import read_trainings
from medseg.progress import Progress
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import ModelFolder
from medseg.results.key import Fold
from medseg.trained import read_trained

MAKER = "medseg price"


@dataclass(frozen=True, slots=True)
class Price:
    """Predictions of one model's validation cases, as the study makes them and fast ones.

    Attributes:
        dice, fast_dice: mean over the cases of each case's mean Dice over the classes (or regions) that its reference
            shows; of objects, of their foreground.
        worst: the most that one case lost.
        cpu_s, fast_cpu_s: processor seconds of all cases, reading included, without loading the network.
        cases: how many.
        runtime: what computed the fast ones.
    """

    dice: float
    fast_dice: float
    worst: float
    cpu_s: float
    fast_cpu_s: float
    cases: int
    runtime: str

    @property
    def line(self) -> str:
        """What a terminal shows."""
        return (
            f"fast, on {self.cases} validation cases ({self.runtime}): Dice {self.fast_dice:.4f} for {self.dice:.4f} "
            f"({self.fast_dice - self.dice:+.4f}; one case lost {max(0.0, self.worst):.4f}) in "
            f"1/{self.cpu_s / self.fast_cpu_s:.1f} of the processor time"
        )


def measure(config: Config, manifest_path: Path, splits: Path, fold: Fold, model: Path) -> Price:
    """Predict the validation cases of a fold in both ways and write what came out into the model's folder.

    Args:
        config: the experiment.
        manifest_path, splits: the data set's ``manifest.tsv`` and ``splits.json``.
        fold: whose validation cases.
        model: folder of a training on that fold.

    Raises:
        CheckpointError: if the model is of another fold, or there is none.
        DataError: if it has seen a case, a case cannot be read, or no reference shows a class.
    """
    manifest, case_ids = read_manifest(manifest_path), validation_cases(splits, fold)
    training = read_trainings([model])[0]
    require_unseen(training, manifest, case_ids, fold)
    options = fast_options({"device": None}, [model])
    ways = (
        Predictor(model, mirror=config.predict.mirror),
        Predictor(model, mirror=options["mirror"], runtime=options["runtime"], overlap=options["overlap"]),
    )
    folder, bar = config.folder_of(manifest.dataset), Progress("price", len(case_ids))
    seconds, scores = [0.0, 0.0], []
    for done, case_id in enumerate(case_ids, start=1):
        case, found = manifest.case(case_id), []
        reference = manifest.labels.to_channels(read_case_labels(case, folder), case.object_classes)
        for way, predictor in enumerate(ways):
            begun = time.process_time()
            values = predictor.label_map(open_case_image(case, folder), case_id)
            seconds[way] += time.process_time() - begun
            found.append(mean_dice(reference, values, manifest.labels))
        if None not in found:
            scores.append(found)
        bar.update(done)
    if not scores:
        raise DataError(f"fold {fold}: no reference of its validation cases shows a class; nothing can be measured")
    dice = np.asarray(scores, dtype=np.float64)
    means, worst = dice.mean(axis=0), float((dice[:, 0] - dice[:, 1]).max())
    price = Price(float(means[0]), float(means[1]), worst, seconds[0], seconds[1], len(dice), options["runtime"])
    about = {"weights_sha256": training.weights_sha256}
    write_record(ModelFolder(model).fast, {**about, "price": asdict(price)})
    return price


def mean_dice(reference: NDArray[Any], values: NDArray[Any], table: LabelTable) -> float | None:
    """Mean Dice over the classes or regions that a reference shows, of objects over their foreground.

    Args:
        reference: (S) label channels.
        values: (S) values of the label table, or object numbers.
        table: label table.

    Returns:
        None if the reference shows nothing.
    """
    if table.instances:
        foreground = np.where((reference > 0) & (reference < table.classes), 1, reference)
        counts = overlap_counts(foreground, (values > 0).astype(np.uint8), 2)
    else:
        counts = overlap_counts(reference, table.to_channels(values), table.classes, table.members)
    dice = [2 * one.tp / (one.reference + one.predicted) for one in counts if one.reference]
    return sum(dice) / len(dice) if dice else None


def read_price(model: Path) -> Price | None:
    """What ``measure`` wrote into a model's folder; None: it was not measured, or of other weights.

    Raises:
        DataError: if the record is damaged.
    """
    path = ModelFolder(model).fast
    if not path.is_file():
        return None
    facts: Mapping[str, Any] = read_record(path, MAKER)
    with as_written(path, MAKER):
        price, of_weights = Price(**facts["price"]), facts["weights_sha256"]
    return price if of_weights == read_trained(model).weights_sha256 else None
