"""Networks of the table ``medseg.networks.NETWORKS``, built from a plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from medseg.errors import PlanError
from medseg.late import resolve
from medseg.models.instance_norm import with_instance_norm
from medseg.models.spec import NetworkSpec
from medseg.networks import NETWORKS, options_of


def build_model(network: str, spec: NetworkSpec) -> nn.Module:
    """The network of a table row, with weights freshly drawn from torch's global generator.

    Only the module of this row is imported.

    Raises:
        PlanError: for a name that is not in ``NETWORKS``, or dimensions that the network does not exist in.
    """
    if network not in NETWORKS:
        raise PlanError(f"network '{network}' is not in the zoo; there are: {', '.join(NETWORKS)}")
    row = NETWORKS[network]
    if spec.dims not in row.dims:
        raise PlanError(f"network '{network}' exists in {row.dims} dimensions, not in {spec.dims}")
    return with_instance_norm(resolve(row.builder)(spec, options_of(network, spec.options)))


class _Outline(TorchFunctionMode):
    """Draw no weights, and make rows of numbers for real: networks read the rates of their layers from them.

    Where a tensor has no content, torch looks up what drawing it would be, and imports its compiler for that.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {**(kwargs or {}), "device": "cpu"} if func is torch.linspace else kwargs or {}
        if func is torch.Tensor.normal_ and args[0].is_meta:
            return args[0]
        return func(*args, **given)


def build_outline(network: str, spec: NetworkSpec) -> nn.Module:
    """The same network without content (torch's device ``meta``): names, types and shapes of its tensors, no memory."""
    with torch.device("meta"), _Outline():
        return build_model(network, spec)
