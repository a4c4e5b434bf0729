"""The network and the training step of a plan."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.engine.freeze import freeze
from medseg.engine.group import ALONE, Group
from medseg.engine.phases import Phases
from medseg.engine.placement import place
from medseg.engine.step import Step, build_optimizer
from medseg.losses.build import build_loss, build_object_loss
from medseg.losses.supervision import OutputLoss
from medseg.models.objective import OwnObjective, own_objective
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


def _loss(network: nn.Module, plan: Plan, blank: bool) -> OutputLoss:
    """The loss of a plan: the network's own if it has one, that of its head for objects, or of classes or regions."""
    if (own := own_objective(network)) is not None:
        return _of_network(own)
    spec, name = plan.network, plan.training.loss
    if spec.learns_objects:
        return build_object_loss(name, spec.head, plan.grid.patch_spacing, spec.classes, blank=blank)
    return build_loss(name, spec.regions, ignore=plan.training.ignore)


def _of_network(own: OwnObjective) -> OutputLoss:
    return lambda outputs, codes: own.objective([outputs] if isinstance(outputs, Tensor) else outputs, codes)


def build_step(
    network: nn.Module, plan: Plan, group: Group = ALONE, phases: Phases | None = None, *, blank: bool = False
) -> Step:
    """The plan's optimisation step of a network.

    Args:
        network: what is trained.
        plan: how.
        group: the processes that share each batch.
        phases: filled with where the time goes.
        blank: whether tensors will have sizes and no content, so that objects cannot be looked at.
    """
    return Step(
        network,
        build_optimizer(plan.training.optimizer, network.parameters(), plan.training.lr, plan.training.weight_decay),
        _loss(network, plan, blank),
        plan.machine.device,
        plan.machine.precision,
        clip=plan.training.clip,
        compiled=plan.machine.compile,
        group=group,
        phases=phases,
    )
