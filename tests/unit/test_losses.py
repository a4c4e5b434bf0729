"""Laws that every row of the table of losses obeys, for classes and for regions, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.build import build_loss
from medseg.losses.table import LOSSES
from medseg.losses.targets import multi_hot, one_hot

CLASSES = 4
REGIONS = ((1, 2, 3), (1, 3), (3,))
KINDS: dict[str, tuple[tuple[int, ...], ...]] = {"classes": (), "regions": REGIONS, "one region": ((1,),)}
SHAPES = {2: (9, 12), 3: (6, 7, 8)}
# These look at the neighbours of a voxel too.
SPATIAL = {"dice_boundary", "dice_hausdorff", "cldice"}
# These do not learn from every voxel at any time.
SELECTIVE = {"lovasz"}

pytestmark = [
    pytest.mark.parametrize("name", LOSSES),
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("dims", SHAPES),
]


def scene(dims: int) -> Tensor:
    """Labels (2, S): a block of each class, touching one another and the border, in other places in each image."""
    labels = torch.zeros(2, *SHAPES[dims], dtype=torch.int64)
    labels[0, 1:4, 2:7] = 1
    labels[0, 4:6, 1:5] = 2
    labels[0, 2:5, 7:9] = 3
    labels[1, 0:3, 0:4] = 3
    labels[1, 3:5, 2:6] = 1
    labels[1, 5, :] = 2
    return labels


def noise(dims: int, kind: str, seed: int = 0, scale: float = 2.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, len(KINDS[kind]) or CLASSES, *SHAPES[dims], generator=source)


def sure(labels: Tensor, kind: str, size: float = 40.0) -> Tensor:
    """Logits that say exactly what the labels say."""
    return size * (multi_hot(labels, KINDS[kind]) * 2 - 1 if KINDS[kind] else one_hot(labels, CLASSES))


def spoilt(labels: Tensor, share: float = 0.4) -> Tensor:
    """Some voxels of the labels without annotation."""
    gone = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) < share
    return torch.where(gone, IGNORE, labels)


def both(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """A loss and its gradient."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    assert value.shape == ()
    value.backward()
    assert logits.grad is not None
    return float(value.detach()), logits.grad


@pytest.mark.parametrize("batch", ["perfect", "worst", "noise", "without foreground", "one class"])
def test_loss_and_gradient_are_finite(name: str, kind: str, dims: int, batch: str) -> None:
    labels = scene(dims)
    logits = {"perfect": sure(labels, kind), "worst": -sure(labels, kind)}.get(batch, noise(dims, kind))
    if batch in {"without foreground", "one class"}:
        labels = torch.full_like(labels, batch == "one class")
    for ignore in (False, True):
        value, gradient = both(build_loss(name, KINDS[kind], ignore=ignore), logits, labels)
        assert np.isfinite(value)
        assert torch.isfinite(gradient).all()
        if batch not in {"perfect", "worst"}:
            assert gradient.abs().sum() > 0


def test_a_sure_and_right_answer_has_loss_zero_and_any_other_more(name: str, kind: str, dims: int) -> None:
    labels, loss = scene(dims), build_loss(name, KINDS[kind])
    for answered in (labels, torch.zeros_like(labels)):
        right = sure(answered, kind)
        least = float(loss(right, answered))
        assert least == pytest.approx(0.0, abs=1e-6)
        assert float(loss(-right, answered)) > 0.2
        one_voxel = right.clone()
        # A voxel of class 1, in region 1 and 2, in the first scene.
        one_voxel[(0, slice(None), 2, 4)] = right[(0, slice(None), 2, 4)].flip(0) if not KINDS[kind] else -40.0
        if not torch.equal(one_voxel, right):
            assert float(loss(one_voxel, answered)) > least
        assert all(float(loss(noise(dims, kind, seed), answered)) > least for seed in range(5))


def test_loss_falls_on_the_way_from_wrong_to_right(name: str, kind: str, dims: int) -> None:
    labels = scene(dims)
    right = (sure(labels, kind) > 0).float()
    wrong = 1 - right if KINDS[kind] else (sure((labels + 1) % CLASSES, kind) > 0).float()
    loss, values = build_loss(name, KINDS[kind]), []
    # An even number: half way nothing is predicted.
    for share in np.linspace(0.01, 0.99, 12):
        p = (1 - share) * wrong + share * right
        values.append(float(loss(torch.logit(p) if KINDS[kind] else p.clamp_min(1e-4).log(), labels)))
    steps = np.diff(values)
    if name == "dice_hausdorff" and not KINDS[kind]:
        # It weighs by the boundary of what is predicted, which leaps from the wrong class to the right one half way.
        steps = np.delete(steps, 5)
    assert (steps <= 1e-6).all(), values
    assert values[-1] < 0.2 * values[0]


def test_gradient_descent_lowers_it(name: str, kind: str, dims: int) -> None:
    labels, logits, loss = scene(dims), noise(dims, kind), build_loss(name, KINDS[kind])
    first, gradient = both(loss, logits, labels)
    for _ in range(20):
        logits = logits - 0.3 * gradient / gradient.abs().max()
        last, gradient = both(loss, logits, labels)
    assert last < 0.95 * first


def test_voxels_that_nobody_annotated_change_nothing(name: str, kind: str, dims: int) -> None:
    labels, logits = spoilt(scene(dims)), noise(dims, kind)
    loss = build_loss(name, KINDS[kind], ignore=True)
    value, gradient = both(loss, logits, labels)
    by_voxel = gradient.abs().amax(dim=1)
    assert (by_voxel[labels == IGNORE] == 0).all()
    known = (labels != IGNORE)[:, None]
    other_value, other_gradient = both(loss, torch.where(known, logits, noise(dims, kind, 7, scale=20)), labels)
    assert other_value == value
    assert torch.equal(other_gradient, gradient)
    if name not in SELECTIVE:
        assert (by_voxel[labels != IGNORE] > 0).all()


def test_loss_is_that_of_the_annotated_voxels_alone(name: str, kind: str, dims: int) -> None:
    labels, logits = spoilt(scene(dims)), noise(dims, kind)
    found = float(build_loss(name, KINDS[kind], ignore=True)(logits, labels))
    if name in SPATIAL:
        # Not annotated is outside of everything, and where nothing is wrong nothing is lost.
        right = sure(torch.where(labels == IGNORE, 0, labels), kind)
        assert float(build_loss(name, KINDS[kind], ignore=True)(right, labels)) == pytest.approx(0.0, abs=1e-6)
        return
    kept = labels != IGNORE
    alone = logits.movedim(1, -1)[kept].T[None], labels[kept][None]
    assert found == pytest.approx(float(build_loss(name, KINDS[kind])(*alone)), rel=1e-5)


def test_a_batch_without_annotation_has_loss_zero(name: str, kind: str, dims: int) -> None:
    nothing = torch.full((2, *SHAPES[dims]), IGNORE)
    value, gradient = both(build_loss(name, KINDS[kind], ignore=True), noise(dims, kind), nothing)
    assert value == 0.0
    assert (gradient == 0).all()


def test_masking_changes_nothing_where_all_is_annotated(name: str, kind: str, dims: int) -> None:
    labels, logits = scene(dims), noise(dims, kind)
    masked, plain = (build_loss(name, KINDS[kind], ignore=ignore)(logits, labels) for ignore in (True, False))
    assert float(masked) == pytest.approx(float(plain), rel=1e-6)


def test_no_class_and_no_sample_is_special(name: str, kind: str, dims: int) -> None:
    """Foreground classes in another order, regions in another order, samples in another order."""
    labels, logits, regions = spoilt(scene(dims)), noise(dims, kind), KINDS[kind]
    value = float(build_loss(name, regions, ignore=True)(logits, labels))
    turned = build_loss(name, regions, ignore=True)(logits.flip(0), labels.flip(0))
    assert float(turned) == pytest.approx(value, rel=1e-5)
    if regions:
        swapped = build_loss(name, regions[::-1], ignore=True)(logits.flip(1), labels)
    else:
        table = torch.arange(IGNORE + 1)
        # Class 1 becomes 3, 2 becomes 1, 3 becomes 2.
        table[1:4] = torch.tensor([3, 1, 2])
        swapped = build_loss(name, ignore=True)(logits[:, [0, 2, 3, 1]], table[labels])
    assert float(swapped) == pytest.approx(value, rel=1e-5)


def test_loss_is_repeatable_and_leaves_its_arguments_alone(name: str, kind: str, dims: int) -> None:
    labels, logits = spoilt(scene(dims)), noise(dims, kind)
    before = logits.clone(), labels.clone()
    loss = build_loss(name, KINDS[kind], ignore=True)
    (one, gradient), (two, again) = both(loss, logits, labels), both(loss, logits, labels)
    assert one == two
    assert torch.equal(gradient, again)
    assert torch.equal(logits, before[0]) and torch.equal(labels, before[1])


def test_half_precision_is_widened_first(name: str, kind: str, dims: int) -> None:
    labels, logits = spoilt(scene(dims)), noise(dims, kind).bfloat16()
    loss = build_loss(name, KINDS[kind], ignore=True)
    value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert float(value) == float(loss(logits.float(), labels))
    assert torch.isfinite(both(loss, logits, labels)[1]).all()


def test_memory_layout_does_not_matter(name: str, kind: str, dims: int) -> None:
    labels, logits = spoilt(scene(dims)), noise(dims, kind)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    loss = build_loss(name, KINDS[kind], ignore=True)
    (value, gradient), (other, turned) = both(loss, logits, labels), both(loss, logits.to(memory_format=layout), labels)
    assert other == pytest.approx(value, rel=1e-5)
    assert torch.allclose(gradient, turned, atol=1e-6)


def test_gradient_is_that_of_the_value(name: str, kind: str, dims: int) -> None:
    """In float64, against differences along three directions."""
    labels, logits = spoilt(scene(dims))[:, :4], noise(dims, kind).double()[:, :, :4]
    loss = build_loss(name, KINDS[kind], ignore=True)
    value, gradient = both(loss, logits, labels)
    assert gradient.dtype == torch.float64
    for seed in range(3):
        way = noise(dims, kind, 10 + seed).double()[:, :, :4]
        rise = (loss(logits + 1e-6 * way, labels) - loss(logits - 1e-6 * way, labels)) / 2e-6
        assert float(rise) == pytest.approx(float((gradient * way).sum()), rel=1e-5, abs=1e-7)
    assert value == pytest.approx(float(loss(logits.float(), labels)), rel=1e-5)
