"""A small plan, for whatever needs one, and the plan stage as the command line runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.config import Config
from medseg.models.spec import NetworkSpec
from medseg.networks import NETWORKS
from medseg.plan.plan import Grid, Machine, Plan, Training


def head_of(network: str) -> str:
    """The head of a network that knows objects only; else it is tested with classes."""
    heads = NETWORKS[network].heads
    return "" if "classes" in heads else heads[0]


def tiny_plan(network: str = "unet", dims: int = 2, **changes: Any) -> Plan:
    """A plan that trains a step in milliseconds; ``changes`` are values by their fields' names.

    Two classes and the background; where a network knows objects only, objects of one class.
    """
    stages = ((1,) * dims, (2,) * dims, (2,) * dims)
    patch = (32, 32) if dims == 2 else (16, 16, 16)
    head = head_of(network)
    plan = Plan(
        model="tiny",
        grid=Grid("px" if dims == 2 else "mm", dims == 3, (1.0,) * dims, ("none",), ({},)),
        # Widths not below 8: oneDNN 3.12 corrupts memory in strided 1 x 1 convolutions of fewer channels (2-D, AVX2).
        network=NetworkSpec(
            dims, 1, 2 if head else 3, (8, 16, 16), stages, ((3,) * dims,) * 3, patch, name=network, head=head
        ),
        training=Training("dice_ce", "adamw", 0.005, 1e-4, "default", 0.33, batch=2, steps=6, validate_every=3),
        machine=Machine("cpu", "fp32", threads=1),
        reasons={},
    )
    return plan.changed(**changes)


def run_plan(config: Config, model: str, fingerprint: Path, out: Path | None, measure: Any = None) -> Plan:
    """The plan stage, with what this machine has."""
    from medseg.engine.memory import estimate_memory, estimate_work
    from medseg.engine.resources import available_resources
    from medseg.plan import run as stage

    here = available_resources(config.device, config.budget.memory_gb, config.threads, config.processes)
    return stage.run(config, model, fingerprint, out, here, estimate_memory, measure, estimate_work)
