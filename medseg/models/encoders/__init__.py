"""Encoders: the convolutions of classifiers, in 2-D and 3-D, as lists of features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from medseg.errors import PlanError
from medseg.models.encoders.alexnet import AlexNet
from medseg.models.encoders.encoder import Encoder, EncoderSpec
from medseg.models.encoders.googlenet import GoogLeNet
from medseg.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from medseg.models.encoders.vgg import VGG16
from medseg.models.encoders.xception import Xception
from medseg.networks import Norm

# Name -> constructor.
ENCODERS: dict[str, Callable[[EncoderSpec], Encoder]] = {
    "alexnet": AlexNet,
    "vgg16": VGG16,
    "googlenet": GoogLeNet,
    "resnet18": partial(ResNet, "resnet18", BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, "resnet34", BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, "resnet50", Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, "resnet101", Bottleneck, (3, 4, 23, 3)),
    "xception": Xception,
}

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "build_encoder"]


def build_encoder(
    name: str,
    dims: int,
    in_channels: int,
    *,
    width: int = 64,
    norm: Norm = "instance",
    output_stride: int | None = None,
    multi_grid: tuple[int, ...] | None = None,
) -> Encoder:
    """An encoder of ``ENCODERS``, its weights freshly drawn (He et al. 2015) from torch's global generator.

    Args:
        name: key of ``ENCODERS``.
        dims: 2 or 3; in 3-D every kernel and stride has a third axis like the others.
        in_channels: image channels.
        width: channels in place of the paper's first 64; all others in proportion.
        norm: what normalises features; ``none`` is the paper's for alexnet, vgg16 and googlenet.
        output_stride: strides beyond it become dilation; the parameters stay the same.
        multi_grid: factors on the dilation of the last stage's units (resnets, xception); none: no factors.

    Raises:
        PlanError: for an unknown name, or an output stride or multi-grid that the encoder cannot have.
    """
    if name not in ENCODERS:
        raise PlanError(f"encoder '{name}' is not known; there are: {', '.join(ENCODERS)}")
    return ENCODERS[name](EncoderSpec(dims, in_channels, width, norm, output_stride, multi_grid))
