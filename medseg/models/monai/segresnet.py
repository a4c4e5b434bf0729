"""SegResNet (Myronenko 2018, arXiv 1810.11654), without its autoencoder."""

from __future__ import annotations

import math

from torch import nn

from medseg.models.monai.adapter import channels, halving
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """SegResNet (Myronenko 2018, arXiv 1810.11654), without its autoencoder: group norm, sums for skips."""
    from monai.networks.nets import SegResNet

    groups = math.gcd(8, spec.widths[0])
    network = SegResNet(**channels(spec), init_filters=spec.widths[0], norm=("GROUP", {"num_groups": groups}))
    return halving(network, spec.dims, 3)
