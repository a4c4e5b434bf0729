"""The network and the training step of a plan."""

from __future__ import annotations

from torch import nn

from medseg.engine.freeze import freeze
from medseg.engine.group import ALONE, Group
from medseg.engine.phases import Phases
from medseg.engine.placement import place
from medseg.engine.step import Step, build_optimizer
from medseg.losses.build import build_loss
from medseg.models.zoo import build_model
from medseg.plan.plan import Plan


def build_network(plan: Plan) -> nn.Module:
    """The plan's network with fresh weights, in the memory of this host; frozen parts are frozen."""
    network = build_model(plan.network.name, plan.network)
    freeze(network, plan.training.freeze)
    return network


def build_placed(plan: Plan) -> nn.Module:
    """The same in its memory layout on its device."""
    return place(build_network(plan), plan.machine.device, plan.network.dims, plan.machine.channels_last)


def build_step(network: nn.Module, plan: Plan, group: Group = ALONE, phases: Phases | None = None) -> Step:
    """The plan's optimisation step of a network."""
    return Step(
        network,
        build_optimizer(plan.training.optimizer, network.parameters(), plan.training.lr, plan.training.weight_decay),
        build_loss(plan.training.loss, plan.network.regions, ignore=plan.training.ignore),
        plan.machine.device,
        plan.machine.precision,
        clip=plan.training.clip,
        compiled=plan.machine.compile,
        group=group,
        phases=phases,
    )
