"""Encoders of the table ``ENCODERS``, built."""

from __future__ import annotations

from medseg.errors import PlanError
from medseg.late import resolve
from medseg.models.encoders.encoder import Encoder, EncoderSpec
from medseg.models.encoders.table import ENCODERS
from medseg.networks import Norm


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
        norm: normalisation of features; ``none`` is the paper's for alexnet, vgg16 and googlenet.
        output_stride: strides beyond it become dilation; the parameters stay the same.
        multi_grid: factors on the dilation of the last stage's units (resnets, xception); none: no factors.

    Raises:
        PlanError: for an unknown name, or an output stride or multi-grid that the encoder cannot have.
    """
    if name not in ENCODERS:
        raise PlanError(f"encoder '{name}' is not known; there are: {', '.join(ENCODERS)}")
    encoder: Encoder = resolve(ENCODERS[name])(EncoderSpec(dims, in_channels, width, norm, output_stride, multi_grid))
    return encoder
