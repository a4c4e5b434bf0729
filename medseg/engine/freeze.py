"""Parts of a network that are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.errors import PlanError
from medseg.models.sizes import AnySize


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Take the parameters whose names begin with one of ``parts`` out of training.

    A part is whole words of a dotted name: ``encoder.stages`` is not the beginning of ``encoder.stages2.weight``. The
    name of the wrapper that takes any size (``AnySize``) is left out: ``encoder``, not ``network.encoder``.

    Raises:
        PlanError: if no name begins with a part (lists what there is), or nothing would be left to train.
    """
    inner = network.network if isinstance(network, AnySize) else network
    names = [name for name, _ in inner.named_parameters()]
    for part in parts:
        if not any(_within(name, part) for name in names):
            there = sorted({".".join(name.split(".")[:2]) for name in names})
            raise PlanError(f"freeze: no tensor's name begins with '{part}'; they begin with {', '.join(there)}")
    for name, parameter in inner.named_parameters():
        if any(_within(name, part) for part in parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PlanError(f"freeze: {', '.join(parts)} is the whole network, nothing is left to train")


def _within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
