"""The training loop, readable top to bottom: resume; then step, journal, validate and save to the last step."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.engine.build import build_placed, build_step
from medseg.engine.group import ALONE, Group
from medseg.engine.heap import keep_freed_memory
from medseg.engine.phases import Phases
from medseg.engine.step import set_exact
from medseg.errors import PlanError, TrainingError
from medseg.image.labels import LabelTable
from medseg.models.finish import finishing
from medseg.models.head import expect_rare
from medseg.patches.sampling import fold_seed, generator
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.progress import Progress, say
from medseg.train.average import Average
from medseg.train.curve import Curve
from medseg.train.data import augment_batch, batch_cases, finishing_batches
from medseg.train.journal import Journal
from medseg.train.loader import batches
from medseg.train.resume import load_state, save_state
from medseg.train.start import Start
from medseg.train.validate import validate

# State is saved this often, or less often if saving is slow: it takes at most one fortieth of the time.
SAVE_INTERVAL_S = 5.0
SAVE_PATIENCE = 40.0
# Steps that ``Means.trace`` records, after as many that are left out.
TRACED_STEPS = 5


@dataclass(frozen=True, slots=True)
class Fold:
    """The prepared cases of one training.

    Attributes:
        train: cases to learn from.
        watch: cases of the validation fold that are predicted for the curves.
        labels: what their label maps mean.
        number: which fold of the study; every draw depends on it.
    """

    train: Sequence[PreparedCase]
    watch: Sequence[PreparedCase]
    labels: LabelTable
    number: int = 0


@dataclass(frozen=True, slots=True)
class Means:
    """What a training is carried out with; no bit of its result depends on it, but for the group's size.

    Attributes:
        workers: processes that read batches ahead; 0: this one reads.
        timeout_s: a batch that takes them longer is an error.
        group: the processes that share each batch.
        trace: file for a trace of some steps, for chrome://tracing or ui.perfetto.dev; None: none.
    """

    workers: int = 0
    timeout_s: float = 300.0
    group: Group = ALONE
    trace: Path | None = None


def train(
    plan: Plan,
    fold: Fold,
    seed: int,
    state: Path,
    label: str,
    start: Start | None = None,
    means: Means | None = None,
    phases: Phases | None = None,
) -> nn.Module:
    """Train from ``start`` (fresh weights), or the newest state in ``state``, to the last step; return the network.

    Args:
        plan: what to train.
        fold: on what.
        seed: of every draw, together with the fold's number.
        state: folder of this training's state and journal.
        label: how messages call it.
        start: weights to begin with.
        means: what to train with.
        phases: filled with where the time went.

    Raises:
        TrainingError: if the loss or its gradient is not finite (names step and cases; the last good state stays), if a
            process that reads dies or hangs, or after SIGTERM, once the state is saved.
    """
    means, phases = means or Means(), phases or Phases(plan.machine.device)
    group, seed = means.group, fold_seed(seed, fold.number)
    network = _network(plan, seed, label, start)
    step_once = build_step(network, plan, group, phases)
    average = Average(network, plan.training.average) if plan.training.average else None
    state.mkdir(parents=True, exist_ok=True)
    with group.in_turn():
        done, memory = load_state(state, step_once, average)
    network.train()
    score = math.nan
    with contextlib.ExitStack() as stack:
        asked_to_stop = stack.enter_context(_sigterm())
        journal = stack.enter_context(
            contextlib.closing(Journal(state / "journal.jsonl" if group.leads else None, done))
        )
        profiler = stack.enter_context(_traced(means.trace)) if means.trace else None
        curve = Curve(plan, memory, journal, label)
        saver = _Saver(lambda step: save_state(state, step, step_once, memory, average), phases)
        if done:
            say(f"{label}: resumed after step {done} of {curve.last_step}")
        bar = Progress(label, curve.last_step, start=done)
        steps, part = range(done, curve.last_step), group.part(plan.training.batch)
        reading = batches(fold.train, plan, seed, steps, workers=means.workers, timeout_s=means.timeout_s, part=part)
        ahead = stack.enter_context(reading)
        for step in steps:
            phases.begin_step(step)
            for parameters in step_once.optimizer.param_groups:
                parameters["lr"] = curve.rate(step)
            with phases.phase("read"):
                raw = next(ahead)
            with phases.phase("transfer"):
                raw = raw.on(plan.machine.device)
            with phases.phase("augment"):
                images, labels = augment_batch(raw, plan, seed, part)
            # What a network draws by itself (dropout) is a function of the step, too, and other in every process.
            torch.manual_seed(int(generator(seed, 5, step, *([group.rank] if group.rank else [])).integers(2**62)))
            at_once, finished = step_once.at_once, step + 1
            loss = step_once(images, labels)
            if step_once.fault is not None:
                raise TrainingError(_not_finite(fold, plan, seed, step, step_once.fault, label))
            if step_once.at_once != at_once:
                few = f"{step_once.at_once} of {plan.training.batch} samples at once"
                say(f"{label}: out of memory at step {finished}; {few} from now on")
                journal.write(finished, {"train/samples_at_once": float(step_once.at_once or plan.training.batch)})
            if average is not None:
                average.update(step)
            curve.take(step, loss)
            bar.total = curve.last_step
            last = finished == curve.last_step
            if last:
                _finish(network, average, fold, plan, seed)
            if finished % plan.training.validate_every == 0 or last:
                with phases.phase("validate"), average.in_place() if average and not last else contextlib.nullcontext():
                    scores = validate(network, fold.watch, plan, fold.labels, group)
                score = scores.get("val/dice/mean", math.nan)
                journal.write(finished, scores)
            stop = group.agree(asked_to_stop())
            if group.leads and (last or stop or saver.due()):
                saver.save(finished)
            bar.update(finished, f"loss {loss:.3f}" + ("" if math.isnan(score) else f" dice {score:.3f}"))
            if stop and not last:
                group.wait()
                raise TrainingError(
                    f"{label}: stopped by SIGTERM after step {finished}; the state is saved, run again to go on"
                )
            if profiler is not None:
                profiler.step()
            if last:
                break
    return network


def _finish(network: nn.Module, average: Average | None, fold: Fold, plan: Plan, seed: int) -> None:
    """What comes after the last step: the mean of the weights takes their place, and the rest is fitted to it."""
    if average is not None:
        average.keep()
    if (fitted := finishing(network)) is not None:
        fitted.finish(finishing_batches(fold.train, plan, seed))


class _Saver:
    """Says when the state is to be saved again, and saves it."""

    def __init__(self, save: Callable[[int], None], phases: Phases) -> None:
        self._save, self._phases = save, phases
        self._saved, self._interval = time.monotonic(), SAVE_INTERVAL_S

    def due(self) -> bool:
        """Whether the last time is long enough ago."""
        return time.monotonic() - self._saved > self._interval

    def save(self, step: int) -> None:
        """Save the state after ``step`` steps."""
        begun = time.monotonic()
        with self._phases.phase("save"):
            self._save(step)
        self._saved = time.monotonic()
        self._interval = max(SAVE_INTERVAL_S, SAVE_PATIENCE * (self._saved - begun))


def _network(plan: Plan, seed: int, label: str, start: Start | None) -> nn.Module:
    """The network before its first step."""
    set_exact(plan.machine.threads, plan.machine.precision)
    keep_freed_memory()
    torch.manual_seed(int(generator(seed, 0).integers(2**62)))
    network = build_placed(plan)
    if plan.network.regions and finishing(network):
        raise PlanError(
            f"{label}: support vector machines tell classes apart that exclude one another, and regions overlap; "
            "set options: {svm: false}, or leave out the regions"
        )
    expect_rare(network, plan.network.out_channels, regions=bool(plan.network.regions))
    if start is not None:
        start.apply(network, label)
    return network


def _not_finite(fold: Fold, plan: Plan, seed: int, step: int, fault: str, label: str) -> str:
    cases = sorted({case.id for case in batch_cases(fold.train, plan, seed, step)})
    return (
        f"{label}: {fault} at step {step}, cases {', '.join(cases)}; the state before it is kept. "
        "Lower the learning rate (models.<name>.lr), set plan.precision: fp32, or look at these cases"
    )


@contextlib.contextmanager
def _traced(path: Path) -> Iterator[Any]:
    """Record every operation of some steps; the trace is written when they are done."""
    from torch import profiler

    path.parent.mkdir(parents=True, exist_ok=True)
    with profiler.profile(
        schedule=profiler.schedule(wait=TRACED_STEPS, warmup=1, active=TRACED_STEPS, repeat=1),
        on_trace_ready=lambda made: made.export_chrome_trace(str(path)),
    ) as running:
        yield running


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a flag that the loop looks at once per step; a second one ends at once."""
    asked: list[int] = []

    def note(signum: int, frame: object) -> None:
        if asked:
            raise SystemExit(128 + signum)
        asked.append(signum)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
