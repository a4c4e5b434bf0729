"""A classifier becomes a segmenter (Sermanet et al. 2014; Long et al. 2015, section 3.1).

A fully connected layer over a window of features is a convolution with a kernel as large as the window, and one over
single features a 1x1 convolution. Written so, a classifier gives what it gave on its own window and, on any larger
image, what it would give on every window of it, at the cost of computing shared features once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medseg.models.blocks import he_normal
from medseg.models.encoders.alexnet import AlexNet
from medseg.models.encoders.encoder import PAPER_WIDTH, Encoder, EncoderSpec
from medseg.models.encoders.vgg import VGG16
from medseg.models.layers import CONV
from medseg.networks import Norm


class Classifier(nn.Module):
    """Features and a fully connected head; parameter names as in torchvision.

    Attributes:
        dims: 2 or 3.
        window: voxels per axis of the images it takes.
        cells: features per axis that these give.
        features: (N, C, window) to (N, C', cells).
        classifier: (N, C' cells^dims) to (N, K), of linear layers, rectifiers and dropout.
    """

    def __init__(self, dims: int, window: int, cells: int, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.dims, self.window, self.cells = dims, window, cells
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, window) to (N, K).

        Raises:
            ValueError: for images of another size.
        """
        if tuple(x.shape[2:]) != (self.window,) * self.dims:
            raise ValueError(f"image of {tuple(x.shape[2:])} voxels; this classifier takes {self.window} per axis")
        scores: Tensor = self.classifier(self.features(x).flatten(1))
        return scores


def alexnet(dims: int, in_channels: int, classes: int, *, width: int = PAPER_WIDTH, window: int = 224,
            hidden: int | None = None) -> Classifier:  # fmt: skip
    """AlexNet (Krizhevsky 2014): 224 voxels to 6 cells of 256, then 4096, 4096 and ``classes``.

    Args:
        dims: 2 or 3.
        in_channels, classes: of images and scores.
        width: channels in place of the first 64.
        window: voxels per axis of an image.
        hidden: features of the head in place of 4096; by default in proportion to ``width``.
    """
    encoder = AlexNet(EncoderSpec(dims, in_channels, width, norm="none"), padded=False)
    cells = (window - 7) // 4 + 1
    for _ in range(3):
        cells = (cells - 3) // 2 + 1
    fc6, fc7, score = _head(encoder, dims, cells, classes, hidden or PAPER_WIDTH * width)
    head = nn.Sequential(nn.Dropout(), fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), score)
    return Classifier(dims, window, cells, encoder.features, head)


def vgg16(dims: int, in_channels: int, classes: int, *, width: int = PAPER_WIDTH, window: int = 224,
          hidden: int | None = None, norm: Norm = "none") -> Classifier:  # fmt: skip
    """VGG-16 (Simonyan & Zisserman 2015): 224 voxels to 7 cells of 512, then 4096, 4096 and ``classes``.

    Args:
        dims: 2 or 3.
        in_channels, classes: of images and scores.
        width: channels in place of the first 64.
        window: voxels per axis of an image, a multiple of 32.
        hidden: features of the head in place of 4096; by default in proportion to ``width``.
        norm: what normalises features; only none and frozen_batch give windows and dense images the same features.

    Raises:
        ValueError: for a window that is no multiple of 32.
    """
    if window % 32:
        raise ValueError(f"window of {window} voxels; expected a multiple of 32")
    encoder = VGG16(EncoderSpec(dims, in_channels, width, norm=norm))
    fc6, fc7, score = _head(encoder, dims, window // 32, classes, hidden or PAPER_WIDTH * width)
    head = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), score)
    return Classifier(dims, window, window // 32, encoder.features, head)


# Classifiers that surgery is meant for.
CLASSIFIERS: dict[str, Callable[..., Classifier]] = {"alexnet": alexnet, "vgg16": vgg16}


def convolutionalise(classifier: Classifier) -> nn.Sequential:
    """The same network without a fully connected layer; the classifier is left as it is.

    Returns:
        A network of (N, C, S), S not below the window, to scores (N, K, S'), with S' = 1 and the classifier's own
        scores for an image of the window's size. Score i belongs to the window that begins at 32 i. (Where features are
        padded with zeros, as VGG's are, a window that is cut out has zeros around it and its neighbours do not.)
    """
    layers: list[nn.Module] = []
    cells = classifier.cells
    for layer in copy.deepcopy(classifier.classifier):
        if isinstance(layer, nn.Linear):
            layers.append(to_convolution(layer, classifier.dims, cells))
            # What follows sees the single cell that the first layer leaves of a window.
            cells = 1
        else:
            layers.append(layer)
    return nn.Sequential(copy.deepcopy(classifier.features), nn.Sequential(*layers))


def to_convolution(layer: nn.Linear, dims: int, cells: int) -> nn.Module:
    """The convolution, without padding, that does to every window of features what a linear layer does to one.

    Args:
        layer: of C cells^dims inputs, flattened channels first.
        dims: 2 or 3.
        cells: features per axis of a window.

    Raises:
        ValueError: if the inputs are no windows of whole channels.
    """
    channels, rest = divmod(layer.in_features, cells**dims)
    if rest or not channels:
        raise ValueError(f"{layer.in_features} inputs are not whole channels over {cells} cells on {dims} axes")
    biased = layer.bias is not None
    made: nn.Module = CONV[dims](channels, layer.out_features, cells, bias=biased)
    with torch.no_grad():
        weight = made.get_parameter("weight")
        weight.copy_(layer.weight.view(weight.shape))
        if biased:
            made.get_parameter("bias").copy_(layer.bias)
    return made


def _head(encoder: Encoder, dims: int, cells: int, classes: int, hidden: int) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """The three fully connected layers."""
    if cells < 1:
        raise ValueError("the window leaves no features; it must be larger")
    layers = (
        nn.Linear(encoder.channels[-1] * cells**dims, hidden),
        nn.Linear(hidden, hidden),
        nn.Linear(hidden, classes),
    )
    he_normal(nn.ModuleList(layers))
    return layers
