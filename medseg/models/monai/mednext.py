"""MedNeXt (Roy et al. 2023, arXiv 2303.09975)."""

from __future__ import annotations

from torch import nn

from medseg.models.monai.adapter import channels, halving, independent
from medseg.models.spec import NetworkSpec
from medseg.networks import MedNeXtOptions

# Roy et al. 2023: expansion ratios and numbers of blocks from the finest stage to the bottleneck.
MEDNEXT: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S": ((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": ((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
    "M": ((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
    "L": ((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


def build(spec: NetworkSpec, options: MedNeXtOptions) -> nn.Module:
    """MedNeXt (Roy et al. 2023, arXiv 2303.09975) with residual resampling, without deep supervision."""
    from monai.networks.nets import MedNeXt

    ratios, blocks = MEDNEXT[options.size]
    network = MedNeXt(
        **channels(spec),
        init_filters=spec.widths[0],
        encoder_expansion_ratio=ratios[:-1],
        bottleneck_expansion_ratio=ratios[-1],
        decoder_expansion_ratio=ratios[-2::-1],
        blocks_down=blocks[:-1],
        blocks_bottleneck=blocks[-1],
        blocks_up=blocks[-2::-1],
        kernel_size=options.kernel,
        use_residual_connection=True,
    )
    # Made by a transposed convolution.
    network.heads = [network.out_0.conv_out]
    return halving(independent(network, spec.dims), spec.dims, 4)
