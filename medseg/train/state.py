"""A training while it runs: what it is, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medseg.engine.build import build_placed, build_step
from medseg.engine.group import ALONE, Group
from medseg.engine.heap import keep_freed_memory
from medseg.engine.phases import Phases
from medseg.engine.placement import set_exact
from medseg.engine.step import Step
from medseg.errors import PlanError
from medseg.image.labels import LabelTable
from medseg.models.finish import finishing
from medseg.models.head import init_foreground_prior
from medseg.patches.sampling import fold_seed, generator
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.results.key import Fold
from medseg.train.average import Average
from medseg.train.resume import LossHistory, load_state
from medseg.train.schedule import Tail, tail_of
from medseg.train.start import Start

# Records of the loss in a whole training, about.
LOSS_RECORDS = 200


@dataclass(frozen=True, slots=True)
class FoldCases:
    """The prepared cases of one training.

    Attributes:
        train: cases to learn from.
        watch: cases of the validation fold that are predicted for the curves; none of the fold ``all``.
        labels: what their label maps mean.
        number: which fold of the study, or ``all``; every draw depends on it.
    """

    train: Sequence[PreparedCase]
    watch: Sequence[PreparedCase]
    labels: LabelTable
    number: Fold = 0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a training is run; no bit of its result depends on it, but for the size of the group.

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


@dataclass(slots=True)
class TrainState:
    """A training while it runs.

    Attributes:
        plan, cases: what is trained, on what.
        seed: of every draw; that of the fold.
        label: how messages name the training.
        group: the processes that share each batch.
        phases: where the time goes.
        step: the optimisation step, with the network, the optimiser and the loss scale.
        average: the mean of the weights, if the plan has one.
        done: steps that were made.
        losses: training losses so far.
        tail: the early end, once the training loss no longer falls.
        loss: of the step that was just made.
        record: mean loss since the last record, where one is due after this step; None: none is due.
        dice: mean Dice of the last validation; NaN: none, or undefined.
    """

    plan: Plan
    cases: FoldCases
    seed: int
    label: str
    group: Group
    phases: Phases
    step: Step
    average: Average | None
    done: int
    losses: LossHistory
    tail: Tail | None = None
    loss: float = math.nan
    record: float | None = None
    dice: float = math.nan

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self.step.network

    @property
    def part(self) -> range | None:
        """Positions of each batch that this process takes; None: all."""
        return self.group.part(self.plan.training.batch)

    @property
    def last_step(self) -> int:
        """Steps of the whole training; fewer than planned once the loss no longer falls."""
        return self.tail.end if self.tail else self.plan.training.steps

    @property
    def finished(self) -> bool:
        """Whether the last step was made."""
        return self.done >= self.last_step

    @property
    def record_every(self) -> int:
        """Steps from one record of the loss to the next."""
        return max(1, self.plan.training.steps // LOSS_RECORDS)

    def made_step(self, loss: float) -> None:
        """Count a step with its loss; decide whether the training ends early."""
        self.done, self.loss, self.record = self.done + 1, loss, None
        self.losses.losses.append(loss)
        if self.done % self.record_every and not self.finished:
            return
        self.record = sum(self.losses.losses) / len(self.losses.losses)
        self.losses.records.append(self.record)
        self.losses.losses.clear()
        if self.tail is None and not self.finished:
            self.tail = tail_of(self.plan, self.losses.records, self.record_every)


def begin(
    plan: Plan, cases: FoldCases, seed: int, folder: Path, label: str, start: Start | None, group: Group, phases: Phases
) -> TrainState:
    """The newest state in ``folder``, or that of a new training; arguments as those of ``loop.train``."""
    seed = fold_seed(seed, cases.number)
    step = build_step(first_network(plan, seed, label, start), plan, group, phases)
    average = Average(step.network, plan.training.average) if plan.training.average else None
    folder.mkdir(parents=True, exist_ok=True)
    with group.in_turn():
        done, losses = load_state(folder, step, average)
    step.network.train()
    state = TrainState(plan, cases, seed, label, group, phases, step, average, done, losses)
    state.tail = tail_of(plan, losses.records, state.record_every)
    return state


def first_network(plan: Plan, seed: int, label: str, start: Start | None) -> nn.Module:
    """The network before its first step."""
    set_exact(plan.machine.threads, plan.machine.precision)
    keep_freed_memory()
    torch.manual_seed(int(generator(seed, 0).integers(2**62)))
    network = build_placed(plan)
    if plan.network.regions and finishing(network):
        raise PlanError(
            f"{label}: support vector machines separate classes that exclude one another, and regions overlap; "
            "set options: {svm: false}, or leave out the regions"
        )
    init_foreground_prior(network, plan.network.out_channels, sigmoids=plan.network.sigmoids)
    if start is not None:
        start.apply(network, label)
    return network
