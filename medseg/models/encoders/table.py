"""The table of encoders; free of torch."""

from __future__ import annotations

# Name -> function of an ``EncoderSpec``, imported when it is used.
ENCODERS: dict[str, str] = {
    "alexnet": "medseg.models.encoders.alexnet:AlexNet",
    "vgg16": "medseg.models.encoders.vgg:VGG16",
    "googlenet": "medseg.models.encoders.googlenet:GoogLeNet",
    "resnet18": "medseg.models.encoders.resnet:resnet18",
    "resnet34": "medseg.models.encoders.resnet:resnet34",
    "resnet50": "medseg.models.encoders.resnet:resnet50",
    "resnet101": "medseg.models.encoders.resnet:resnet101",
    "xception": "medseg.models.encoders.xception:Xception",
}
