"""The child processes of benchmarks/train.py: the training loop's own step, timed on real prepared cases.

    python benchmarks/train_steps.py {loop,steps} FACTS

FACTS is JSON: the files of a training, and how long to measure.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.engine.build import build_placed, build_step
from medseg.engine.heap import keep_freed_memory
from medseg.engine.phases import Phases
from medseg.engine.placement import set_exact
from medseg.files import read_json
from medseg.ingest.splits import read_split
from medseg.patches.sampling import generator
from medseg.plan.plan import VALIDATION_CASES, Plan
from medseg.preprocess.store import open_store
from medseg.train.data import RawBatch, augment_batch, make_batch
from medseg.train.loader import batches
from medseg.train.pace import measure
from medseg.train.schedule import learning_rate

# Steps between two looks at the clock. A GPU works on while the next batch is read: waiting for it at every step would
# take that away.
BLOCK = {"cpu": 1, "cuda": 10}
ENDLESS = 1 << 40
SHOWN = ("name", "patch", "batch", "widths", "precision", "channels_last", "optimizer", "augment", "threads")


class Trainer:
    """What the training loop does in a step, on the prepared cases of the first fold.

    Args:
        files: plan, index of the store, splits.
        workers: processes that read ahead.
        stack: ends them.
    """

    def __init__(self, files: Mapping[str, str], workers: int, stack: ExitStack) -> None:
        plan = self.plan = Plan.from_json(read_json(Path(files["plan"])))
        _, cases, _ = open_store(Path(files["index"]))
        self.cases = [cases[i] for i in read_split(Path(files["splits"]), 0)[0]]
        self.number, self.workers = 0, workers
        if not workers:
            # As after a training's first pass over its cases, from when on small ones are decoded.
            for case in self.cases:
                case.read_image()
                case.read_labels()
        set_exact(plan.machine.threads, plan.machine.precision)
        keep_freed_memory()
        torch.manual_seed(0)
        self.step = build_step(build_placed(plan).train(), plan)
        # Steps of either kind note where their time goes, which is a part of what they cost.
        self.phases, self.other_phases = Phases(plan.machine.device), Phases(plan.machine.device)
        reading = batches(self.cases, plan, 0, range(ENDLESS), workers=workers)
        self.ahead: Iterator[RawBatch] = stack.enter_context(reading)

    def real(self) -> None:
        """One step, from reading its patches to the updated weights, as in `medseg.train.loop`."""
        phases = self.step.phases = self.phases
        phases.begin_step(self.number)
        for group in self.step.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.number % self.plan.training.steps)
        with phases.phase("read"):
            raw = next(self.ahead)
        with phases.phase("transfer"):
            raw = raw.on(self.plan.machine.device)
        torch.manual_seed(int(generator(0, 5, self.number).integers(2**62)))
        with phases.phase("augment"):
            images, labels = augment_batch(raw, self.plan, 0)
        self.take(images, labels)
        self.number += 1

    def alone(self, images: Tensor, labels: Tensor) -> None:
        """Forward, backward and update on a batch that is there."""
        self.step.phases = self.other_phases
        self.other_phases.begin_step(self.number)
        self.take(images, labels)

    def take(self, images: Tensor, labels: Tensor) -> None:
        loss = self.step(images, labels)
        if not math.isfinite(loss):
            raise RuntimeError(f"loss {loss} at step {self.number}")

    def now(self) -> float:
        """The time, once everything that was started is done."""
        if self.plan.machine.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def facts(self) -> dict[str, Any]:
        """What is trained, and the phases of its steps."""
        parameters = sum(p.numel() for p in self.step.network.parameters())
        shown = {k: self.plan.value(k) for k in SHOWN}
        return {**shown, "parameters": parameters, "readers": self.workers, "phases": self.phases.to_json()}


def time_loop(facts: Mapping[str, Any], stack: ExitStack) -> dict[str, Any]:
    """Steps of the loop and steps on a resident batch in turn; seconds of a step of either kind, per round."""
    trainer = Trainer(facts["files"], facts["workers"], stack)
    plan = trainer.plan
    images, labels = make_batch(trainer.cases, plan, 0, 0)

    def alone() -> None:
        trainer.alone(images, labels)

    def seconds(step: Callable[[], None], times: int) -> float:
        begun = trainer.now()
        for _ in range(times):
            step()
        return trainer.now() - begun

    for step in (trainer.real, alone):
        seconds(step, facts["warm"])
    trainer.phases = Phases(plan.machine.device)
    block, rounds = BLOCK[plan.machine.device], []
    blocks = math.ceil(facts["steps"] / block)
    for _ in range(facts["rounds"]):
        real_s, alone_s = 0.0, 0.0
        for _ in range(blocks):
            real_s += seconds(trainer.real, block)
            alone_s += seconds(alone, block)
        steps = blocks * block
        rounds.append({"efficiency": alone_s / real_s, "step_s": real_s / steps, "resident_s": alone_s / steps})
    pace = measure(plan, [case.shape for case in trainer.cases], facts["look_s"])
    validation_s = VALIDATION_CASES * pace.validation_s / plan.training.validate_every
    step_s = statistics.median(r["step_s"] for r in rounds)
    beside = {"validation_share": validation_s / (step_s + validation_s), "save_share": pace.save_share}
    return {**trainer.facts(), "steps_per_round": steps, "rounds": rounds, **beside}


def time_steps(facts: Mapping[str, Any], stack: ExitStack) -> dict[str, Any]:
    """Steps of the loop for some seconds; samples per second."""
    trainer = Trainer(facts["files"], facts["workers"], stack)
    for _ in range(facts["warm"]):
        trainer.real()
    trainer.phases = Phases(trainer.plan.machine.device)
    steps, begun = 0, trainer.now()
    while steps < facts["least"] or time.perf_counter() - begun < facts["seconds"]:
        trainer.real()
        steps += 1
    rate = steps * trainer.plan.training.batch / (trainer.now() - begun)
    return {"samples_per_s": rate, "steps": steps, **trainer.facts()}


if __name__ == "__main__":
    kind, given = sys.argv[1:]
    with ExitStack() as opened:
        found = {"loop": time_loop, "steps": time_steps}[kind](json.loads(given), opened)
    print("found " + json.dumps(found))
