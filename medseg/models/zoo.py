"""How the networks of the table ``medseg.networks.MODELS`` are built from a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from medseg.errors import PlanError
from medseg.models import (
    dilated,
    dynunet,
    fcn,
    hypercolumns,
    monai_rows,
    rcnn,
    resenc_unet,
    residual_unet,
    unet,
    unet2015,
)
from medseg.models.deeplab import v1, v2, v3, v3plus
from medseg.models.instance_norm import with_instance_norm
from medseg.models.spec import NetworkSpec
from medseg.networks import MODELS, options_of

# Name -> function of the spec and the row's options.
BUILDERS: dict[str, Callable[[NetworkSpec, Any], nn.Module]] = {
    "unet": unet.build,
    "dynunet": dynunet.build,
    "resenc_unet": resenc_unet.build,
    "residual_unet": residual_unet.build,
    "unet2015": unet2015.build,
    "fcn32s": fcn.build_32s,
    "fcn16s": fcn.build_16s,
    "fcn8s": fcn.build_8s,
    "dilated": dilated.build,
    "deeplabv1": v1.build,
    "deeplabv2": v2.build,
    "deeplabv3": v3.build,
    "deeplabv3plus": v3plus.build,
    "hypercolumns": hypercolumns.build,
    "rcnn": rcnn.build,
    "segresnet": monai_rows.segresnet,
    "highresnet": monai_rows.highresnet,
    "attention_unet": monai_rows.attention_unet,
    "vnet": monai_rows.vnet,
    "basic_unet": monai_rows.basic_unet,
    "basic_unetpp": monai_rows.basic_unetpp,
    "swin_unetr": monai_rows.swin_unetr,
    "unetr": monai_rows.unetr,
    "mednext": monai_rows.mednext,
}


def build_model(network: str, spec: NetworkSpec) -> nn.Module:
    """The network of a table row, with freshly drawn weights from torch's global generator.

    Raises:
        PlanError: for a name that is not in ``MODELS``, or dimensions that the network does not exist in.
    """
    if network not in MODELS:
        raise PlanError(f"network '{network}' is not in the zoo; there are: {', '.join(MODELS)}")
    if spec.dims not in MODELS[network].dims:
        raise PlanError(f"network '{network}' exists in {MODELS[network].dims} dimensions, not in {spec.dims}")
    return with_instance_norm(BUILDERS[network](spec, options_of(network, spec.options)))
