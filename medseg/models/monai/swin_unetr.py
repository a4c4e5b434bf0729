"""Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266)."""

from __future__ import annotations

from torch import nn

from medseg.models.monai.adapter import channels
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266): attention in shifted windows; 48 features at full width.

    The coarsest features are 1/32 of the image. In 3-D only the first axis has two voxels of them at least: two on
    every axis would pad a patch of 32 to eight times its volume.
    """
    from monai.networks.nets import SwinUNETR

    # 3 to 24 attention heads need multiples of 12.
    features = 12 * max(1, round(spec.widths[0] / 8))
    network = SwinUNETR(**channels(spec), feature_size=features)
    least = (64, 64) if spec.dims == 2 else (64, 32, 32)
    return AnySize(network, (32,) * spec.dims, least)
