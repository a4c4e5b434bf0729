"""The first 20 losses of every network, in fp32 on one thread: a change of any number on the way shows here.

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

from medseg.files import write_text
from medseg.image.labels import LabelTable
from medseg.models.zoo import MODELS
from medseg.train.loop import Fold, train

FILE = Path(__file__).parent / "traces.json"
STEPS = 20
# Processors with other vector units round differently, and every step spreads that further: measured up to 1.2e-3 after
# 15 steps between SSE4.1 and AVX-512. The first losses are nearly exact, so they are the sharpest test.
TOLERANCE = np.geomspace(1e-4, 5e-3, STEPS)
WRITING = "MEDSEG_WRITE_TRACES" in os.environ
NAMES = [f"{network}-{dims}d" for network in MODELS for dims in (2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_written_down(name: str, tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    network, dims = name[:-3], int(name[-2])
    cases = tiny_cases(dims)
    plan = tiny_plan(network, dims, steps=STEPS, validate_every=STEPS, lr=0.002)
    train(plan, Fold(cases, [], LabelTable.create({"ball": 1, "rod": 3})), 0, tmp_path, name)
    records = [json.loads(line)["metrics"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    losses = [m["train/loss"] for m in records if "train/loss" in m]
    traces = json.loads(FILE.read_text()) if FILE.exists() else {}
    if WRITING:
        traces[name] = [round(v, 6) for v in losses]
        rows = ",\n".join(f'  "{key}": {json.dumps(traces[key])}' for key in sorted(traces))
        write_text(FILE, f"{{\n{rows}\n}}\n")
        pytest.skip("traces written")
    relative = np.abs(np.array(losses) / traces[name] - 1)
    assert (relative < TOLERANCE).all(), relative.round(6).tolist()


@pytest.mark.skipif(WRITING, reason="traces are being written")
def test_every_network_has_its_trace_and_learns() -> None:
    traces = json.loads(FILE.read_text())
    assert sorted(traces) == sorted(NAMES)
    for trace in traces.values():
        assert len(trace) == STEPS
        assert np.mean(trace[-5:]) < 0.95 * np.mean(trace[:5])
    firsts = {trace[0] for trace in traces.values()}
    assert len(firsts) == len(traces)
