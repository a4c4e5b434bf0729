"""The table of networks, and how one is built from a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.models import deeplab, unet
from medseg.models.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class Row:
    """A network of the zoo: where it comes from and how it is built."""

    paper: str
    build: Callable[[NetworkSpec], nn.Module]


MODELS: dict[str, Row] = {
    "unet": Row("Ronneberger et al. 2015; Cicek et al. 2016; in the form of Isensee et al. 2021", unet.build),
    "deeplabv3plus": Row("Chen et al. 2018, arXiv 1802.02611", deeplab.build),
}


def build_model(network: str, spec: NetworkSpec) -> nn.Module:
    """The network of a table row, with freshly drawn weights from torch's global generator.

    Raises:
        PlanError: for a name that is not in ``MODELS``.
    """
    if network not in MODELS:
        raise PlanError(f"network '{network}' is not in the zoo; there are: {', '.join(MODELS)}")
    return MODELS[network].build(spec)


def check_input(spec: NetworkSpec, x: Tensor) -> None:
    """Raise ``ValueError`` that names the sizes if ``x`` (N, C, S) does not fit the network's strides."""
    divisor = [math.prod(s[axis] for s in spec.strides) for axis in range(spec.dims)]
    if x.shape[1] != spec.in_channels or any(n % d for n, d in zip(x.shape[2:], divisor, strict=True)):
        raise ValueError(
            f"input {tuple(x.shape)}: expected {spec.in_channels} channels and sizes divisible by {divisor}"
        )
