"""The pace of training on this machine: the loop's own parts, timed on made-up cases of the data's size."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.engine.build import build_placed, build_step
from medseg.engine.heap import keep_freed_memory
from medseg.engine.placement import set_exact
from medseg.engine.step import Step
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.objects import of_numbers
from medseg.models.finish import finishing
from medseg.patches.tiling import window_starts
from medseg.plan.budget import Pace
from medseg.plan.plan import Plan
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.store import PreparedCase, write_case
from medseg.results.folders import StoreFolder
from medseg.train.data import finishing_batches, make_batch
from medseg.train.resume import LossHistory, save_state
from medseg.train.saving import SAVE_INTERVAL_S, SAVE_PATIENCE
from medseg.train.tuned import tuned_decoding, tuned_voxels
from medseg.train.validate import validate

# The first steps choose algorithms and fill caches.
WARM_UP = 2
LEAST_STEPS = 3
VALIDATED = 4
LARGEST_IN_WINDOWS = 2
# Voxels per axis of made-up objects.
OBJECT = 16


def measure(plan: Plan, shapes: Sequence[tuple[int, ...]], seconds: float) -> Pace:
    """Time training steps for about ``seconds``, one validation case and one save.

    The mean of the middle four fifths of the steps and the quickest validation count: a moment's disturbance must not
    plan a day's training, while the spread of ordinary steps is part of it.

    Args:
        plan: what to train; its steps do not matter.
        shapes: voxels per axis of the data of every prepared image.
        seconds: how long to take steps, after two that do not count; at least three are timed.
    """
    # Each of several processes takes its part of a batch at the same time.
    plan = plan.changed(batch=plan.training.batch // plan.machine.processes, processes=1)
    set_exact(plan.machine.threads, plan.machine.precision)
    keep_freed_memory()
    torch.manual_seed(0)
    network = build_placed(plan)
    step = build_step(network, plan)
    # Cases are no larger than some windows per axis: a step reads no more of them anyway.
    median = np.median(shapes, axis=0)
    size = tuple(max(1, min(round(n), LARGEST_IN_WINDOWS * w)) for n, w in zip(median, plan.window, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        store = StoreFolder(Path(folder))
        cases = [_made_up_case(plan, size, store.case(f"case{k}"), k) for k in range(2)]
        times = _step_times(step, cases, plan, seconds)
        begun = _now(plan.machine.device)
        save_state(Path(folder) / "state", 0, step, LossHistory())
        save_s = _now(plan.machine.device) - begun
        # Time goes with the windows that it takes to cover an image.
        windows = statistics.mean(_windows(shape, plan) for shape in shapes)
        validation_s = _validation_seconds(network, cases[0], plan) * windows / _windows(size, plan)
        begun, scale = _now(plan.machine.device), 1.0
        if (part := finishing(network)) is not None:
            part.finish(finishing_batches(cases, plan, 0))
        if plan.network.learns_objects:
            labels = LabelTable.create({str(k): k for k in range(1, plan.network.classes)}, instances=True)
            tuned_decoding(network, cases, plan, labels, 0)
            scale = tuned_voxels(shapes, plan.network.dims) / tuned_voxels([size] * len(cases), plan.network.dims)
        finish_s = (_now(plan.machine.device) - begun) * scale
    return Pace(
        step_s=_middle_mean(times),
        validation_s=validation_s,
        save_share=save_s / max(SAVE_INTERVAL_S, SAVE_PATIENCE * save_s),
        finish_s=finish_s,
    )


def _step_times(step: Step, cases: Sequence[PreparedCase], plan: Plan, seconds: float) -> list[float]:
    """Seconds of each step."""
    times: list[float] = []
    begun = _now(plan.machine.device)
    number = 0
    while number < WARM_UP + LEAST_STEPS or _now(plan.machine.device) - begun < seconds:
        if number == WARM_UP:
            begun = _now(plan.machine.device)
        started = _now(plan.machine.device)
        step(*make_batch(cases, plan, 0, number))
        times.append(_now(plan.machine.device) - started)
        number += 1
    return times[WARM_UP:]


def _middle_mean(times: Sequence[float]) -> float:
    cut = len(times) // 10
    return statistics.mean(sorted(times)[cut : len(times) - cut])


def _made_up_case(plan: Plan, size: tuple[int, ...], path: Path, seed: int) -> PreparedCase:
    """A prepared case of noise, with labels of every class and as many locations as a real one has at most."""
    rng = np.random.Generator(np.random.PCG64(seed))
    image = rng.standard_normal((plan.network.in_channels, *size), dtype=np.float32)
    labels = rng.integers(0, plan.network.classes, size, dtype=np.uint8)
    classes = np.repeat(np.arange(0 if plan.training.ignore else 1, plan.network.classes), 1000)[:, None]
    voxels = rng.integers(0, size, (len(classes), len(size)))
    axes = tuple(range(len(size)))
    grid = Geometry.from_spacing(size, [s or 1.0 for s in plan.grid.spacing], plan.grid.unit)
    record = InverseRecord(grid, axes, (False,) * len(size), (0,) * len(size), size, size)
    objects = of_numbers(_tiles(size), np.maximum(labels, 1)) if plan.network.learns_objects else None
    write_case(path, "", image, labels, np.hstack([classes, voxels]).astype(np.int32), record, objects=objects)
    return PreparedCase.open(path)


def _tiles(size: tuple[int, ...]) -> NDArray[np.int64]:
    """(S) object numbers that fill an image with tiles of ``OBJECT`` voxels per axis."""
    counts = [-(-n // OBJECT) for n in size]
    places = np.ix_(*[np.arange(n) // OBJECT for n in size])
    return np.ravel_multi_index(np.broadcast_arrays(*places), counts) + 1


def _validation_seconds(network: nn.Module, case: PreparedCase, plan: Plan) -> float:
    """Seconds to validate on one case, by the loop's own function; the quickest of some."""
    # Reading off regions costs what reading off as many classes does.
    classes = (
        plan.network.classes if plan.network.learns_objects else max(plan.network.classes, plan.network.out_channels)
    )
    flat = plan.changed(regions=(), ignore=False, classes=classes)
    labels = LabelTable.create({str(k): k for k in range(1, flat.network.classes)})
    times = []
    for _ in range(VALIDATED):
        begun = _now(plan.machine.device)
        validate(network, [case], flat, labels)
        times.append(_now(plan.machine.device) - begun)
    return min(times)


def _windows(shape: Sequence[int], plan: Plan) -> int:
    """Sliding windows that cover an image."""
    return int(np.prod([len(window_starts(n, w)) for n, w in zip(shape, plan.window, strict=True)]))


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
