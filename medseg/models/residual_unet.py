"""U-Net of residual units on both ways (Kerfoot et al. 2018), at the plan's stages.

The unit is MONAI's: two convolutions, each with instance norm and PReLU, around a shortcut that is itself a convolution
where the shape changes. Theirs leaves full resolution with the first convolution; here the first stage keeps it, as the
plan gives, so that the networks of a study differ in their units and not in their resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.models.sizes import any_size
from medseg.models.spec import NetworkSpec
from medseg.models.unet import UNet
from medseg.networks import UNetOptions


def unit(dims: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | int = 1) -> nn.Module:
    """A residual unit of two convolutions: (N, C, S) to (N, C', S / stride)."""
    from monai.networks.blocks import ResidualUnit

    # Instance norm would take biases away again.
    made: nn.Module = ResidualUnit(
        dims, inputs, outputs, stride, kernel, subunits=2, norm=("INSTANCE", {"affine": True}), bias=False
    )
    return made


def build(spec: NetworkSpec, options: UNetOptions) -> nn.Module:
    """One residual unit per stage and way.

    Weights start as torch draws them, which is how MONAI's own networks of these units start: shortcuts have no norm,
    and from He's wider draw features would grow from unit to unit.
    """
    stages = zip((spec.in_channels, *spec.widths[:-1]), spec.widths, spec.kernels, spec.strides, strict=True)
    down = [unit(spec.dims, *stage) for stage in stages]
    ways_up = zip(spec.widths[:-1], spec.kernels[:-1], strict=True)
    return any_size(
        spec, UNet(spec, options, down, [unit(spec.dims, 2 * width, width, kernel) for width, kernel in ways_up])
    )
