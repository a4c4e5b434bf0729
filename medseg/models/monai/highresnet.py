"""HighResNet (Li et al. 2017, IPMI)."""

from __future__ import annotations

from torch import nn

from medseg.models.layers import CONV
from medseg.models.monai.adapter import channels, half_width, halving
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """HighResNet (Li et al. 2017): residual blocks at full resolution, dilated by 1, 2 and 4.

    The last layer is a plain convolution: MONAI's is followed by a norm and a ReLU, which logits must not be.
    """
    from monai.networks.nets import HighResNet

    first = half_width(spec)
    blocks = [{"n_features": first * k, "kernels": (3, 3), "repeat": 3} for k in (1, 2, 4)]
    ends = [{"n_features": first * 5, "kernel_size": 1}, {"kernel_size": 1}]
    layers = [{"n_features": first, "kernel_size": 3}, *blocks, *ends]
    norm = ("INSTANCE", {"affine": True})
    network = HighResNet(**channels(spec), norm_type=norm, dropout_prob=None, layer_params=layers)
    network.blocks[-1] = CONV[spec.dims](first * 5, spec.out_channels, 1)
    return halving(network, spec.dims, 0)
