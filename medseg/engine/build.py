"""A plan as the objects that train: its network, and its step."""

from __future__ import annotations

from torch import nn

from medseg.engine.freeze import freeze
from medseg.engine.group import ALONE, Group
from medseg.engine.phases import Phases
from medseg.engine.step import Step, build_optimizer, place
from medseg.losses.build import build_loss
from medseg.models.zoo import build_model
from medseg.plan.plan import Plan


def build_network(plan: Plan) -> nn.Module:
    """The plan's network with fresh weights, in the memory of this host; what is frozen, is."""
    network = build_model(plan.network, plan.network_spec)
    freeze(network, plan.freeze)
    return network


def build_placed(plan: Plan) -> nn.Module:
    """The same in its memory layout on its device."""
    return place(build_network(plan), plan.device, plan.dims, plan.channels_last)


def build_step(network: nn.Module, plan: Plan, group: Group = ALONE, phases: Phases | None = None) -> Step:
    """The plan's optimisation step of a network."""
    return Step(
        network,
        build_optimizer(plan.optimizer, network.parameters(), plan.lr, plan.weight_decay),
        build_loss(plan.loss, plan.regions, ignore=plan.ignore),
        plan.device,
        plan.precision,
        clip=plan.clip,
        compiled=plan.compile,
        group=group,
        phases=phases,
    )
