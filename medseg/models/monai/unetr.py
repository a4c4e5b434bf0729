"""UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from medseg.models.monai.adapter import channels, half_width
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import Options

# Voxels per axis of one token.
TOKEN = 16


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504): a ViT of 12 layers and heads under a convolutional decoder.

    Its position embedding belongs to the plan's patch, in whole tokens and two per axis at least: smaller images are
    padded to that, larger ones raise ValueError.
    """
    from monai.networks.nets import UNETR

    size = tuple(max(2, math.ceil(n / TOKEN)) * TOKEN for n in spec.patch)
    width = spec.widths[0]
    # ViT-Base at full width: 768 features and four times as many between two linear layers.
    network = UNETR(
        **channels(spec), img_size=size, feature_size=half_width(spec), hidden_size=24 * width, mlp_dim=96 * width
    )
    for block in network.vit.blocks:
        block.norm_cross_attn = nn.Identity()
    return WithinPatch(network, size)


class WithinPatch(AnySize):
    """A network for one size: smaller images are padded to it, larger ones refused."""

    def __init__(self, network: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__(network, size)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(N, C, S) to what the network gives for S.

        Raises:
            ValueError: if an axis is longer than the network's.
        """
        shape = tuple(x.shape[2:])
        if any(n > most for n, most in zip(shape, self.multiple, strict=True)):
            raise ValueError(
                f"image of {shape} voxels: expected at most {self.multiple} (the patch it was planned for, in whole "
                "tokens), since it has learnt no positions beyond; give it tiles no larger than that"
            )
        return super().forward(x)
