"""Each row of the table of losses against its formula: in float64 numpy and scipy, by MONAI, and by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medseg.image.labels import IGNORE
from medseg.losses import overlap
from medseg.losses.build import build_loss
from medseg.losses.distance import boundary_distance
from medseg.losses.skeleton import EROSIONS, soft_skeleton
from medseg.losses.table import LOSSES

Floats = NDArray[np.float64]
# From probabilities and targets (N, R, S), all float64.
Oracle = Callable[[Floats, Floats], float]
SMOOTH = 1e-5
REGIONS = ((1, 2, 3), (1, 3), (3,))


def sums(values: Floats) -> Floats:
    return values.sum(axis=(0, *range(2, values.ndim)))


def dice(p: Floats, t: Floats) -> float:
    return float(np.mean(1 - (2 * sums(p * t) + SMOOTH) / (sums(p) + sums(t) + SMOOTH)))


def tversky(p: Floats, t: Floats) -> float:
    right, over, under = sums(p * t), sums(p * (1 - t)), sums((1 - p) * t)
    return float(np.mean(1 - (right + SMOOTH) / (right + 0.3 * over + 0.7 * under + SMOOTH)))


def generalised_dice(p: Floats, t: Floats) -> float:
    weight = np.array([1 / v**2 if v else np.inf for v in sums(t)])
    weight[np.isinf(weight)] = weight[np.isfinite(weight)].max()
    return float(1 - 2 * (weight * sums(p * t)).sum() / (weight * (sums(p) + sums(t))).sum())


def surprise(p: Floats, t: Floats) -> Floats:
    return -np.log((p * t).sum(1))


def region_surprise(p: Floats, t: Floats) -> Floats:
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def focal(values: Floats) -> float:
    return float(((1 - np.exp(-values)) ** 2 * values).mean())


def worst(values: Floats) -> float:
    return float(np.sort(values, axis=None)[::-1][: values.size // 10].mean())


def jaccard(wrong: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The authors' set function: 1 - |T without the wrong| / |T with the wrong|."""
    union = (truth | wrong).sum()
    return 1 - (truth & ~wrong).sum() / union if union else 0.0


def extension(errors: Floats, truth: NDArray[np.bool_]) -> float:
    """The Lovász extension as an integral over thresholds: of J({i: m_i >= theta}) from 0 to the largest error."""
    levels = [0.0, *np.unique(errors[errors > 0])]
    return sum((b - a) * jaccard(errors >= b, truth) for a, b in zip(levels[:-1], levels[1:], strict=True))


def lovasz_softmax(p: Floats, t: Floats) -> float:
    present = [k for k in range(t.shape[1]) if t[:, k].any()]
    return float(np.mean([extension(np.abs(t[:, k] - p[:, k]), t[:, k] > 0) for k in present]))


def lovasz_hinge(p: Floats, t: Floats) -> float:
    errors = np.maximum(0, 1 - np.log(p / (1 - p)) * (2 * t - 1))
    return float(np.mean([extension(errors[:, k], t[:, k] > 0) for k in range(t.shape[1])]))


def distances(masks: NDArray[np.bool_]) -> Floats:
    out = np.zeros(masks.shape)
    for at in np.ndindex(masks.shape[:2]):
        if masks[at].any() and not masks[at].all():
            out[at] = ndimage.distance_transform_edt(masks[at]) + ndimage.distance_transform_edt(~masks[at])
    return out


def boundary(p: Floats, t: Floats) -> float:
    d = distances(t > 0)
    return float((np.where(t > 0, np.minimum(1 - d, 0), d) * (p - t)).mean())


def hausdorff(p: Floats, t: Floats) -> float:
    return float(((p - t) ** 2 * (distances(p > 0.5) ** 2 + distances(t > 0) ** 2)).mean())


def skeleton(v: Floats) -> Floats:
    """Algorithm 1 of Shit et al. for one image and class (S), by scipy's grey morphology."""
    cross, box = ndimage.generate_binary_structure(v.ndim, 1), np.ones((3,) * v.ndim, bool)

    def erode(x: Floats) -> Floats:
        return ndimage.grey_erosion(x, footprint=cross, mode="nearest")

    def opened(x: Floats) -> Floats:
        return ndimage.grey_dilation(erode(x), footprint=box, mode="nearest")

    line = np.maximum(v - opened(v), 0)
    for _ in range(EROSIONS):
        v = erode(v)
        line = line + (1 - line) * np.maximum(v - opened(v), 0)
    return line


def cl_dice(p: Floats, t: Floats) -> float:
    of_p, of_t = (np.stack([np.stack([skeleton(v) for v in image]) for image in x]) for x in (p, t))
    precision, sensitivity = (sums(of_p * t) + 1) / (sums(of_p) + 1), (sums(of_t * p) + 1) / (sums(of_t) + 1)
    return float(np.mean(1 - 2 * precision * sensitivity / (precision + sensitivity)))


def foreground(oracle: Oracle) -> Oracle:
    return lambda p, t: oracle(p[:, 1:], t[:, 1:])


def plus(*oracles: Oracle) -> Oracle:
    return lambda p, t: sum(oracle(p, t) for oracle in oracles)


def sides(p: Floats, t: Floats) -> float:
    pairs = [(np.stack([1 - p[:, k], p[:, k]], 1), np.stack([1 - t[:, k], t[:, k]], 1)) for k in range(p.shape[1])]
    return float(np.mean([generalised_dice(*pair) for pair in pairs]))


CLASS_ORACLES: dict[str, Oracle] = {
    "dice_ce": plus(foreground(dice), lambda p, t: surprise(p, t).mean()),
    "dice": foreground(dice),
    "ce": lambda p, t: surprise(p, t).mean(),
    "dice_focal": plus(foreground(dice), lambda p, t: focal(surprise(p, t))),
    "dice_topk": plus(foreground(dice), lambda p, t: worst(surprise(p, t))),
    "tversky": foreground(tversky),
    "generalised_dice": generalised_dice,
    "lovasz": lovasz_softmax,
    "dice_boundary": foreground(plus(dice, boundary)),
    "dice_hausdorff": foreground(plus(dice, hausdorff)),
    "cldice": foreground(plus(dice, cl_dice)),
}
REGION_ORACLES: dict[str, Oracle] = {
    "dice_ce": plus(dice, lambda p, t: region_surprise(p, t).mean()),
    "dice": dice,
    "ce": lambda p, t: region_surprise(p, t).mean(),
    "dice_focal": plus(dice, lambda p, t: focal(region_surprise(p, t))),
    "dice_topk": plus(dice, lambda p, t: worst(region_surprise(p, t).mean(1))),
    "tversky": tversky,
    "generalised_dice": sides,
    "lovasz": lovasz_hinge,
    "dice_boundary": plus(dice, boundary),
    "dice_hausdorff": plus(dice, hausdorff),
    "cldice": plus(dice, cl_dice),
}


def sample(shape: tuple[int, ...], classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with some structure and labels of blobs, of all classes but the last."""
    source = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(source.normal(size=(2, classes, *shape)), (0, 0, *(1,) * len(shape)))
    labels = ndimage.gaussian_filter(source.normal(size=(2, classes, *shape)), (0, 0, *(1,) * len(shape))).argmax(1)
    return torch.from_numpy(8 * smooth).float(), torch.from_numpy(np.where(labels == classes - 1, 0, labels))


def test_every_loss_has_an_oracle() -> None:
    assert set(CLASS_ORACLES) == set(REGION_ORACLES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(11, 9), (6, 5, 7), (1, 9, 2)])
def test_loss_is_its_formula(name: str, classes: int, shape: tuple[int, ...]) -> None:
    logits, labels = sample(shape, classes)
    p = torch.softmax(logits.double(), 1).numpy()
    t = np.stack([labels.numpy() == k for k in range(classes)], 1).astype(np.float64)
    found = float(build_loss(name)(logits, labels))
    assert found == pytest.approx(CLASS_ORACLES[name](p, t), rel=2e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(11, 9), (6, 5, 7), (1, 9, 2)])
def test_region_loss_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    logits, labels = sample(shape, 4)
    logits = logits[:, :3]
    p = torch.sigmoid(logits.double()).numpy()
    t = np.stack([np.isin(labels.numpy(), members) for members in REGIONS], axis=1).astype(np.float64)
    assert float(build_loss(name, REGIONS)(logits, labels)) == pytest.approx(REGION_ORACLES[name](p, t), rel=2e-5)


# By MONAI, where it has the loss


@pytest.mark.parametrize("shape", [(12, 10), (6, 5, 7)])
def test_losses_are_those_of_monai_where_it_is_right(shape: tuple[int, ...]) -> None:
    from monai.losses import BoundaryLoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, HausdorffDTLoss
    from monai.losses.cldice import soft_skel

    logits, labels = sample(shape, 4)
    labels[0, 0, :3] = 3
    plain = {"softmax": True, "to_onehot_y": True, "include_background": False}
    soft = float(DiceLoss(batch=True, **plain)(logits, labels[:, None]))

    def ours(name: str) -> float:
        return float(build_loss(name)(logits, labels)) - (soft if name.startswith("dice_") else 0)

    # Its mean is over channels too, of which one counts at each voxel.
    focal = 4 * FocalLoss(to_onehot_y=True, use_softmax=True)(logits, labels[:, None])
    assert ours("dice_focal") == pytest.approx(float(focal), rel=1e-5)
    assert ours("dice_hausdorff") == pytest.approx(float(HausdorffDTLoss(**plain)(logits, labels[:, None])), rel=1e-5)
    generalised = GeneralizedDiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0)
    assert ours("generalised_dice") == pytest.approx(float(generalised(logits, labels[:, None])), rel=1e-4)
    distance = BoundaryLoss(**plain)
    right = 100.0 * torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    expected = float(distance(logits, labels[:, None]) - distance(right, labels[:, None]))
    assert ours("dice_boundary") == pytest.approx(expected, rel=1e-5)
    assert torch.equal(soft_skeleton(logits.softmax(1)), soft_skel(logits.softmax(1), EROSIONS))


# By hand

ONE = ((1,),)
ROW = torch.tensor([[[0, 1, 1, 1, 0]]])


def test_region_loss_by_hand() -> None:
    """Two voxels, two regions: sigmoid(0) = 1/2 everywhere, targets (1, 1) and (1, 0)."""
    logits, labels = torch.zeros(1, 2, 2), torch.tensor([[2, 1]])
    regions = ((1, 2), (2,))
    assert float(build_loss("ce", regions)(logits, labels)) == pytest.approx(np.log(2))
    # 1 - 2 (1/2 + 1/2) / (1 + 2) and 1 - 2 (1/2) / (1 + 1), on average.
    assert float(build_loss("dice", regions)(logits, labels)) == pytest.approx((1 / 3 + 1 / 2) / 2, rel=1e-4)
    # 1 - TP / (TP + 0.3 FP + 0.7 FN): (1, 0, 1) and (1/2, 1/2, 1/2).
    expected = (1 - 1 / 1.7 + 1 - 0.5 / (0.5 + 0.15 + 0.35)) / 2
    assert float(build_loss("tversky", regions)(logits, labels)) == pytest.approx(expected, rel=1e-4)


def test_distance_losses_by_hand() -> None:
    """A row of 5 voxels, the middle 3 inside, 1/2 predicted everywhere: distances 1 1 2 1 1, signed 1 0 -1 0 1."""
    logits, soft = torch.zeros(1, 1, 1, 5), 1 - 2 * 1.5 / (2.5 + 3)
    assert boundary_distance(ROW[:, None] == 1).flatten().tolist() == [1, 1, 2, 1, 1]
    assert float(build_loss("dice_boundary", ONE)(logits, ROW)) == pytest.approx(soft + 1.5 / 5, rel=1e-5)
    assert float(build_loss("dice_hausdorff", ONE)(logits, ROW)) == pytest.approx(soft + 0.25 * 8 / 5, rel=1e-5)


def test_a_mask_without_boundary_has_no_distances() -> None:
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[:, 1] = True
    assert (boundary_distance(masks) == 0).all()
    logits = sample((4, 4), 2)[0][:, :1]
    for label in (0, 1):
        labels = torch.full((2, 4, 4), label)
        with_boundary, soft = (float(build_loss(name, ONE)(logits, labels)) for name in ("dice_boundary", "dice"))
        assert with_boundary == soft


def test_boundary_distance_is_a_proper_operator() -> None:
    """Its fake form, which memory is estimated with, has the shape, type and layout of the real one."""
    for shape in ((2, 3, 5, 4), (1, 2, 3, 4, 5)):
        masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
        torch.library.opcheck(boundary_distance, (masks,))
        torch.library.opcheck(boundary_distance, (masks.transpose(2, 3),))


def test_centre_line_by_hand() -> None:
    """A line of 5 voxels predicted with a gap: all predicted is right, (4 + 1) / (5 + 1) of the line is found."""
    labels = torch.zeros(1, 3, 7, dtype=torch.int64)
    labels[0, 1, 1:6] = 1
    logits = torch.where(labels == 1, 40.0, -40.0)[:, None]
    logits[0, 0, 1, 3] = -40.0
    soft = 1 - 2 * 4 / (4 + 5)
    assert float(build_loss("cldice", ONE)(logits, labels)) == pytest.approx(soft + 1 / 11, rel=1e-4)


@pytest.mark.parametrize(("width", "found"), [(1, True), (2 * EROSIONS + 2, True), (2 * EROSIONS + 3, False)])
def test_centre_lines_are_found_up_to_a_width(width: int, found: bool) -> None:
    tube = torch.zeros(1, 1, 30, 20)
    tube[:, :, 10 : 10 + width] = 1
    assert (soft_skeleton(tube)[..., 10].sum() > 0) == found


def test_top_k_by_hand() -> None:
    """Of 9 annotated voxels the worst counts, of 40 the worst 4."""
    source = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 2, 40, generator=source), torch.randint(0, 2, (1, 40), generator=source)
    few = torch.where(torch.arange(40) < 9, labels, IGNORE)
    for given, voxels, count in ((labels, 40, 4), (few, 9, 1)):
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")[0, :voxels]
        expected = float(each.sort(descending=True).values[:count].mean())
        top = build_loss("dice_topk", ignore=True)(logits, given) - build_loss("dice", ignore=True)(logits, given)
        assert float(top) == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_decisions_is_intersection_over_union() -> None:
    labels = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 0]])
    answer = torch.tensor([[0, 1, 1, 1, 2, 2, 0, 0]])
    logits = 100.0 * torch.nn.functional.one_hot(answer, 3).movedim(-1, 1).float()
    # Background 2 of 4, class 1 2 of 4, class 2 1 of 3.
    assert float(build_loss("lovasz")(logits, labels)) == pytest.approx((0.5 + 0.5 + 2 / 3) / 3, rel=1e-6)


def test_tversky_with_equal_weights_is_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "TVERSKY_ALPHA", 0.5)
    monkeypatch.setattr(overlap, "TVERSKY_BETA", 0.5)
    logits, labels = sample((11, 9), 3)
    labels[0, 0] = 2
    for regions, given in (((), logits), (((1, 2), (2,)), logits[:, :2])):
        equal, soft = (float(build_loss(name, regions)(given, labels)) for name in ("tversky", "dice"))
        assert equal == pytest.approx(soft, rel=1e-5)


@pytest.mark.parametrize("size", [10, 1000])
@pytest.mark.parametrize("regions", [(), ONE])
def test_generalised_dice_of_a_patch_without_foreground(size: int, regions: tuple[tuple[int, ...], ...]) -> None:
    """Half of n voxels is right: 1 - 2 (n/2) / (n/2 + n/2 + n), at any n."""
    labels = torch.zeros(1, size, size, dtype=torch.int64)
    logits = torch.zeros(1, len(regions) or 2, size, size)
    assert float(build_loss("generalised_dice", regions)(logits, labels)) == pytest.approx(0.5, rel=1e-4)


def test_lovasz_of_a_large_patch_is_exact() -> None:
    """Every voxel of background at the border of right and wrong, around one voxel of foreground that is right."""
    labels = torch.zeros(1, 1500, 1500, dtype=torch.int64)
    labels[0, 0, 0] = 1
    logits = torch.zeros(1, 1, 1500, 1500)
    logits[0, 0, 0, 0] = np.log(3)
    # Hinge errors of 1 lower intersection over union from 1 to 1/n; the last 1/n is the voxel inside, without error.
    n = 1500**2
    expected = (1 - 1 / n) + max(0.0, 1 - np.log(3)) / n
    assert float(build_loss("lovasz", ONE)(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_dice_is_pooled_over_the_batch() -> None:
    """A patch without foreground, well predicted, must not count as a Dice of 0 beside one with foreground."""
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, 2:6, 2:6] = 1
    sure = 40.0 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert float(build_loss("dice")(sure, labels)) == pytest.approx(0.0, abs=1e-4)
