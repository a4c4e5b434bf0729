"""The folders that stages write, and what the files in them are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Suffix of a prepared case.
PREPARED = ".case"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What runs of the workflow leave for one another in ``results/{experiment}``; no results.

    No data set, model or case can have these names, since those begin with a letter or digit.
    """

    folder: Path

    @property
    def token(self) -> Path:
        """Which run may write (``medseg.fence``)."""
        return self.folder / ".run" / "token"

    @property
    def workflow(self) -> Path:
        """Lock that a running workflow holds."""
        return self.folder / ".run" / "workflow.lock"

    @property
    def submitted(self) -> Path:
        """What a run noted that has a cluster run its jobs, until it has ended (``medseg.takeover``)."""
        return self.folder / ".run" / "submitted.json"

    @property
    def made(self) -> Path:
        """Folder of lists of files that jobs made (``medseg.outputs``)."""
        return self.folder / ".run" / "made"


@dataclass(frozen=True, slots=True)
class IngestFolder:
    """What ``medseg ingest`` writes for one data set."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """A row per case; the test set's cases are not among them."""
        return self.folder / "manifest.tsv"

    @property
    def dataset(self) -> Path:
        """What holds for all cases: dimensions, channels, labels."""
        return self.folder / "dataset.json"

    @property
    def splits(self) -> Path:
        """The folds."""
        return self.folder / "splits.json"

    @property
    def test_manifest(self) -> Path:
        """Cases of the test set, in the manifest's format; only ``medseg test`` and checks of lineage read it."""
        return self.folder / "test.tsv"

    @property
    def test_declaration(self) -> Path:
        """How the test set was declared."""
        return self.folder / "test.json"

    @property
    def read(self) -> Path:
        """What reading each case gave, for the next ingest; no result."""
        return self.folder / ".read"


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """What ``medseg fingerprint`` and ``medseg plan`` write for one data set."""

    folder: Path

    @property
    def fingerprint(self) -> Path:
        """The data set in numbers."""
        return self.folder / "fingerprint.json"

    def plan(self, model: str) -> Path:
        """The plan of one model."""
        return self.folder / f"{model}.json"


def table_of_shard(table: Path, shard: str) -> Path:
    """Scores of a part of the cases (``shard-0-of-4``), in a folder beside the table that they are joined into.

    Not in the table's own folder, so that ``evaluate/*/*.parquet`` are whole tables.
    """
    return table.with_name(f"{table.stem}-shards") / f"{shard}{table.suffix}"


@dataclass(frozen=True, slots=True)
class ShardedFolder:
    """A folder that several jobs may write into, each for its part of the cases."""

    folder: Path

    def shard(self, shard: str) -> Path:
        """Says that a part of the cases (``0-of-4``) is done."""
        return self.folder / f"shard-{shard}.json"


@dataclass(frozen=True, slots=True)
class StoreFolder(ShardedFolder):
    """Prepared cases, as ``medseg preprocess`` writes them."""

    @property
    def index(self) -> Path:
        """The grid and the digests of all cases; written last."""
        return self.folder / "index.json"

    def case(self, case_id: str) -> Path:
        """File of one prepared case; its suffix keeps it apart from the files beside it, whatever a case is called."""
        return self.folder / f"{case_id}{PREPARED}"

    def cases(self) -> list[Path]:
        """The files of all prepared cases that are there."""
        return sorted(self.folder.glob(f"[!.]*{PREPARED}"))


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A trained model, as ``medseg train`` writes it."""

    folder: Path

    @property
    def weights(self) -> Path:
        """The weights."""
        return self.folder / "model.safetensors"

    @property
    def description(self) -> Path:
        """What makes the weights usable; written last, holds their digest."""
        return self.folder / "model.json"

    @property
    def members(self) -> Path:
        """In place of both, of an ensemble: which trainings predict together."""
        return self.folder / "ensemble.json"

    @property
    def postprocess(self) -> Path:
        """The operations that belong to the model, where there are any; ``medseg choose`` writes it."""
        return self.folder / "postprocess.json"

    @property
    def quality(self) -> Path:
        """How the Dice of its predictions is estimated without a reference; ``medseg evaluate`` writes it."""
        return self.folder / "quality.json"

    @property
    def fast(self) -> Path:
        """What fast predictions cost and save; ``medseg price`` writes it."""
        return self.folder / "fast.json"

    @property
    def history(self) -> Path:
        """The training's journal: a line per record of losses and validation scores."""
        return self.folder / "history.jsonl"

    @property
    def timing(self) -> Path:
        """Seconds, steps and attempts."""
        return self.folder / "timing.json"


@dataclass(frozen=True, slots=True)
class PredictionFolder(ShardedFolder):
    """Label maps of the cases of one split, as ``medseg predict`` and ``medseg postprocess`` write them."""

    @property
    def record(self) -> Path:
        """The cases, their label maps and their digests; written last."""
        return self.folder / "predictions.json"

    @property
    def effect(self) -> Path:
        """What chosen operations changed in the scores of these cases; ``medseg postprocess`` writes it."""
        return self.folder / "effect.json"

    @property
    def timing(self) -> Path:
        """Seconds that post-processing took."""
        return self.folder / "timing.json"


@dataclass(frozen=True, slots=True)
class CompareFolder:
    """What ``medseg compare`` writes."""

    folder: Path

    @property
    def scores(self) -> Path:
        """All score rows in one table."""
        return self.folder / "scores.parquet"

    @property
    def leaderboard(self) -> Path:
        """Models by rank."""
        return self.folder / "leaderboard.csv"

    @property
    def summary(self) -> Path:
        """Means, intervals, paired comparisons."""
        return self.folder / "summary.json"


@dataclass(frozen=True, slots=True)
class ReportFolder:
    """What ``medseg report`` writes."""

    folder: Path

    @property
    def page(self) -> Path:
        """The report; written last."""
        return self.folder / "index.html"

    @property
    def figures(self) -> Path:
        """Folder of its pictures."""
        return self.folder / "figures"

    def figure(self, *names: str) -> Path:
        """A picture: what it shows, data set, and further names; with commas, which no name has, so that none collide.

        ``figure("overlay", "cells", "case_01", "unet")`` is ``figures/overlay,cells,case_01,unet.png``.
        """
        return self.figures / f"{','.join(names)}.png"


@dataclass(frozen=True, slots=True)
class TrackingFolder:
    """What ``medseg track`` writes, besides the store."""

    folder: Path

    @property
    def store(self) -> Path:
        """Which store and which experiment in it."""
        return self.folder / "store.json"

    @property
    def synced(self) -> Path:
        """Says what was synchronised."""
        return self.folder / "synced.txt"


@dataclass(frozen=True, slots=True)
class TestFolder:
    """What ``medseg test`` writes, besides predictions and scores."""

    folder: Path

    @property
    def opened(self) -> Path:
        """The record of openings; on disk before the first score."""
        return self.folder / "opened.json"

    @property
    def compare(self) -> CompareFolder:
        """The comparison on the test sets."""
        return CompareFolder(self.folder / "compare")

    def predictions(self) -> list[Path]:
        """Records of predictions of any test set."""
        return sorted(self.folder.glob(f"*/predict/*/*/{PredictionFolder(Path()).record}"))
