"""One step of a training, and what comes after the last."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medseg.errors import TrainingError
from medseg.models.finish import finishing
from medseg.patches.sampling import generator
from medseg.train.data import RawBatch, augment_batch, batch_cases, finishing_batches
from medseg.train.schedule import learning_rate
from medseg.train.state import TrainState


def take_step(state: TrainState, batches: Iterator[RawBatch]) -> None:
    """Make the next step with the next batch.

    Raises:
        TrainingError: if the loss or its gradient is not finite; names the step and the cases.
    """
    plan, phases, number = state.plan, state.phases, state.done
    phases.begin_step(number)
    for parameters in state.step.optimizer.param_groups:
        parameters["lr"] = learning_rate(plan, number, state.tail)
    with phases.phase("read"):
        raw = next(batches)
    with phases.phase("transfer"):
        raw = raw.on(plan.machine.device)
    with phases.phase("augment"):
        images, labels = augment_batch(raw, plan, state.seed, state.part)
    # What a network draws by itself (dropout) is a function of the step, too, and different in every process.
    rank = [state.group.rank] if state.group.rank else []
    torch.manual_seed(int(generator(state.seed, 5, number, *rank).integers(2**62)))
    loss = state.step(images, labels)
    if state.step.fault is not None:
        raise TrainingError(_not_finite(state, state.step.fault))
    if state.average is not None:
        state.average.update(number)
    state.made_step(loss)


def finish(state: TrainState) -> None:
    """After the last step: the mean of the weights replaces them, and parts without gradients are fitted."""
    if state.average is not None:
        state.average.keep()
    if (fitted := finishing(state.network)) is not None:
        fitted.finish(finishing_batches(state.cases.train, state.plan, state.seed))


def _not_finite(state: TrainState, fault: str) -> str:
    cases = sorted({case.id for case in batch_cases(state.cases.train, state.plan, state.seed, state.done)})
    return (
        f"{state.label}: {fault} at step {state.done}, cases {', '.join(cases)}; the state before it is kept. "
        "Lower the learning rate (models.<name>.lr), set plan.precision: fp32, or look at these cases"
    )
