"""The table of networks: name, paper, dimensions, options, sizes. Free of torch: configurations are cheap to check.

A row names the function that builds it, which ``medseg/models/zoo.py`` imports when the network is used. Widths of
papers are given for their first stage of 64 channels; ``width`` replaces the 64 and everything else follows in
proportion. Where it is not given, it is twice the plan's first width, so that a plan at nnU-Net's full width (32) gives
the paper's network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The papers have 64; what is wider than this is a mistake.
Width = Annotated[int, Field(ge=8, le=1024)]
EncoderName = Literal["alexnet", "vgg16", "googlenet", "resnet18", "resnet34", "resnet50", "resnet101"]
# Normalisation of features. group and instance work at a batch of one; frozen_batch keeps the statistics of trained
# weights.
Norm = Literal["instance", "group", "batch", "frozen_batch", "none"]
Upsampling = Literal["transposed", "linear", "shuffle"]


class Options(BaseModel):
    """Options of a network: strict types, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class WidthOptions(Options):
    """A network of a paper, at any width."""

    width: Width | None = Field(default=None, description="channels in place of the paper's first 64; none: planned")
    norm: Norm = Field(default="instance", description="normalisation of features")


# Files that trained weights may come in.
WEIGHT_SUFFIXES = (".safetensors", ".pth")


class WeightsOptions(WidthOptions):
    """A network on top of a classifier's convolutions, which may be trained already."""

    weights: str | None = Field(
        default=None, description="trained weights of the encoder: a file (.safetensors, .pth) or an http(s) address"
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="checksum of the weights; needed with an address"
    )


class EncoderOptions(WeightsOptions):
    """A network on top of any classifier's convolutions."""

    encoder: EncoderName = Field(default="vgg16", description="the classifier whose convolutions are used")


class DilatedOptions(WeightsOptions):
    """Yu & Koltun's front end and context module."""

    encoder: Literal["vgg16"] = Field(default="vgg16", description="the classifier whose convolutions are used")
    context: Literal["none", "basic", "large"] = Field(default="basic", description="what follows the front end")


class AtrousOptions(WeightsOptions):
    """A network whose encoder dilates where it would stride further."""

    output_stride: Literal[4, 8, 16] | None = Field(
        default=None, description="voxels per feature at the end of the encoder; none: 8 in 2-D, 4 in 3-D"
    )


class DeepLabV1Options(AtrousOptions):
    """DeepLab v1 over VGG-16."""

    encoder: Literal["vgg16"] = Field(default="vgg16", description="the classifier whose convolutions are used")


class DeepLabV2Options(AtrousOptions):
    """DeepLab v2 over VGG-16 or a ResNet."""

    encoder: Literal["vgg16", "resnet18", "resnet34", "resnet50", "resnet101"] = Field(
        default="vgg16", description="the classifier whose convolutions are used"
    )
    scales: bool = Field(default=False, description="the image at 1, 3/4 and 1/2, the largest score wins")


class DeepLabV3Options(AtrousOptions):
    """DeepLab v3 over a ResNet."""

    encoder: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = Field(
        default="resnet34", description="the classifier whose convolutions are used"
    )


class DeepLabV3PlusOptions(AtrousOptions):
    """DeepLab v3+ over a small residual encoder that follows the plan, or over one of a paper."""

    encoder: Literal["planned", "resnet18", "resnet34", "resnet50", "resnet101", "xception"] = Field(
        default="planned", description="planned: the plan's widths and strides; else a classifier's convolutions"
    )
    separable: bool | None = Field(
        default=None, description="depthwise-separable convolutions after the encoder; none: except over ResNets"
    )

    @model_validator(mode="after")
    def _planned(self) -> Self:
        given = [k for k in ("width", "output_stride", "weights", "sha256") if getattr(self, k) is not None]
        if self.encoder == "planned" and given:
            raise ValueError(
                f"encoder 'planned' follows the plan and takes no {', '.join(given)}; leave out, or choose an encoder"
            )
        return self


class UNetOptions(Options):
    """A U-Net that follows the plan's widths, strides and kernels."""

    deep_supervision: bool = Field(default=False, description="losses at every resolution but the coarsest")
    upsampling: Upsampling = Field(default="transposed", description="how the decoder goes up")


class MedNeXtOptions(Options):
    """MedNeXt in the sizes of its paper."""

    size: Literal["S", "B", "M", "L"] = Field(default="S", description="expansion and number of blocks")
    kernel: Literal[3, 5] = Field(default=3, description="width of the depthwise convolutions")


class UNet2015Options(WidthOptions):
    """The U-Nets of 2015 (2-D) and 2016 (3-D) as they were published."""

    norm: Norm = Field(default="none", description="normalisation of features")
    padding: Literal["valid", "same"] = Field(
        default="same", description="same: zeros at borders; valid: none, the image is mirrored into the margin"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of features dropped at the end of the way down; in 2015 it was 0.5"
    )


class HypercolumnsOptions(EncoderOptions):
    """Hypercolumns over an encoder's features."""

    hidden: int = Field(
        default=0, ge=0, le=65_536, description="channels of a hidden layer of the classifier; 0: it is linear"
    )


class RCNNOptions(EncoderOptions):
    """Scores of region proposals."""

    encoder: EncoderName = Field(default="alexnet", description="the classifier whose convolutions are used")
    norm: Norm = Field(default="none", description="normalisation of features; any makes crops forget their brightness")
    regions: int = Field(
        default=64, ge=1, le=4096, description="most proposals per image; half of them cover it as superpixels"
    )
    crop: int | None = Field(
        default=None, ge=16, le=512, description="voxels per axis of warped regions; none: 32, 3-D 20"
    )
    svm: bool = Field(default=True, description="fit support vector machines on the features after the last step")


class MaskRCNNOptions(WeightsOptions):
    """Boxes and masks of objects."""

    encoder: EncoderName = Field(default="resnet18", description="the classifier whose convolutions are used")
    norm: Norm = Field(default="group", description="normalisation of features")
    pyramid: bool = Field(default=True, description="features at several strides; false: one map of stride 8")
    finest: Literal[2, 4, 8] = Field(default=4, description="voxels per feature of the finest map of the pyramid")
    proposals: int = Field(default=512, ge=1, le=4096, description="most proposals, and detections, per image")
    sample: int = Field(default=128, ge=2, le=4096, description="proposals per image that are learnt from in a step")
    mask: Literal[14, 28, 56] = Field(default=28, description="voxels per axis of an object's mask in its box")
    mask_layers: int = Field(default=2, ge=0, le=8, description="convolutions of masks before they are enlarged")
    score: float = Field(default=0.5, gt=0, lt=1, description="detections of a lower score are no objects")


class SDSOptions(WeightsOptions):
    """Region proposals that are refined."""

    encoder: EncoderName = Field(default="resnet18", description="the classifier whose convolutions are used")
    norm: Norm = Field(default="group", description="normalisation of features")
    regions: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="most proposals per image; none: one per 16 voxels, 2048 or fewer; half cover it as superpixels",
    )
    sample: int = Field(default=96, ge=2, le=4096, description="regions per image that are learnt from in a step")
    crop: int | None = Field(default=None, ge=16, le=512, description="voxels per axis of warped regions; none: 32")
    score: float = Field(default=0.5, gt=0, lt=1, description="regions of a lower score are no objects")
    svm: bool = Field(default=True, description="fit support vector machines on the features after the last step")


@dataclass(frozen=True, slots=True)
class Network:
    """A row of the table.

    Attributes:
        paper: where it comes from.
        builder: ``"package.module:function"`` of a ``NetworkSpec`` and the options.
        options: what can be chosen.
        dims: spatial dimensions it exists in.
        sizes: inputs it takes. any: padded inside and cropped back; patch: none larger than the plan's patch.
        heads: what its output may mean for object data (``medseg/decoders.py``), its default first; ``classes``: the
            semantic classes. Data without objects has no choice, and needs a network that lists ``classes``.
        objective: what it learns by a loss of its own (``medseg/models/objective.py``); empty: in training it gives the
            logits of its head, for any loss.
    """

    paper: str
    builder: str
    options: type[Options] = Options
    dims: tuple[int, ...] = field(default=(2, 3))
    sizes: Literal["any", "patch"] = "any"
    heads: tuple[str, ...] = ("boundary", "flows", "distance", "classes")
    objective: str = ""


NETWORKS: dict[str, Network] = {
    "unet": Network(
        "Ronneberger et al. 2015, Cicek et al. 2016, in the form of Isensee et al. 2021",
        "medseg.models.unet:build",
        UNetOptions,
    ),
    "dynunet": Network("Isensee et al. 2021, in the form of MONAI's DynUNet", "medseg.models.dynunet:build"),
    "resenc_unet": Network("Isensee et al. 2024, arXiv 2404.09556", "medseg.models.resenc_unet:build", UNetOptions),
    "residual_unet": Network(
        "Kerfoot et al. 2018, doi 10.1007/978-3-030-12029-0_40", "medseg.models.residual_unet:build", UNetOptions
    ),
    "unet2015": Network(
        "Ronneberger et al. 2015, arXiv 1505.04597; Cicek et al. 2016, 1606.06650",
        "medseg.models.unet2015:build",
        UNet2015Options,
    ),
    "fcn32s": Network("Long et al. 2015, arXiv 1411.4038", "medseg.models.fcn:build_32s", EncoderOptions),
    "fcn16s": Network("Long et al. 2015, arXiv 1411.4038", "medseg.models.fcn:build_16s", EncoderOptions),
    "fcn8s": Network("Long et al. 2015, arXiv 1411.4038", "medseg.models.fcn:build_8s", EncoderOptions),
    "dilated": Network("Yu & Koltun 2016, arXiv 1511.07122", "medseg.models.dilated:build", DilatedOptions),
    "deeplabv1": Network("Chen et al. 2015, arXiv 1412.7062", "medseg.models.deeplab.v1:build", DeepLabV1Options),
    "deeplabv2": Network("Chen et al. 2016, arXiv 1606.00915", "medseg.models.deeplab.v2:build", DeepLabV2Options),
    "deeplabv3": Network("Chen et al. 2017, arXiv 1706.05587", "medseg.models.deeplab.v3:build", DeepLabV3Options),
    "deeplabv3plus": Network(
        "Chen et al. 2018, arXiv 1802.02611", "medseg.models.deeplab.v3plus:build", DeepLabV3PlusOptions
    ),
    "hypercolumns": Network(
        "Hariharan et al. 2015, arXiv 1411.5752", "medseg.models.hypercolumns:build", HypercolumnsOptions
    ),
    "rcnn": Network(
        "Girshick et al. 2014, arXiv 1311.2524, section 5",
        "medseg.models.rcnn:build",
        RCNNOptions,
        heads=("classes",),
    ),
    "mask_rcnn": Network(
        "He et al. 2017, arXiv 1703.06870",
        "medseg.models.mask_rcnn:build",
        MaskRCNNOptions,
        dims=(2,),
        heads=("boundary",),
        objective="boxes of objects, their classes and masks",
    ),
    "sds": Network(
        "Hariharan et al. 2014, arXiv 1407.1808",
        "medseg.models.sds:build",
        SDSOptions,
        dims=(2,),
        heads=("boundary",),
        objective="classes, coarse masks and leaves of regions",
    ),
    "segresnet": Network("Myronenko 2018, arXiv 1810.11654; MONAI", "medseg.models.monai.segresnet:build"),
    "highresnet": Network("Li et al. 2017, IPMI; MONAI", "medseg.models.monai.highresnet:build"),
    "attention_unet": Network("Oktay et al. 2018, arXiv 1804.03999; MONAI", "medseg.models.monai.attention_unet:build"),
    "vnet": Network("Milletari et al. 2016, arXiv 1606.04797; of MONAI's stages", "medseg.models.monai.vnet:build"),
    "basic_unet": Network("Falk et al. 2019, Nature Methods 16; MONAI", "medseg.models.monai.basic_unet:build"),
    "basic_unetpp": Network("Zhou et al. 2018, arXiv 1807.10165; MONAI", "medseg.models.monai.basic_unetpp:build"),
    "swin_unetr": Network("Hatamizadeh et al. 2022, arXiv 2201.01266; MONAI", "medseg.models.monai.swin_unetr:build"),
    "unetr": Network(
        "Hatamizadeh et al. 2022, arXiv 2103.10504; MONAI", "medseg.models.monai.unetr:build", sizes="patch"
    ),
    "mednext": Network("Roy et al. 2023, arXiv 2303.09975; MONAI", "medseg.models.monai.mednext:build", MedNeXtOptions),
}


def options_of(network: str, given: Mapping[str, Any]) -> Options:
    """The options of a row, what is not given at its default.

    Raises:
        pydantic.ValidationError: for unknown options or values.
    """
    return NETWORKS[network].options.model_validate(dict(given))
