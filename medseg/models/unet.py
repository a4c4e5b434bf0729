"""U-Net in nnU-Net's plain form (Isensee et al. 2021), through MONAI's ``DynUNet``."""

from __future__ import annotations

from torch import nn

from medseg.models.spec import NetworkSpec


def build(spec: NetworkSpec) -> nn.Module:
    """Two convolutions per stage, strided down, transposed up, instance norm, leaky ReLU; no deep supervision."""
    from monai.networks.nets import DynUNet

    network: nn.Module = DynUNet(
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
    return network
