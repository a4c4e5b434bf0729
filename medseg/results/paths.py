"""Where everything lies under ``results/{experiment}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medseg.results.folders import (
    CompareFolder,
    IngestFolder,
    ModelFolder,
    PlanFolder,
    PredictionFolder,
    ReportFolder,
    StoreFolder,
    TestFolder,
    TrackingFolder,
    table_of_shard,
)
from medseg.results.key import TEST, RunKey

# Snakemake's wildcards: in place of a name, a path becomes the pattern of a rule.
DATASET, MODEL, GRID, CASE, SHARD = "{dataset}", "{model}", "{grid}", "{case}", "{shard}"
# Fold and seed are numbers everywhere else.
_FOLD: Any = "{fold}"
_SEED: Any = "{seed}"
ANY = RunKey(DATASET, MODEL, _FOLD, _SEED)
# Log and benchmark of each rule, by the wildcards of its jobs.
_OF_RUN = f"{MODEL}-{ANY.run}"
JOBS: Mapping[str, str] = {
    "phantoms": f"{DATASET}/phantoms",
    "download": f"{DATASET}/download",
    "ingest": f"{DATASET}/ingest",
    "fingerprint": f"{DATASET}/fingerprint",
    "plan": f"{DATASET}/plan/{MODEL}",
    "preprocess": f"{DATASET}/preprocess/{GRID}",
    "preprocess_shard": f"{DATASET}/preprocess/{GRID}-shard-{SHARD}",
    "weights": f"weights/{MODEL}",
    "train": f"{DATASET}/train/{_OF_RUN}",
    "ensemble": f"{DATASET}/ensemble/{_OF_RUN}",
    "predict": f"{DATASET}/predict/{_OF_RUN}",
    "predict_shard": f"{DATASET}/predict/{_OF_RUN}-shard-{SHARD}",
    "choose": f"{DATASET}/choose/{_OF_RUN}",
    "postprocess": f"{DATASET}/postprocess/{_OF_RUN}",
    "evaluate": f"{DATASET}/evaluate/{_OF_RUN}",
    "evaluate_shard": f"{DATASET}/evaluate/{_OF_RUN}-shard-{SHARD}",
    "compare": "compare",
    "report": "report",
    "tracking_init": "tracking_init",
    "track": "track",
}


class Experiment(Protocol):
    """What a configuration says of the folder of its results."""

    results: str
    experiment: str


@dataclass(frozen=True, slots=True)
class Results:
    """All paths of one experiment.

    Attributes:
        root: ``results/{experiment}``.
    """

    root: Path

    @classmethod
    def of(cls, config: Experiment) -> Results:
        """The results of a configuration."""
        return cls(Path(config.results) / config.experiment)

    @property
    def config(self) -> Path:
        """The checked configuration, as the workflow leaves it for the stages."""
        return self.root / "config.json"

    def download(self, dataset: str) -> Path:
        """Says where a data set's folder came from."""
        return self.root / dataset / "download.json"

    def ingest(self, dataset: str) -> IngestFolder:
        """Manifest, folds and test set."""
        return IngestFolder(self.root / dataset / "ingest")

    def plan(self, dataset: str) -> PlanFolder:
        """Fingerprint and plans."""
        return PlanFolder(self.root / dataset / "plan")

    def store(self, dataset: str, grid: str) -> StoreFolder:
        """Prepared cases on one grid."""
        return StoreFolder(self.root / dataset / "preprocess" / grid)

    def weights(self, model: str) -> Path:
        """Record of the trained weights that a model's encoder starts from; fetched files lie beside it."""
        return self.root / "weights" / f"{model}.json"

    def model(self, key: RunKey) -> ModelFolder:
        """The trained model; the same one for validation and test cases."""
        return ModelFolder(self.root / key.dataset / "train" / key.model / key.run)

    def models(self, dataset: str = "*") -> list[ModelFolder]:
        """Every model folder with a description, of one data set or of all, by path."""
        found = self.root.glob(f"{dataset}/train/*/*/{ModelFolder(Path()).description}")
        return [ModelFolder(path.parent) for path in sorted(found)]

    def state(self, key: RunKey) -> Path:
        """Folder of the state of an unfinished training; no output of a rule, since those are deleted on failure."""
        return self.root / ".state" / key.dataset / key.model / key.run

    def predict(self, key: RunKey) -> PredictionFolder:
        """Predictions as the network gave them."""
        return PredictionFolder(self._of(key) / "predict" / key.model / key.run)

    def postprocess(self, key: RunKey) -> PredictionFolder:
        """Predictions after the operations of the configuration, where there are any."""
        return PredictionFolder(self._of(key) / "postprocess" / key.model / key.run)

    def scores(self, key: RunKey) -> Path:
        """Score rows of one training."""
        return self._of(key) / "evaluate" / key.model / f"{key.run}.parquet"

    def scores_shard(self, key: RunKey, shard: str) -> Path:
        """Score rows of a part of the cases (``0-of-4``)."""
        return table_of_shard(self.scores(key), f"shard-{shard}")

    @property
    def compare(self) -> CompareFolder:
        """The comparison of all models on their validation folds."""
        return CompareFolder(self.root / "compare")

    @property
    def report(self) -> ReportFolder:
        """The report."""
        return ReportFolder(self.root / "report")

    @property
    def tracking(self) -> TrackingFolder:
        """What tracking remembers."""
        return TrackingFolder(self.root / "tracking")

    @property
    def test(self) -> TestFolder:
        """Opened test sets."""
        return TestFolder(self.root / TEST)

    def tested_ensemble(self, key: RunKey) -> ModelFolder:
        """What an ensemble is of that predicts test cases: it may be of other folds than those that are validated."""
        return ModelFolder(self.test.folder / key.dataset / "ensemble" / key.model / key.run)

    @property
    def logs(self) -> Path:
        """Folder of the rules' logs."""
        return self.root / "logs"

    @property
    def benchmarks(self) -> Path:
        """Folder of the tables of seconds and memory that Snakemake measures."""
        return self.root / "benchmarks"

    def log(self, job: str, dataset: str = DATASET) -> Path:
        """Log of a rule's jobs, a pattern; of one data set where the rule is about one."""
        return self.logs / f"{JOBS[job].replace(DATASET, dataset)}.log"

    def faults(self, dataset: str) -> Path:
        """Every fault of a data set, where a terminal gets a part of them; no job makes or reads it."""
        return self.logs / "faults" / f"{dataset}.txt"

    def benchmark(self, job: str, dataset: str = DATASET) -> Path:
        """Benchmark of a rule's jobs, a pattern; of one data set where the rule is about one."""
        return self.benchmarks / f"{JOBS[job].replace(DATASET, dataset)}.tsv"

    def _of(self, key: RunKey) -> Path:
        """Folder of a data set's predictions and scores; those of test cases lie apart."""
        return (self.test.folder if key.split == TEST else self.root) / key.dataset
