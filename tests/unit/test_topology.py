"""The shape of networks: laws of the rules one by one. Whole plans are held against nnU-Net's in ``test_parity.py``."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import PlanError
from medseg.models.spec import total_stride
from medseg.plan import topology
from medseg.plan.limits import LIMITS, limits_of
from medseg.plan.topology import (
    PlanningInput,
    feature_voxel_budget,
    feature_voxels,
    next_smaller,
    plan_topology,
    topology_for,
)

spacings = st.lists(st.floats(0.3, 6.0), min_size=2, max_size=3).map(tuple)


@st.composite
def targets(draw: st.DrawFn, largest: int = 400) -> PlanningInput:
    spacing = draw(spacings)
    shape = tuple(float(draw(st.integers(1, largest))) for _ in spacing)
    return PlanningInput(spacing, shape, draw(st.integers(2, 9)), math.prod(shape) * draw(st.integers(1, 300)))


def test_coarse_axes_are_convolved_and_halved_later() -> None:
    spacing = (5.0, 1.0, 1.0)
    strides = topology.plan_strides((20, 160, 160), spacing)
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert topology.plan_kernels(strides, spacing) == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 4


@pytest.mark.parametrize("key", sorted(LIMITS), ids=str)
@given(target=targets())
def test_initial_patch_fits_into_image_and_budget(key: tuple[str, int], target: PlanningInput) -> None:
    limits = replace(LIMITS[key], voxels=min(LIMITS[key].voxels, 2**20))
    patch = topology.initial_patch(target.spacing, target.shape, limits.voxels, limits.refill)
    assert all(1 <= p <= max(1, n) for p, n in zip(patch, target.shape, strict=True))
    # Up to rounding the budget is kept; with refilling it is spent, unless the image is smaller.
    slack = math.prod((p + 0.51) / p for p in patch)
    assert math.prod(patch) <= limits.voxels * slack + 1 or any(p == 1 for p in patch)
    grown = math.prod(p + 0.51 for p in patch)
    enough = grown >= min(limits.voxels, math.prod(target.shape)) * 0.99
    assert enough or not limits.refill or any(v < 1.5 for v in patch)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (3.0, 0.4, 0.4)])
@pytest.mark.parametrize("refill", [False, True])
def test_unclipped_patch_is_a_cube_in_the_world(spacing: tuple[float, ...], refill: bool) -> None:
    patch = topology.initial_patch(spacing, (10_000.0,) * 3, 128**3, refill)
    sides = [p * s for p, s in zip(patch, spacing, strict=True)]
    assert max(sides) / min(sides) < 1.03
    assert math.prod(patch) == pytest.approx(128**3, rel=0.02)


@given(targets(300), st.sampled_from(sorted(LIMITS)))
def test_topology_is_one_that_networks_can_have(target: PlanningInput, key: tuple[str, int]) -> None:
    limits = LIMITS[key]
    made = topology_for(target.shape, target, limits)
    divisor = total_stride(made.strides)
    assert len(made.strides) == len(made.kernels) == len(made.widths) <= (limits.max_stages or 99)
    assert set(made.strides[0]) == {1}
    assert all(set(s) <= {1, 2} and 2 in s for s in made.strides[1:])
    assert set(made.kernels[-1]) == {3}
    assert max(made.widths) <= limits.width_cap
    for axis in range(len(target.shape)):
        line = [k[axis] for k in made.kernels]
        assert line == sorted(line)
        assert set(line) <= {1, 3}
    for p, q, d in zip(target.shape, made.patch, divisor, strict=True):
        assert q % d == 0
        assert p <= q
        assert q < p + d or q == topology.shortest_axis(d)
        # An image too small for three stages is padded until two voxels remain.
        assert q // d >= (2 if len(made.strides) == topology.MIN_STAGES else topology.MIN_FEATURES) or d == 1


@given(targets(), st.sampled_from(sorted(LIMITS)))
def test_shrinking_ends_and_each_step_is_smaller(target: PlanningInput, key: tuple[str, int]) -> None:
    made = topology_for(target.shape, target, LIMITS[key])
    for _ in range(3000):
        smaller = next_smaller(made, target, LIMITS[key])
        if smaller is None:
            break
        assert math.prod(smaller.patch) < math.prod(made.patch)
        made = smaller
    else:
        pytest.fail("shrinking does not end")
    assert len(made.strides) == topology.MIN_STAGES, "nothing that could be left out is left"


def test_shrinking_skips_no_valid_size() -> None:
    """256 at a total stride of 64 is followed by 224, whose total stride is 32."""
    target = PlanningInput((1.0, 1.0), (256.0, 256.0), 2, 1e9)
    made = topology_for((256, 256), target, limits_of("cuda", 2))
    assert total_stride(made.strides) == (64, 64)
    smaller = next_smaller(made, target, limits_of("cuda", 2))
    assert smaller is not None
    assert smaller.patch == (224, 256)


@pytest.mark.parametrize(
    ("diameter", "spacing", "stages"),
    [
        (0.0, (1.0, 1.0), 6),
        (1000.0, (1.0, 1.0), 6),
        (16.0, (1.0, 1.0), 4),
        (15.9, (1.0, 1.0), 3),
        (1.0, (1.0, 1.0), 3),
        (16.0, (0.5, 0.5), 5),
        (16.0, (2.0, 0.5), 5),
        (16.0, (1.0, 1.0, 1.0), 4),
    ],
)
def test_stages_end_where_two_voxels_are_left_of_an_object(
    diameter: float, spacing: tuple[float, ...], stages: int
) -> None:
    target = PlanningInput(spacing, (256.0,) * len(spacing), 2, 1e9, diameter)
    processor = LIMITS["cpu", len(spacing)]
    assert topology.max_stages(target, processor) == stages
    assert len(topology_for((256,) * len(spacing), target, processor).strides) == stages
    # On a GPU time does not run out first, and nnU-Net's rules are kept.
    assert topology.max_stages(target, LIMITS["cuda", len(spacing)]) is None


def test_widths_double_up_to_the_cap() -> None:
    assert topology.plan_widths(6, 32, 320) == (32, 64, 128, 256, 320, 320)
    assert topology.plan_widths(1, 16, 256) == (16,)


def test_feature_voxels_of_a_network_counted_by_hand() -> None:
    """Patch 8x8, widths 4 and 6: 64 * 4 * (2 down, 2 up, 1 transposed) + 16 * 6 * 2 at the bottom + 64 * 3 logits."""
    assert feature_voxels((8, 8), ((1, 1), (2, 2)), (4, 6), 3) == 64 * 4 * 5 + 16 * 6 * 2 + 64 * 3


def test_feature_voxels_are_those_of_the_unet_that_is_built() -> None:
    """Counted by hooks on every convolution of the network itself."""
    import torch

    from medseg.models.spec import NetworkSpec
    from medseg.models.zoo import build_model

    target = PlanningInput((3.0, 1.0, 1.0), (16.0, 32.0, 32.0), 4, 1e9)
    made = topology_for(target.shape, target, replace(limits_of("cpu", 3), base_width=8))
    counted = []
    with torch.device("meta"):
        network = build_model("unet", NetworkSpec(3, 1, 4, made.widths, made.strides, made.kernels))
        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                module.register_forward_hook(lambda _m, _i, out: counted.append(out[0].numel()))
        network(torch.zeros(1, 1, *made.patch))
    assert sum(counted) == made.voxels


@pytest.mark.parametrize(("dims", "voxels"), [(2, 8.5e7 * 12), (3, 5.6e8 * 2)])
def test_the_voxel_budget_of_the_reference(dims: int, voxels: float) -> None:
    """nnU-Net: 8 GB train 12 pictures of 8.5e7 feature-map voxels, or 2 volumes of 5.6e8, in 16 bits."""
    assert feature_voxel_budget(8e9, dims, "bf16") == feature_voxel_budget(8e9, dims, "fp16") == voxels
    assert feature_voxel_budget(8e9, dims, "fp32") == voxels / 2
    assert feature_voxel_budget(24e9, dims, "bf16") == pytest.approx(3 * voxels)


@given(targets(), st.floats(1e6, 1e10), st.sampled_from(sorted(LIMITS)))
def test_two_patches_fit_or_it_is_an_error(target: PlanningInput, memory: float, key: tuple[str, int]) -> None:
    try:
        made, batch = plan_topology(target, LIMITS[key], memory)
    except PlanError as error:
        assert "no patch fits" in str(error)
        return
    assert 2 * made.voxels <= memory
    assert batch >= 2
    assert batch == 2 or batch <= memory / made.voxels + 0.5


def test_a_larger_budget_never_gives_a_smaller_patch() -> None:
    target = PlanningInput((2.5, 0.8, 0.8), (90.0, 400.0, 380.0), 3, 1e10)
    patches = [
        math.prod(plan_topology(target, limits_of("cuda", 3), 10.0**e)[0].patch) for e in (7, 8, 8.5, 9, 9.5, 10)
    ]
    assert patches == sorted(patches)
    assert patches[0] < patches[-1]


def test_what_does_not_fit_together_is_refused() -> None:
    target = PlanningInput((1.0, 1.0), (64.0, 64.0), 2, 1e9)
    limits = limits_of("cpu", 2)
    with pytest.raises(PlanError, match="one width"):
        plan_topology(target, limits, 1e9, widths=(8, 16))
    with pytest.raises(PlanError, match="2 strides per stage"):
        plan_topology(target, limits, 1e9, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), widths=(8, 16, 32))
    with pytest.raises(PlanError, match="at least 3"):
        plan_topology(target, limits, 1e9, strides=((1, 1), (2, 2)))
