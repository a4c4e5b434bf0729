"""Networks that detect objects learn twenty phantoms, through their own objective and the maps that they paint."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.engine.step import Step, build_optimizer
from medseg.image.objects import encode
from medseg.ingest.phantoms import DRAW
from medseg.metrics.matching import Matching
from medseg.models.finish import finishing
from medseg.models.objective import own_objective
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.objects.decode import decode
from medseg.objects.decoding import Decoding

CASES, PATCH, BATCH, RATE = 20, 128, 4, 1e-3
# Network -> steps, and AP at an IoU of 0.5 on the phantoms that it learnt.
NETWORKS = {"mask_rcnn": (120, 0.8)}


@cache
def phantom(case: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """An image, normalised, and its object numbers."""
    image, numbers, _ = DRAW["cells"](np.random.Generator(np.random.PCG64([1, 0, case])), case)
    return ((image - image.mean()) / image.std()).astype(np.float32), numbers.astype(np.int64)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Windows of phantoms, turned and mirrored: images (N, 1, S) and codes (N, S)."""
    rng = np.random.default_rng([3, step])
    images, codes = np.zeros((BATCH, 1, PATCH, PATCH), np.float32), np.zeros((BATCH, PATCH, PATCH), np.int64)
    for row in range(BATCH):
        image, numbers = phantom(int(rng.integers(CASES)))
        corner = [int(rng.integers(max(1, n - PATCH + 1))) for n in image.shape]
        window = tuple(slice(c, c + PATCH) for c in corner)
        turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
        for whole, into in ((image, images[row, 0]), (encode(numbers, numbers > 0), codes[row])):
            part = np.rot90(np.pad(whole[window], [(0, PATCH - n) for n in whole[window].shape]), turns)
            into[:] = part[::-1] if mirrored else part
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last), torch.from_numpy(codes)


def average_precision(network: nn.Module, threshold: float) -> float:
    hits = errors = 0
    for case in range(CASES):
        image, numbers = phantom(case)
        with torch.inference_mode():
            maps = network(torch.from_numpy(image)[None, None])[0].sigmoid()
        found = decode("boundary", (maps * 1024).round().short().numpy(), (1.0, 1.0), Decoding())
        matched = Matching.of(numbers, found.astype(np.int64)).at(threshold)
        hits, errors = hits + matched.tp, errors + matched.fp + matched.fn
    return hits / (hits + errors)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NETWORKS)
def test_twenty_phantoms_are_learnt(name: str) -> None:
    steps, enough = NETWORKS[name]
    stages = ((1, 1), *[(2, 2)] * 4)
    spec = NetworkSpec(2, 1, 2, (8, 16, 32, 64, 128), stages, ((3, 3),) * 5, (PATCH, PATCH), name=name, head="boundary")
    torch.manual_seed(0)
    network = build_model(name, spec).to(memory_format=torch.channels_last)
    own = own_objective(network)
    assert own is not None
    optimizer = build_optimizer("adamw", network.parameters(), RATE, 1e-4)
    step = Step(network, optimizer, own.objective, "cpu", "fp32")
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - number / steps) ** 0.9
        torch.manual_seed(number)
        step(*batch(number))
        assert step.fault is None
    if (fitted := finishing(network)) is not None:
        fitted.finish(batch(steps + number) for number in range(8))
    assert average_precision(network.eval(), 0.5) >= enough
