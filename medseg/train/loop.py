"""The training loop, readable top to bottom: resume; then step, journal, validate and save to the plan's last step."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medseg.errors import PlanError, TrainingError
from medseg.image.labels import LabelTable
from medseg.losses.zoo import build_loss
from medseg.models.finish import finishing
from medseg.models.head import expect_rare
from medseg.models.step import Step, build_optimizer, place, set_exact
from medseg.models.zoo import build_model
from medseg.patches.sampling import generator
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.progress import Progress, say
from medseg.train.data import batch_cases, finishing_batches, make_batch
from medseg.train.journal import Journal
from medseg.train.resume import load_state, save_state
from medseg.train.start import Start
from medseg.train.validate import validate

# State is saved this often, or less often if saving is slow: it takes at most one fortieth of the time.
SAVE_INTERVAL_S = 5.0
SAVE_PATIENCE = 40.0
JOURNAL_RECORDS = 200
WARM_UP_SHARE = 0.05
WARM_UP_STEPS = 100
POLY_POWER = 0.9


@dataclass(frozen=True, slots=True)
class Fold:
    """The prepared cases of one training.

    Attributes:
        train: cases to learn from.
        watch: cases of the validation fold that are predicted for the curves.
        labels: what their label maps mean.
    """

    train: Sequence[PreparedCase]
    watch: Sequence[PreparedCase]
    labels: LabelTable


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up over 5 % of the steps (at most 100) times polynomial decay, power 0.9 (Isensee et al. 2021)."""
    warm = min(WARM_UP_STEPS, max(1, int(plan.steps * WARM_UP_SHARE)))
    decay: float = (1 - step / plan.steps) ** POLY_POWER
    return plan.lr * min(1.0, (step + 1) / warm) * decay


def train(plan: Plan, fold: Fold, seed: int, state: Path, label: str, start: Start | None = None) -> nn.Module:
    """Train from ``start`` (fresh weights), or the newest state in ``state``, to the last step; return the network.

    Raises:
        TrainingError: if the loss is not finite (names step and cases; the last good state stays), or after SIGTERM,
            once the state is saved.
    """
    set_exact(plan.threads)
    torch.manual_seed(int(generator(seed, 0).integers(2**62)))
    network = build_model(plan.network, plan.network_spec)
    if plan.regions and finishing(network):
        raise PlanError(
            f"{label}: support vector machines tell classes apart that exclude one another, and regions overlap; "
            "set options: {svm: false}, or leave out the regions"
        )
    expect_rare(network, plan.outputs, regions=bool(plan.regions))
    network = place(network, plan.device, plan.dims)
    optimizer = build_optimizer(plan.optimizer, network.parameters(), plan.lr, plan.weight_decay)
    loss_of = build_loss(plan.loss, plan.regions, ignore=plan.ignore)
    step_once = Step(network, optimizer, loss_of, plan.device, plan.precision)
    state.mkdir(parents=True, exist_ok=True)
    done, losses = load_state(state, network, optimizer, step_once.scaler)
    if not done and start is not None:
        start.apply(network, label)
    if done:
        say(f"{label}: resumed after step {done} of {plan.steps}")
    journal = Journal(state / "journal.jsonl", done)
    journal_every = max(1, plan.steps // JOURNAL_RECORDS)
    bar = Progress(label, plan.steps, start=done)
    saved, interval, score = time.monotonic(), SAVE_INTERVAL_S, math.nan
    network.train()
    with _sigterm() as asked_to_stop, contextlib.closing(journal):
        for step in range(done, plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan, step)
            # What a network draws by itself (dropout) is a function of the step, too.
            torch.manual_seed(int(generator(seed, 5, step).integers(2**62)))
            loss = step_once(*make_batch(fold.train, plan, seed, step))
            if not math.isfinite(loss):
                raise TrainingError(_not_finite(fold, plan, seed, step, loss, label))
            losses.append(loss)
            finished = step + 1
            last = finished == plan.steps
            if last and (part := finishing(network)) is not None:
                part.finish(finishing_batches(fold.train, plan, seed))
            if finished % journal_every == 0 or last:
                journal.write(
                    finished, {"train/loss": sum(losses) / len(losses), "train/lr": learning_rate(plan, step)}
                )
                losses = []
            if finished % plan.validate_every == 0 or last:
                scores = validate(network, fold.watch, plan, fold.labels)
                score = scores.get("val/dice/mean", math.nan)
                journal.write(finished, scores)
            if time.monotonic() - saved > interval or last or asked_to_stop():
                begun = time.monotonic()
                save_state(state, finished, network, optimizer, step_once.scaler, losses)
                saved = time.monotonic()
                interval = max(SAVE_INTERVAL_S, SAVE_PATIENCE * (saved - begun))
            bar.update(finished, f"loss {loss:.3f}" + ("" if math.isnan(score) else f" dice {score:.3f}"))
            if asked_to_stop() and not last:
                raise TrainingError(
                    f"{label}: stopped by SIGTERM after step {finished}; the state is saved, run again to go on"
                )
    return network


def _not_finite(fold: Fold, plan: Plan, seed: int, step: int, loss: float, label: str) -> str:
    cases = sorted({case.id for case in batch_cases(fold.train, plan, seed, step)})
    return (
        f"{label}: loss {loss} at step {step}, cases {', '.join(cases)}; the state before it is kept. "
        "Lower the learning rate (models.<name>.lr), set plan.precision: fp32, or look at these cases"
    )


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
