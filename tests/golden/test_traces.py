"""The first losses of every network, in fp32 on one thread: a change of any number on the way shows here.

Sampling, augmentation, initial weights, loss, optimiser and schedule all leave their trace. If a change is meant, write
the traces anew and say why in the changelog:

    MEDSEG_WRITE_TRACES=1 pytest tests/golden
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.files import write_text
from medseg.image.labels import LabelTable
from medseg.networks import NETWORKS
from medseg.train.loop import train
from medseg.train.state import FoldCases
from tests.choices import few

FILE = Path(__file__).parent / "traces.json"
STEPS = 20
# Their steps take longest.
HEAVY = {f"{network}-3d" for network in ("fcn32s", "fcn16s", "fcn8s", "swin_unetr", "basic_unetpp")}
HEAVY_STEPS = 6
# SGD, since Adam makes a whole step of a gradient that is nothing but rounding. Networks without norms still multiply
# what processors round differently from step to step, and learn gently here; so do dilated ones.
RATE = 0.01
NORMLESS = ("unet2015", "fcn32s", "fcn16s", "fcn8s", "hypercolumns")
GENTLE = {f"{network}-{dims}d": 0.002 for network in NORMLESS for dims in (2, 3)} | {
    "dilated-2d": 0.002,
    "deeplabv1-2d": 0.0005,
    "deeplabv2-2d": 0.0005,
    "deeplabv3-2d": 0.002,
    "deeplabv3plus-2d": 0.004,
}
# Processors with bf16 instructions (Intel's with AMX, AMD's) leave the trace of these within seven steps, in fp32, too;
# they have one of their own at a lower rate.
NEWER = {"deeplabv2-3d": 0.002} if torch.cpu._is_avx512_bf16_supported() else {}
# Rounding decides about these from the fourth step on all the same.
CHAOTIC = {"fcn32s-2d", "fcn16s-2d", "fcn8s-2d", "deeplabv3-2d", "deeplabv3-3d", "hypercolumns-2d"}
SURE_STEPS = 3
# Without its norm it learns nothing in so few steps (docs/notebook.md).
SLOW = {"unet2015-3d"}
# Between AVX2 and AVX-512 losses differ by up to 2e-4 in the first steps, where a norm has two voxels to average, and
# that grows.
TOLERANCE = np.geomspace(5e-4, 5e-3, STEPS)
# Before any step there is nothing to grow.
TOLERANCE[0] = 1e-4
# Of `make test`; `make test-all` compares every network.
EVERY_DAY = {"unet", "resenc_unet", "deeplabv3plus", "mednext"}
WRITING = "MEDSEG_WRITE_TRACES" in os.environ
# The cases have classes and no objects.
ROWS = {name: row for name, row in NETWORKS.items() if "classes" in row.heads}
NAMES = [f"{network}-{dims}d" for network, row in ROWS.items() for dims in row.dims]


def steps_of(name: str) -> int:
    return HEAVY_STEPS if name in HEAVY else STEPS


@pytest.mark.parametrize("name", few(NAMES, lambda name: name[:-3] in EVERY_DAY))
def test_losses_are_those_written_down(name: str, tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    network, dims = name[:-3], int(name[-2])
    cases = tiny_cases(dims)
    steps = steps_of(name)
    rate = NEWER.get(name, GENTLE.get(name, RATE))
    key = f"{name} gently" if name in NEWER else name
    plan = tiny_plan(network, dims, steps=steps, validate_every=steps, optimizer="sgd", lr=rate)
    train(plan, FoldCases(cases, [], LabelTable.create({"ball": 1, "rod": 3})), 0, tmp_path, name)
    records = [json.loads(line)["metrics"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    losses = [m["train/loss"] for m in records if "train/loss" in m]
    traces = json.loads(FILE.read_text()) if FILE.exists() else {}
    if WRITING:
        traces[key] = [round(v, 6) for v in losses]
        rows = ",\n".join(f'  "{row}": {json.dumps(traces[row])}' for row in sorted(traces))
        write_text(FILE, f"{{\n{rows}\n}}\n")
        pytest.skip("traces written")
    relative = np.abs(np.array(losses) / traces[key] - 1)[: SURE_STEPS if name in CHAOTIC else steps]
    assert (relative < TOLERANCE[: len(relative)]).all(), relative.round(6).tolist()
    assert len(losses) == steps


@pytest.mark.skipif(WRITING, reason="traces are being written")
def test_every_network_has_its_trace_and_learns() -> None:
    traces = json.loads(FILE.read_text())
    assert sorted(traces) == sorted([*NAMES, "deeplabv2-3d gently"])
    for key, trace in traces.items():
        name = key.removesuffix(" gently")
        assert len(trace) == steps_of(name)
        # Six steps are too few to tell learning from the batches they saw.
        assert name in HEAVY | SLOW or np.mean(trace[-5:]) < 0.95 * np.mean(trace[:5])
    # First losses may agree: skips of FCN-16s start at zero, as an FCN-32s.
    assert len({tuple(trace) for trace in traces.values()}) == len(traces)
