"""A classifier made fully convolutional: the same scores on its window, dense ones on anything larger."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medseg.models.surgery import CLASSIFIERS, Classifier, alexnet, convolutionalise, to_convolution, vgg16

CLASSES = 5


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(name: str, dims: int, window: int, width: int = 8) -> Classifier:
    torch.manual_seed(0)
    return CLASSIFIERS[name](dims, 2, CLASSES, width=width, window=window).eval()


@pytest.mark.parametrize(
    ("name", "dims", "window", "cells"),
    [("alexnet", 2, 224, 6), ("vgg16", 2, 224, 7), ("alexnet", 3, 95, 2), ("vgg16", 3, 64, 2)],
)
def test_scores_on_the_own_window_are_equal(name: str, dims: int, window: int, cells: int) -> None:
    classifier = made(name, dims, window)
    assert classifier.cells == cells
    dense, x = convolutionalise(classifier), drawn(2, 2, *[window] * dims)
    assert not any(isinstance(m, nn.Linear) for m in dense.modules())
    with torch.inference_mode():
        expected = classifier(x)
        found = dense(x)
    assert found.shape == (2, CLASSES, *[1] * dims)
    assert expected.std() > 0.1
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "dims", "window"), [("alexnet", 2, 95), ("vgg16", 2, 64), ("vgg16", 3, 32)])
def test_larger_images_give_a_score_every_32_voxels(name: str, dims: int, window: int) -> None:
    dense = convolutionalise(made(name, dims, window))
    with torch.inference_mode():
        scores = dense(drawn(1, 2, window + 64, *[window + 32] * (dims - 1)))
    assert scores.shape == (1, CLASSES, 3, *[2] * (dims - 1))
    assert scores.std() > 0.01


@pytest.mark.parametrize("dims", [2, 3])
def test_dense_scores_are_those_of_every_window(dims: int) -> None:
    """Exact where nothing is padded: each score is the classifier's own of the window that begins at its place."""
    torch.manual_seed(0)
    convolution, pool = (nn.Conv2d, nn.MaxPool2d) if dims == 2 else (nn.Conv3d, nn.MaxPool3d)
    features = nn.Sequential(convolution(1, 4, 3), nn.ReLU(), pool(2), convolution(4, 6, 3), nn.ReLU())
    head = nn.Sequential(nn.Linear(6 * 3**dims, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, CLASSES))
    # 12 voxels: 10, 5, 3 cells; the stride is the pool's 2.
    classifier = Classifier(dims, 12, 3, features, head).eval()
    dense, x = convolutionalise(classifier), drawn(1, 1, *[18] * dims)
    with torch.inference_mode():
        scores = dense(x)
        assert scores.shape[2:] == (4,) * dims
        for place in [(0,) * dims, (3,) * dims, (1, 2, 3)[:dims]]:
            window = x[(..., *[slice(2 * p, 2 * p + 12) for p in place])]
            torch.testing.assert_close(scores[(0, slice(None), *place)], classifier(window)[0], atol=1e-5, rtol=1e-5)


def test_surgery_leaves_the_classifier_alone() -> None:
    classifier = made("alexnet", 2, 95)
    before = {n: t.clone() for n, t in classifier.state_dict().items()}
    dense = convolutionalise(classifier)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert all(torch.equal(t, before[n]) for n, t in classifier.state_dict().items())


# Totals in torchvision's documentation of weights; they follow from the tables in the papers.
@pytest.mark.parametrize(("name", "count"), [("alexnet", 61_100_840), ("vgg16", 138_357_544)])
def test_classifiers_have_the_parameters_of_the_papers(name: str, count: int) -> None:
    with torch.device("meta"):
        classifier = CLASSIFIERS[name](2, 3, 1000)
    assert sum(p.numel() for p in classifier.parameters()) == count
    heads = {"alexnet": ("classifier.1", "classifier.6"), "vgg16": ("classifier.0", "classifier.6")}[name]
    shapes = {n: tuple(p.shape) for n, p in classifier.named_parameters()}
    assert shapes[f"{heads[0]}.weight"] == (4096, 256 * 6 * 6 if name == "alexnet" else 512 * 7 * 7)
    assert shapes[f"{heads[1]}.weight"] == (1000, 4096)


def test_images_and_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image of \(96, 95\) voxels; this classifier takes 95 per axis"):
        made("alexnet", 2, 95)(drawn(1, 2, 96, 95))
    with pytest.raises(ValueError, match="multiple of 32"):
        vgg16(2, 1, 3, width=8, window=100)
    with pytest.raises(ValueError, match="leaves no features"):
        alexnet(2, 1, 3, width=8, window=40)
    with pytest.raises(ValueError, match="10 inputs are not whole channels over 2 cells on 2 axes"):
        to_convolution(nn.Linear(10, 3), 2, 2)
