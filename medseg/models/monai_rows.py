"""Networks of MONAI in the contract of the zoo: any image size, samples independent of one another, one output.

Where a paper starts with 32 channels, these start with the plan's first width, and where it starts with 16, with half
of that, so that a plan at nnU-Net's full width (32) gives the paper's network. All but the attention U-Net halve every
axis whatever the plan's strides and kernels say; images are padded until the coarsest features have two voxels an axis.

Three things differ from MONAI everywhere: instance norm stands where batch norm is fixed (a batch may be of one, and
tiles are predicted together); biases that a norm of every channel takes away again are left out, as are layers whose
results nobody uses; nothing is dropped at random (Myronenko's paper does, at a rate of 0.2), since such draws would
differ after a resumed run.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.models.blocks import CONVOLUTIONS, conv, make_norm
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import MedNeXtOptions, Options

# Voxels per axis that one token of UNETR stands for.
TOKEN = 16
# Roy et al. 2023: expansion ratios and numbers of blocks from the finest stage to the bottleneck.
MEDNEXT: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "S": ((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": ((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
    "M": ((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
    "L": ((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


def segresnet(spec: NetworkSpec, options: Options) -> nn.Module:
    """SegResNet (Myronenko 2018, arXiv 1810.11654), without its autoencoder: group norm, sums for skips."""
    from monai.networks.nets import SegResNet

    groups = math.gcd(8, spec.widths[0])
    network = SegResNet(**_channels(spec), init_filters=spec.widths[0], norm=("GROUP", {"num_groups": groups}))
    return _halving(network, spec.dims, 3)


def highresnet(spec: NetworkSpec, options: Options) -> nn.Module:
    """HighResNet (Li et al. 2017): residual blocks at full resolution, dilated by 1, 2 and 4.

    The last layer is a plain convolution: MONAI's is followed by a norm and a ReLU, which logits must not be.
    """
    from monai.networks.nets import HighResNet

    first = _half_width(spec)
    blocks = [{"n_features": first * k, "kernels": (3, 3), "repeat": 3} for k in (1, 2, 4)]
    ends = [{"n_features": first * 5, "kernel_size": 1}, {"kernel_size": 1}]
    layers = [{"n_features": first, "kernel_size": 3}, *blocks, *ends]
    norm = ("INSTANCE", {"affine": True})
    network = HighResNet(**_channels(spec), norm_type=norm, dropout_prob=None, layer_params=layers)
    network.blocks[-1] = Conv[Conv.CONV, spec.dims](first * 5, spec.out_channels, 1)
    return _halving(network, spec.dims, 0)


def attention_unet(spec: NetworkSpec, options: Options) -> nn.Module:
    """Attention U-Net (Oktay et al. 2018, arXiv 1804.03999): gates on the skips; follows the plan's widths and strides.

    Instance norm stands for the batch norm that MONAI fixes.
    """
    from monai.networks.nets import AttentionUnet

    network = AttentionUnet(**_channels(spec), channels=spec.widths, strides=spec.strides[1:])
    total = [math.prod(axis) for axis in zip(*spec.strides, strict=True)]
    return AnySize(independent(network, spec.dims), total, [2 * t for t in total])


def basic_unet(spec: NetworkSpec, options: Options) -> nn.Module:
    """The U-Net of Falk et al. 2019: four levels of max pooling, at the widths of MONAI's ``BasicUNet``."""
    from monai.networks.nets import BasicUNet

    features = [spec.widths[0] * k for k in (1, 1, 2, 4, 8, 1)]
    return _halving(BasicUNet(**_channels(spec), features=features, bias=False), spec.dims, 4)


def basic_unetpp(spec: NetworkSpec, options: Options) -> nn.Module:
    """UNet++ (Zhou et al. 2018, arXiv 1807.10165): nested, dense skips; the last of its four outputs alone."""
    from monai.networks.nets import BasicUNetPlusPlus

    features = [spec.widths[0] * k for k in (1, 2, 4, 8, 16, 1)]
    network = BasicUNetPlusPlus(**_channels(spec), features=features, bias=False)
    # MONAI computes the other three outputs without deep supervision, too.
    network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
    return _halving(LastOutput(network), spec.dims, 4)


def mednext(spec: NetworkSpec, options: MedNeXtOptions) -> nn.Module:
    """MedNeXt (Roy et al. 2023, arXiv 2303.09975) with residual resampling, without deep supervision."""
    from monai.networks.nets import MedNeXt

    ratios, blocks = MEDNEXT[options.size]
    network = MedNeXt(
        **_channels(spec),
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
    return _halving(independent(network, spec.dims), spec.dims, 4)


def unetr(spec: NetworkSpec, options: Options) -> nn.Module:
    """UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504): a ViT of 12 layers and heads under a convolutional decoder.

    Its position embedding belongs to the plan's patch, in whole tokens and two per axis at least: smaller images are
    padded to that, larger ones raise ValueError.
    """
    from monai.networks.nets import UNETR

    size = tuple(max(2, math.ceil(n / TOKEN)) * TOKEN for n in spec.patch)
    width = spec.widths[0]
    # ViT-Base at full width: 768 features and four times as many between two linear layers.
    network = UNETR(
        **_channels(spec), img_size=size, feature_size=_half_width(spec), hidden_size=24 * width, mlp_dim=96 * width
    )
    for block in network.vit.blocks:
        block.norm_cross_attn = nn.Identity()
    return WithinPatch(network, size)


def swin_unetr(spec: NetworkSpec, options: Options) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266): attention in shifted windows; 48 features at full width.

    The coarsest features are 1/32 of the image. In 3-D only the first axis has two voxels of them at least: two on
    every axis would pad a patch of 32 to eight times its volume.
    """
    from monai.networks.nets import SwinUNETR

    # Heads of 3 to 24 want multiples of 12.
    features = 12 * max(1, round(spec.widths[0] / 8))
    network = SwinUNETR(**_channels(spec), feature_size=features)
    least = (64, 64) if spec.dims == 2 else (64, 32, 32)
    return AnySize(network, (32,) * spec.dims, least)


def vnet(spec: NetworkSpec, options: Options) -> nn.Module:
    """V-Net (Milletari et al. 2016, arXiv 1606.04797)."""
    network = VNet(spec.dims, spec.in_channels, spec.out_channels, _half_width(spec))
    return _halving(independent(network, spec.dims), spec.dims, 4)


class VNet(nn.Module):
    """V-Net of MONAI's stages, which MONAI itself offers at 16 channels only.

    As the paper has it and MONAI has not: PReLU, any number of image channels, and a 1x1 convolution alone at the end
    (a norm of the last features, one per class, would hide how large each class is).

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        width: channels of the first stage, 16 in the paper.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, width: int) -> None:
        from monai.networks.nets.vnet import DownTransition, UpTransition

        super().__init__()
        self.enter = Enter(dims, inputs, width)
        self.down = nn.ModuleList(
            DownTransition(dims, i * width, depth, "prelu") for i, depth in ((1, 1), (2, 2), (4, 3), (8, 2))
        )
        # (features in, features out, convolutions); what comes from below was concatenated with a skip.
        ups = [(16, 16, 2), (16, 8, 2), (8, 4, 1), (4, 2, 1)]
        self.up = nn.ModuleList(
            UpTransition(dims, i * width, o * width, depth, "prelu", dropout_prob=(None, 0.0)) for i, o, depth in ups
        )
        self.head = Conv[Conv.CONV, dims](2 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S); S in multiples of 16."""
        x = self.enter(x)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage in self.up:
            x = stage(x, skips.pop())
        out: Tensor = self.head(x)
        return out


class Enter(nn.Module):
    """V-Net's first stage: a 5-wide convolution plus the image, which is repeated until its channels are as many."""

    def __init__(self, dims: int, inputs: int, width: int) -> None:
        super().__init__()
        self.body = conv(dims, inputs, width, 5, act=None)
        self.act = nn.PReLU(width)
        self.copies = math.ceil(width / inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, width, S)."""
        y = self.body(x)
        out: Tensor = self.act(y + torch.cat([x] * self.copies, dim=1)[:, : y.shape[1]])
        return out


class LastOutput(nn.Module):
    """The last of several outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        out: Tensor = self.network(x)[-1]
        return out


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
                f"image of {shape} voxels: the network knows positions within {self.multiple} only, the patch it was "
                "planned for in whole tokens; give it tiles no larger than that"
            )
        return super().forward(x)


def independent(network: nn.Module, dims: int) -> nn.Module:
    """Instance norm in place of batch norm, and no bias in a convolution right before a norm of every channel.

    Such a norm takes the mean away, and the bias with it. What comes first is taken from the order in which layers are
    defined. In place.
    """
    leaves = [(name, layer) for name, layer in network.named_modules() if not any(True for _ in layer.children())]
    for (_, before), (name, layer) in pairwise(leaves):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            parent, _, own = name.rpartition(".")
            layer = make_norm("instance", dims, layer.num_features)
            setattr(network.get_submodule(parent), own, layer)
        if isinstance(before, CONVOLUTIONS) and _is_per_channel(layer):
            before.bias = None
    return network


def _is_per_channel(layer: nn.Module) -> bool:
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == layer.num_channels
    return isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d)


def _channels(spec: NetworkSpec) -> dict[str, Any]:
    """What all networks of MONAI are told."""
    return {"spatial_dims": spec.dims, "in_channels": spec.in_channels, "out_channels": spec.out_channels}


def _half_width(spec: NetworkSpec) -> int:
    """First width of networks that start with 16 channels in their paper; see MIN_WIDTH in ``config/model.py``."""
    return max(8, spec.widths[0] // 2)


def _halving(network: nn.Module, dims: int, times: int) -> nn.Module:
    """A network that halves every axis so many times, for any image size."""
    return AnySize(network, (2**times,) * dims, (2 ** (times + 1),) * dims)
