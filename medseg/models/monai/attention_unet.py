"""Attention U-Net (Oktay et al. 2018, arXiv 1804.03999)."""

from __future__ import annotations

from torch import nn

from medseg.models.monai.adapter import channels, independent
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec, total_stride
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """Attention U-Net (Oktay et al. 2018, arXiv 1804.03999): gates on the skips; follows the plan's widths and strides.

    Instance norm replaces the batch norm that MONAI fixes.
    """
    from monai.networks.nets import AttentionUnet

    network = AttentionUnet(**channels(spec), channels=spec.widths, strides=spec.strides[1:])
    total = total_stride(spec.strides)
    return AnySize(independent(network, spec.dims), total, [2 * t for t in total])
