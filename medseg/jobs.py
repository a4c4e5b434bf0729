"""Memory and time that the workflow's jobs ask a cluster for, from the manifest and the plan where these exist.

They are limits, not forecasts: rounded up, and multiplied by the attempt where a job is retried. On one machine
Snakemake enforces none of them. It asks when it draws the graph, before anything has run, and again before a job
starts; the first answer is then a plain default. No bit of a result depends on them.

Free of torch, numpy and pandas, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from medseg.config import Config
from medseg.results.paths import Results
from medseg.workload import CaseSize, Planned, case_sizes, compared, planned

# Resident memory of a process that has imported what the stage needs, in MB, rounded up.
PROCESS_MB = 600
TORCH_MB = 1500
CUDA_MB = 4000  # a GPU's driver and libraries map a few GB of host memory into each process
# Bytes per voxel and channel while a case is read (``preprocess.memory``: numbers may go through double precision).
READING = 26
# Bytes per voxel of label maps on the native grid, and of the distances between their surfaces.
LABELS = 32
# Of object data beyond that, per voxel: numbering objects, and decoding them (measured: 59 bytes at the peak).
OBJECTS = 64
# Of objects of several classes, per voxel: writing the class of each voxel (measured: 7.9 bytes, as NIfTI).
CLASS_MAP = 8
# Minutes that a job may take in any case: imports from a busy file system take some of them.
START_MINUTES = 20
# Seconds for a case, and for a million of its voxels and channels, in one process: several times those of a server.
CASE_SECONDS = {
    "ingest": (5, 2),
    "fingerprint": (5, 2),
    "preprocess": (5, 5),
    "predict": (5, 10),
    # Every case is read about ten times.
    "choose": (50, 50),
    "postprocess": (5, 5),
    "evaluate": (5, 10),
}
# Arithmetic operations of a network in a second that are counted on. One core with AVX-512 managed 80 to 165 thousand
# million (docs/notebook.md); with 8 million million, nnU-Net's 250,000 steps (5.7 million million each) take two days
# and a half, which is slow for any card of a cluster. And seconds of a step for all else.
GPU_PACE, THREAD_PACE, STEP_SECONDS = 8e12, 16e9, 0.1
BESIDE_STEPS = 0.25  # validation and saving, as a share of the training's steps
# Compare (benchmarks/compare.py): bytes that it holds of a score row, of a case in all resamples and of a row of its
# paired comparisons; MB that it holds in any case; score rows, and products of two classes in a resample, that it
# surely manages in a second. Measured: 25, 20,000 and 2,500 bytes, 300 MB, 1.3 million rows, 50,000 million products.
COMPARED, RESAMPLED, PAIRED = 50, 25_000, 4000
COMPARING_MB = 500
COMPARED_A_SECOND, PRODUCTS_A_SECOND = 200_000, 10e9
RESAMPLES = 10_000  # of subjects (``compare.interval.RESAMPLES``)
# Bytes of the report: of a model's label map of a case, by voxel; of its score of a class of a case.
MAPPED, REPORTED = 4, 400
DAY_MINUTES = 1440  # before the plan says how much work its steps are
SIDE_BY_SIDE = ("ingest", "fingerprint", "preprocess")  # on as many cases at once as they have threads
UNKNOWN_CASES = 100  # before ingest has counted them
# How rules of ensembles end, and what those take beyond one member: sums, small networks (``predict.ensemble``).
TOGETHER, TOGETHER_MB = "_together", 400
# Small arrays that a process keeps decoded while it trains, at most (``preprocess.arrays.DECODED_BYTES``).
DECODED_MB = 537
MB = 1e6


def reading_workers(config: Config, gpu: bool) -> int:
    """Processes that read the batches of each process of a training ahead."""
    if config.loader.workers is not None:
        return config.loader.workers
    return 2 if gpu else 0


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the workflow.

    Attributes:
        config: the experiment.
        rule: name of its rule.
        threads: of the job; stages that read cases side by side hold as many at once.
        gpu: whether networks run on a GPU, whose memory is not the host's.
        dataset, model: which; None where the rule is not about one.
    """

    config: Config
    rule: str
    threads: int
    gpu: bool
    dataset: str | None = None
    model: str | None = None

    @property
    def stage(self) -> str:
        """The stage that the rule belongs to, whether it works on all cases or on a part of them."""
        return self.rule.removesuffix("_shard").removesuffix(TOGETHER)

    @property
    def members(self) -> list[Job]:
        """Of an ensemble that predicts: what its members would be by themselves; else none."""
        if self.model not in self.config.ensembles or self.stage != "predict":
            return []
        return [replace(self, model=one) for one in self.config.ensembles[self.model].of]

    @property
    def sizes(self) -> tuple[CaseSize, ...]:
        """Sizes of the data set's cases."""
        if self.dataset is None:
            return ()
        ingest = Results.of(self.config).ingest(self.dataset)
        return case_sizes(ingest.manifest, ingest.dataset)

    @property
    def is_known(self) -> bool:
        """Whether the files are there from which memory and time follow; else both are plain defaults."""
        if self.stage == "train":
            return self.planned is not None
        return self.dataset is None or bool(self.sizes)

    @property
    def label(self) -> str:
        """How messages name it."""
        return " ".join([self.rule, "/".join(filter(None, (self.dataset, self.model)))]).strip()

    def memory_mb(self) -> int:
        """Host memory at the first attempt, in MB."""
        most = max((one.memory_mb() for one in self.members), default=0)
        return most + TOGETHER_MB if most else _MEMORY.get(self.stage, _plain_mb)(self)

    @property
    def planned(self) -> Planned | None:
        """What the plan says of the training that the job is about."""
        if self.dataset is None or self.model is None:
            return None
        return planned(Results.of(self.config).plan(self.dataset).plan(self.model))

    def minutes(self) -> int:
        """Time limit at the first attempt, in minutes."""
        if self.stage == "compare":
            return START_MINUTES + _compare_minutes(self.config)
        if self.stage in ("plan", "train"):
            return START_MINUTES + self._training_minutes()
        if self.stage not in CASE_SECONDS:
            return START_MINUTES
        if members := self.members:
            return START_MINUTES + len(self.config.seeds) * sum(one.minutes() - START_MINUTES for one in members)
        each, million = CASE_SECONDS[self.stage]
        sizes = self.sizes
        voxels = sum(size.channels * size.voxels for size in sizes) / 1e6
        seconds = each * (len(sizes) or UNKNOWN_CASES) + million * voxels
        if self.stage in ("predict", "postprocess", "evaluate"):
            # Those of one fold, which may have twice its share of the voxels.
            share = min(1.0, 2 / self.config.folds.count)
            seconds = share * (seconds + (self._applied_seconds() if self.stage == "predict" else 0))
        side_by_side = min(self.threads, len(sizes) or UNKNOWN_CASES) if self.stage in SIDE_BY_SIDE else 1
        parts = self.config.shards if self.rule.endswith("_shard") else 1
        return START_MINUTES + math.ceil(seconds / 60 / side_by_side / parts)

    def _training_minutes(self) -> int:
        """Of a training; planning measures a budget in minutes, which takes less than that."""
        fixed = self.model is not None and self.config.models[self.model].plan.steps is not None
        if self.config.budget.minutes is not None and not fixed:
            return math.ceil(1.5 * self.config.budget.minutes)
        if self.stage == "plan":
            return 0
        known = self.planned
        if known is None or known.operations is None:
            return DAY_MINUTES
        step = STEP_SECONDS + known.operations / self._pace
        return math.ceil(known.steps * step * (1 + BESIDE_STEPS) / 60)

    @property
    def _pace(self) -> float:
        return GPU_PACE if self.gpu else THREAD_PACE * self.config.threads

    def _applied_seconds(self) -> float:
        """Of a network that goes over all cases, in windows that overlap by half and in all mirror images."""
        known = self.planned
        if known is None or known.operations is None:
            return 0.0
        # Forward is a third of a step; windows and mirror images are two each per axis.
        a_voxel = known.operations / 3 / known.voxels * 4**3
        return sum(size.prepared for size in self.sizes) * a_voxel / self._pace


def _plain_mb(job: Job) -> int:
    return 2000


def _reading_mb(job: Job, cases: int) -> float:
    """What reading and preparing the largest cases at once takes."""
    each = sorted(READING * size.channels * size.voxels + 4 * size.channels * size.prepared for size in job.sizes)
    return sum(each[-cases:]) / MB


def _fingerprint_mb(job: Job) -> int:
    return _rounded(PROCESS_MB + _reading_mb(job, job.threads), 4000)


def _host_mb(job: Job, cases: int) -> int:
    """For stages that keep to a host budget: that of the configuration, or else half of what the job has."""
    given = job.config.budget.host_gb
    return _rounded(PROCESS_MB + (1000 * given if given else 2 * _reading_mb(job, cases)), 4000)


def _preprocess_mb(job: Job) -> int:
    return _host_mb(job, job.threads)


def _network_mb(job: Job) -> float:
    """What a network takes in one process beside torch: a training step, or a GPU's driver."""
    if job.gpu:
        return CUDA_MB
    known = job.planned
    step = None if known is None else known.step_gb
    return 1000 * (job.config.budget.memory_gb or 4 if step is None else step)


def _training_mb(job: Job) -> int:
    """Of all processes of a training, and of those that read for them."""
    readers = reading_workers(job.config, job.gpu)
    prepared = sum((4 * size.channels + 1) * size.prepared for size in job.sizes) / MB
    # Each process keeps arrays of its own: readers those of training cases, training those of validation cases, too.
    decoded = min(DECODED_MB, prepared) if job.sizes else DECODED_MB
    each = _network_mb(job) + decoded + readers * (PROCESS_MB + decoded)
    return _rounded((0 if job.gpu else TORCH_MB) + job.config.processes * each, 2000)


def _predict_mb(job: Job) -> int:
    """The network in one process, the image, and its logits."""
    logits = max((LABELS * size.prepared for size in job.sizes), default=0) / MB
    network = _network_mb(job) + (0 if job.gpu else TORCH_MB)
    return _rounded(network + _reading_mb(job, 1) + logits + _objects_mb(job), 4000)


def _objects_mb(job: Job) -> float:
    """What reading objects off maps, and matching them, takes beyond labels; nothing for data without objects."""
    if job.dataset is None or not job.config.datasets[job.dataset].instances:
        return 0
    each = OBJECTS + (CLASS_MAP if job.config.datasets[job.dataset].classes is not None else 0)
    return max((each * size.voxels for size in job.sizes), default=0) / MB


def _postprocess_mb(job: Job) -> int:
    refines = job.dataset is not None and job.config.datasets[job.dataset].postprocess.may_refine
    return _host_mb(job, 1) if refines else _evaluate_mb(job)


def _evaluate_mb(job: Job) -> int:
    labels = max((LABELS * size.voxels for size in job.sizes), default=0) / MB
    return _rounded(PROCESS_MB + labels + _objects_mb(job), 2000)


def _compare_mb(job: Job) -> int:
    found = compared(job.config)
    cases = max((one.cases for one in found), default=0)
    held = COMPARED * sum(one.rows for one in found) + RESAMPLED * cases + PAIRED * sum(one.paired for one in found)
    return _rounded(PROCESS_MB + COMPARING_MB + held / MB, 2000)


def _report_mb(job: Job) -> int:
    """Charts, rows of the paired comparisons, and the largest case with the label maps of all models."""
    found = compared(job.config)
    results, models, largest = Results.of(job.config), len(job.config.models) + len(job.config.ensembles), 0
    for name in job.config.datasets:
        files = results.ingest(name)
        sizes = case_sizes(files.manifest, files.dataset)
        largest = max([largest, *(READING * one.channels * one.voxels + MAPPED * models * one.voxels for one in sizes)])
    shown = REPORTED * models * sum(one.cases * one.classes for one in found)
    held = largest + shown + PAIRED * sum(one.paired for one in found)
    return _rounded(PROCESS_MB + COMPARING_MB + held / MB, 2000)


def _compare_minutes(config: Config) -> int:
    """Reading, and the resamples of every two models."""
    seconds = 0.0
    for one in compared(config):
        seconds += one.rows / COMPARED_A_SECOND + one.products * one.cases * RESAMPLES / PRODUCTS_A_SECOND
    return math.ceil(seconds / 60)


_MEMORY: Mapping[str, Callable[[Job], int]] = {
    "fingerprint": _fingerprint_mb,
    # It plans for what it finds, and a budget in minutes is measured by training steps.
    "plan": _training_mb,
    "preprocess": _preprocess_mb,
    "train": _training_mb,
    "predict": _predict_mb,
    "choose": _postprocess_mb,
    "postprocess": _postprocess_mb,
    "evaluate": _evaluate_mb,
    "compare": _compare_mb,
    "report": _report_mb,
}


def _rounded(megabytes: float, least: int) -> int:
    """Up to the next 100 MB, and at least ``least``."""
    return max(least, 100 * math.ceil(megabytes / 100))
