"""MONAI's ``DynUNet``, its version of nnU-Net's plain form, as a row of its own.

It differs in three things: transposed convolutions have no bias, stages of the way up take the kernel of the next
deeper stage (seen where an anisotropic plan has kernels of 1), and its deep supervision upsamples the logits, so it is
left out.
"""

from __future__ import annotations

from torch import nn

from medseg.models.sizes import any_size
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """Two convolutions per stage, strided down, transposed up, instance norm, leaky ReLU."""
    from monai.networks.nets import DynUNet

    network = DynUNet(
        spatial_dims=spec.dims,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        kernel_size=[list(k) for k in spec.kernels],
        strides=[list(s) for s in spec.strides],
        upsample_kernel_size=[list(s) for s in spec.strides[1:]],
        filters=list(spec.widths),
        norm_name=("INSTANCE", {"affine": True, "eps": 1e-5}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
    )
    # DynUNet lists outputs of deep supervision here; in this package it names the layer that makes the logits.
    network.heads = [network.output_block.conv.conv]
    return any_size(spec, network)
