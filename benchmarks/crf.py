"""What the dense CRF is worth on a trained model: Dice and IoU of the same predictions with it and without.

    python benchmarks/crf.py --results results/EXPERIMENT --dataset nuclei_fluo --model NAME

Run it in the folder of the finished study (or give --data-root), best for a model that loses detail, such as one of
stride 8. All trained folds and seeds of the model take part. The CRF's numbers are chosen on the first half of each
fold's validation images, one number after the other from the defaults on, by mean Dice; scores are those of the second
half alone, paired, with intervals over subjects. Whole images, native grid, no other post-processing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.compare.interval import contributions, mean_interval, subject_means
from medseg.compare.permutation import max_t
from medseg.config import Config, CrfConfig, load_config
from medseg.files import read_json, sha256_file, write_json
from medseg.formats.source import Source
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.ingest.splits import read_split
from medseg.metrics.counts import dice_of_counts, overlap_counts
from medseg.metrics.overlap import iou_of_counts
from medseg.postprocess.refine import apply_crf
from medseg.predict.predictor import Predictor
from medseg.predict.probabilities import Probabilities, ProbabilityFile, read_probabilities
from medseg.predict.sinks import LabelMap
from medseg.progress import Progress
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
# Tried in this order, each with the best of those before, twice.
TRIED: dict[str, tuple[float, ...]] = {
    "position_weight": (0.0, 1.0, 3.0),
    "appearance_weight": (1.0, 2.0, 5.0, 10.0),
    "intensity_sigma": (0.02, 0.05, 0.1, 0.2),
    "appearance_sigma": (5.0, 10.0, 30.0, 60.0),
    "position_sigma": (1.0, 3.0),
    "iterations": (5, 10),
}
ROUNDS = 2
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Item:
    """One validation image of one training: reference (S, channels), probabilities and predicted labels (S)."""

    case: Case
    image: Source
    reference: NDArray[Any]
    probabilities: Probabilities
    labels: NDArray[Any]


def read_items(folder: Path, manifest: Manifest, splits: Path, data: Path) -> tuple[list[Item], list[Item]]:
    """Predict the validation images of a model folder: those to choose on, those to report on."""
    predictor = Predictor(folder)
    _, cases = read_split(splits, predictor.checkpoint.fold)
    bar = Progress(f"predict {folder.name}", len(cases))
    items = []
    with tempfile.TemporaryDirectory(prefix="medseg-crf-") as temporary:
        for done, case_id in enumerate(cases, start=1):
            case, path = manifest.case(case_id), Path(temporary) / f"{case_id}.b2nd"
            image, labels = Source.from_array(read_case_image(case, data), case.geometry), LabelMap()
            predictor.predict(image, case_id, [labels, ProbabilityFile(path)])
            probabilities = read_probabilities(path, sha256_file(path))
            path.unlink()
            reference = manifest.labels.to_channels(read_case_labels(case, data))
            items.append(Item(case, image, reference, probabilities, labels.values))
            bar.update(done)
    half = len(items) // 2
    return items[:half], items[half:]


def scored(items: Sequence[Item], table: LabelTable, options: CrfConfig | None) -> dict[str, Scores]:
    """Dice and IoU (cases x targets) with the CRF, or as predicted."""
    rows: dict[str, list[list[float]]] = {"dice": [], "iou": []}
    for item in items:
        labels = item.labels
        if options is not None:
            labels = apply_crf(item.probabilities, item.image, options, table)
        counts = overlap_counts(item.reference, table.to_channels(labels), table.classes, table.members)
        rows["dice"].append([dice_of_counts(c) for c in counts])
        rows["iou"].append([iou_of_counts(c) for c in counts])
    return {metric: np.array(values) for metric, values in rows.items()}


def choose(items: Sequence[Item], table: LabelTable) -> tuple[CrfConfig, list[dict[str, Any]]]:
    """The best numbers on the images to choose on, and all that was tried."""
    best, seen = CrfConfig(), {}
    bar = Progress("choose", ROUNDS * sum(map(len, TRIED.values())))
    done = 0
    for name, values in ROUNDS * list(TRIED.items()):
        for value in values:
            candidate = best.model_copy(update={name: value})
            key = candidate.model_dump_json()
            if key not in seen:
                seen[key] = float(np.nanmean(scored(items, table, candidate)["dice"]))
            done += 1
            bar.update(done)
        best = CrfConfig.model_validate_json(max(seen, key=lambda k: seen[k]))
    return best, [{**json.loads(key), "dice": value} for key, value in seen.items()]


def compared(items: Sequence[Item], table: LabelTable, options: CrfConfig) -> dict[str, Any]:
    """Both ways on the images to report on, paired; macro over targets."""
    without = scored(items, table, None)
    begun = time.monotonic()
    with_crf = scored(items, table, options)
    seconds = (time.monotonic() - begun) / len(items)
    groups = [item.case.subject for item in items]
    out: dict[str, Any] = {"images": len(items), "seconds_per_image": round(seconds, 4)}
    for metric in ("dice", "iou"):
        tables = {
            name: subject_means(np.nanmean(values[metric], axis=1), groups)[1]
            for name, values in (("without", without), ("with", with_crf))
        }
        means = {name: mean_interval(table) for name, table in tables.items()}
        gaps = tables["with"] - tables["without"]
        gap, (test,) = mean_interval(gaps, bounds=(-1.0, 1.0)), max_t(contributions(gaps))
        out[metric] = {
            **{name: {"mean": i.mean, "low": i.low, "high": i.high} for name, i in means.items()},
            "difference": {"mean": gap.mean, "low": gap.low, "high": gap.high, "subjects": gap.n_subjects},
            "wins": int((gaps > 0).sum()),
            "losses": int((gaps < 0).sum()),
            "ties": int((gaps == 0).sum()),
            "p": None if np.isnan(test.p) else test.p,
        }
    return out


def measure(results: Path, config: Config, dataset: str, model: str, data_root: Path) -> dict[str, Any]:
    """All of it for one model of a finished study."""
    manifest = read_manifest(results / dataset / "ingest/manifest.tsv")
    splits, data = results / dataset / "ingest/splits.json", data_root / config.dataset(dataset).path
    folders = sorted(p.parent for p in (results / dataset / "train" / model).glob("*/model.json"))
    if not folders:
        raise SystemExit(f"{results / dataset / 'train' / model}: no trained model")
    chosen_on: list[Item] = []
    reported: list[Item] = []
    for folder in folders:
        first, second = read_items(folder, manifest, splits, data)
        chosen_on, reported = [*chosen_on, *first], [*reported, *second]
    # Over several folds, an image to report on is never one to choose on, but its subject could be.
    subjects = {item.case.subject for item in chosen_on}
    kept = [item for item in reported if item.case.subject not in subjects]
    options, tried = choose(chosen_on, manifest.labels)
    facts = read_json(folders[0] / "model.json")
    machine = environment()
    return {
        "dataset": dataset,
        "model": model,
        "network": facts["plan"]["network"]["name"],
        "options": facts["plan"]["network"]["options"],
        "trainings": [folder.name for folder in folders],
        "images_to_choose_on": len(chosen_on),
        "images_left_out": len(reported) - len(kept),
        "chosen": options.model_dump(),
        "reported": compared(kept, manifest.labels, options),
        "defaults": compared(kept, manifest.labels, CrfConfig()),
        "tried": tried,
        "hardware": {
            "processor": machine["processor"],
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "threads": 1,
        },
        "versions": {k: machine[k] for k in ("medseg", "git", "python", "torch", "monai")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results/<experiment> of a finished study")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--model", required=True, help="name of a model in the study")
    parser.add_argument("--data-root", type=Path, help="none: as the study was configured")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/crf.json")
    given = parser.parse_args()
    config = load_config([given.results / "config.json"])
    found = measure(given.results, config, given.dataset, given.model, given.data_root or Path(config.data_root))
    write_json(given.out, found)
    print(json.dumps({k: found[k] for k in ("chosen", "reported", "defaults")}, indent=2))


if __name__ == "__main__":
    main()
