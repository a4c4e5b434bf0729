"""The U-Net of Falk et al. 2019 (Nature Methods 16)."""

from __future__ import annotations

from torch import nn

from medseg.models.monai.adapter import channels, halving
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """The U-Net of Falk et al. 2019: four levels of max pooling, at the widths of MONAI's ``BasicUNet``."""
    from monai.networks.nets import BasicUNet

    features = [spec.widths[0] * k for k in (1, 1, 2, 4, 8, 1)]
    return halving(BasicUNet(**channels(spec), features=features, bias=False), spec.dims, 4)
