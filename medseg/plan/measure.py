"""How long a training step takes here: the plan's own network, batch, loss and augmentation on made-up data."""

from __future__ import annotations

import statistics
import time

import torch

from medseg.augment.policy import RECIPES
from medseg.losses.zoo import build_loss
from medseg.models.step import Step, autocast, build_optimizer, memory_format, place, set_exact
from medseg.models.zoo import build_model
from medseg.plan.plan import Plan

WARM_UP = 3
MEASURED = 8


def step_seconds(plan: Plan) -> tuple[float, float]:
    """Median seconds of one training step (augmentation included) and seconds of one forward pass of a patch.

    The median, so that a moment's disturbance does not plan a day's training.
    """
    set_exact(plan.threads)
    torch.manual_seed(0)
    layout = memory_format(plan.dims)
    network = place(build_model(plan.network, plan.network_spec), plan.device, plan.dims)
    optimizer = build_optimizer(plan.optimizer, network.parameters(), plan.lr, plan.weight_decay)
    step = Step(network, optimizer, build_loss(plan.loss), plan.device, plan.precision)
    images = torch.randn(plan.batch, plan.in_channels, *plan.patch, device=plan.device)
    labels = torch.randint(0, plan.classes, (plan.batch, *plan.patch), device=plan.device)
    seconds = []
    for index in range(WARM_UP + MEASURED):
        begun = _now(plan.device)
        generator = torch.Generator().manual_seed(index)
        x, y = RECIPES[plan.augment](images, labels, generator, plan.spacing, plan.oriented)
        step(x.contiguous(memory_format=layout), y)
        seconds.append(_now(plan.device) - begun)
    step_s = statistics.median(seconds[WARM_UP:])
    network.eval()
    with torch.inference_mode(), autocast(plan.device, plan.precision):
        network(images[:1])
        begun = _now(plan.device)
        network(images[:1])
        forward_s = _now(plan.device) - begun
    return step_s, forward_s


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
