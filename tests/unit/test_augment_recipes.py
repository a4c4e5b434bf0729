"""The recipes made of tables: keyed draws, shares and ranges, integer labels, context beyond the patch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from medseg.augment import tables
from medseg.augment.draws import Draws
from medseg.augment.moves import CELLS, cells, draw_moves, reach
from medseg.augment.parts import SMALL, chosen_rows
from medseg.augment.policy import AUGMENTATIONS, MAX_REACH, Setting, margins
from medseg.augment.steps import STEPS, Batch
from medseg.augment.tables import MICROSCOPY, NNUNET, TABLES, Change, coarse_axis, table_of
from medseg.augment.warp import spline_field, warp
from medseg.config import AUGMENTATION, ModelConfig

MOVING = ("rotation", "scaling", "elastic", "mirror", "quarter_turn")
SHAPES = [(24, 24), (20, 31), (9, 12, 14), (4, 20, 20)]


def keyed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(shape: tuple[int, ...], count: int = 6, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(count, channels, *shape, generator=keyed(5))
    return images, torch.randint(0, 4, (count, *shape), generator=keyed(6))


def always(table: Mapping[str, Change], *names: str) -> dict[str, Change]:
    """The table with these rows certain (none: all), the others off."""
    chosen = names or tuple(table)
    return {k: replace(v, probability=float(k in chosen), per_channel=1.0) for k, v in table.items()}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(name: str, table: Mapping[str, Change]) -> None:
        monkeypatch.setattr(tables, "TABLES", {**TABLES, name: table})

    return put


# Tables


def test_nnunet_table_is_the_published_one_in_its_order() -> None:
    rows = [
        ("rotation", 0.2, -30, 30, 1, False),
        ("scaling", 0.2, 0.7, 1.4, 1, False),
        ("noise", 0.1, 0, 0.1, 1, False),
        ("blur", 0.2, 0.5, 1, 0.5, False),
        ("brightness", 0.15, 0.75, 1.25, 1, False),
        ("contrast", 0.15, 0.75, 1.25, 1, False),
        ("low_resolution", 0.25, 0.5, 1, 0.5, False),
        ("gamma_inverted", 0.1, 0.7, 1.5, 1, False),
        ("gamma", 0.3, 0.7, 1.5, 1, False),
        ("mirror", 0.5, 0, 0, 1, False),
    ]
    on = {name: row for name, row in NNUNET.items() if row.probability}
    assert list(on.items()) == [(name, Change(*row)) for name, *row in rows]


def test_every_row_is_known_and_every_recipe_can_be_configured() -> None:
    for table in TABLES.values():
        assert set(table) <= {"rotation", "scaling", "elastic", "mirror", *STEPS}
    assert set(get_args(get_args(ModelConfig.model_fields["augment"].annotation)[0])) == set(AUGMENTATIONS)
    assert set(TABLES) < set(AUGMENTATIONS)


@pytest.mark.parametrize(
    ("patch", "spacing", "axis", "degrees"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), None, 30.0),
        ((64, 64, 22), (1.0, 1.0, 3.0), None, 30.0),
        ((64, 64, 16), (1.0, 1.0, 3.0), 2, 180.0),
        ((16, 64, 64), (3.0, 1.0, 1.0), 0, 180.0),
        ((64, 16, 64), (1.0, 1.0, 1.0), 1, 180.0),
        ((64, 16, 64), (1.0, 1.0, 3.0), None, 30.0),
        ((64, 64), (1.0, 5.0), None, 180.0),
        ((100, 64), (1.0, 1.0), None, 15.0),
    ],
)
def test_coarse_axis_and_rotations_of_patches(patch: Any, spacing: Any, axis: int | None, degrees: float) -> None:
    assert coarse_axis(patch, spacing) == axis
    assert table_of("nnunet", patch, spacing)["rotation"] == Change(0.2, -degrees, degrees)


# Draws


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_is_a_function_of_its_position_and_the_key(name: str, shape: tuple[int, ...], use: Any) -> None:
    use(name, {k: replace(v, probability=0.5) for k, v in TABLES[name].items()})
    images, labels = batch_of(shape)
    spacing = (1.0,) * len(shape)
    x, y = AUGMENTATIONS[name](images, labels, keyed(3), Setting(spacing, True))
    few_x, few_y = AUGMENTATIONS[name](images[:2], labels[:2], keyed(3), Setting(spacing, True))
    assert torch.equal(x[:2], few_x)
    assert torch.equal(y[:2], few_y)
    others = torch.cat([images[:1], images[1:].flip(0)])
    first, _ = AUGMENTATIONS[name](others, labels, keyed(3), Setting(spacing, True))
    assert torch.equal(first[0], x[0])
    assert not torch.equal(x[0], x[1])


def test_draws_do_not_depend_on_which_fields_are_needed() -> None:
    some, none = Draws(4, keyed()), Draws(4, keyed())
    ones, where = np.ones(4, dtype=np.float32), np.array([False, True, False, True])
    field = dict(some.normal(ones, (2, 20), where))
    assert list(field) == [1, 3]
    # Asked for and not even looked at, they are drawn from all the same.
    none.normal(ones, (2, 20), ~where)
    np.testing.assert_array_equal(some.uniform(3), none.uniform(3))
    last = Draws(4, keyed()).normal(ones, (2, 20), np.array([False, False, False, True]))
    assert torch.equal(dict(last)[3], field[3])


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(3,), (), (2, 40), (7,), (300,), (1,)]
    first = Draws(4, keyed())
    expected = [first.uniform(*size) for size in sizes]
    for at_once in (1, 10_000):
        monkeypatch.setattr("medseg.augment.draws.AT_ONCE", at_once)
        once = Draws(4, keyed())
        for size, numbers in zip(sizes, expected, strict=True):
            np.testing.assert_array_equal(once.uniform(*size), numbers)


def test_normal_numbers_come_from_48_drawn_bits() -> None:
    numbers = Draws(3, keyed()).uniform(2)
    fields = dict(Draws(3, keyed()).normal(np.ones(3, dtype=np.float32), (20,), np.ones(3, dtype=bool)))
    for n, (high, low) in enumerate(numbers.astype(float) * 2**24):
        assert torch.equal(fields[n], torch.randn(20, generator=keyed(int(high) << 24 | int(low))))


def test_normal_numbers_have_the_deviations_asked_for() -> None:
    deviations = np.array([0.0, 0.5, 3.0], dtype=np.float32)
    for n, field in Draws(3, keyed()).normal(deviations, (10_000,), np.ones(3, dtype=bool)):
        assert float(field.std()) == pytest.approx(deviations[n], rel=0.05)
        assert abs(float(field.mean())) <= 0.05 * deviations[n]


def within_binomial(hits: int, trials: int, probability: float) -> bool:
    return abs(hits - trials * probability) <= 4.5 * math.sqrt(trials * probability * (1 - probability)) + 1e-9


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in TABLES for n in TABLES[t] if n in STEPS])
def test_steps_are_applied_as_often_as_they_say(table: str, name: str) -> None:
    row = TABLES[table][name]
    count, channels = 1500, 3
    images = torch.rand(count, channels, 6, 6, generator=keyed(1))
    batch = Batch(images.clone(), torch.zeros(count, 6, 6, dtype=torch.int64), (1.0, 1.0), None)
    STEPS[name](batch, row, Draws(count, keyed(2)))
    changed = (batch.images != images).flatten(2).any(dim=2)
    assert torch.isfinite(batch.images).all()
    if name in ("stain", "colour", "noise", "quarter_turn") or row.shared:
        assert within_binomial(int(changed.any(dim=1).sum()), count, row.probability)
    else:
        # A grid shrunk by less than a tenth of 6 voxels is the old one.
        seen = row.per_channel * (0.8333 if name == "low_resolution" else 1)
        assert within_binomial(int(changed[:, 0].sum()), count, row.probability * seen)
        assert within_binomial(int(changed.any(dim=1).sum()), count, row.probability * (1 - (1 - seen) ** channels))


def test_moves_are_drawn_as_often_and_as_far_as_they_say() -> None:
    count, patch = 3000, (32, 32, 32)
    table = {**NNUNET, "elastic": Change(0.3, 0.05, 0.25), "mirror": Change(0.0)}
    moves = draw_moves(table, Draws(count, keyed(1)), patch, (1.0,) * 3)
    scale = np.linalg.det(moves.matrix.astype(float)) ** (1 / 3)
    assert within_binomial(int((np.abs(scale - 1) > 1e-5).sum()), count, 0.2)
    assert 0.7 - 1e-4 < scale.min() < 0.72
    assert 1.38 < scale.max() < 1.4 + 1e-4
    unit = moves.matrix / scale[:, None, None]
    turned = np.abs(unit - np.eye(3)).max(axis=(1, 2)) > 1e-4
    assert within_binomial(int(turned.sum()), count, 0.2)
    assert moves.bends is not None
    bent = np.abs(moves.bends.reshape(count, -1)).max(axis=1)
    assert within_binomial(int((bent > 0).sum()), count, 0.3)
    assert bent.max() <= 0.25 * 32 / CELLS
    assert within_binomial(int(moves.active.sum()), count, 1 - 0.8 * 0.8 * 0.7)
    still = ~moves.active
    assert (moves.matrix[still] == np.eye(3)).all()


@pytest.mark.parametrize("shape", [(6, 7), (4, 6, 5), (2, 8, 8)])
def test_mirrors_are_exact_and_as_often_as_they_say(shape: tuple[int, ...], use: Any) -> None:
    use("nnunet", {**always(NNUNET, "mirror"), "mirror": Change(0.3)})
    count, dims = 1500, len(shape)
    images = torch.rand(count, 2, *shape, generator=keyed(1))
    labels = torch.randint(0, 200, (count, *shape), generator=keyed(2), dtype=torch.uint8)
    x, y = AUGMENTATIONS["nnunet"](images, labels, keyed(3), Setting((1.0,) * dims, True))
    found = torch.zeros(count, dtype=torch.int64)
    for flips in itertools.product((False, True), repeat=dims):
        axes = [a - dims for a, flip in enumerate(flips) if flip]
        hits = (x == images.flip(axes)).flatten(1).all(dim=1) & (y == labels.flip(axes)).flatten(1).all(dim=1)
        found += hits
        assert within_binomial(int(hits.sum()), count, math.prod(0.3 if flip else 0.7 for flip in flips))
    assert (found == 1).all()


@pytest.mark.parametrize(
    ("patch", "spacing", "rows"),
    [
        ((20, 26), (1.0, 2.0), ("rotation", "scaling")),
        ((12, 10, 14), (1.0, 1.5, 1.0), ("rotation", "scaling")),
        ((12, 10, 14), (1.0, 1.5, 1.0), ("scaling",)),  # looked up axis by axis
        ((4, 20, 20), (4.0, 1.0, 1.0), ("rotation", "scaling")),
        ((20, 20, 4), (1.0, 1.0, 4.0), ("scaling",)),
    ],
)
def test_what_moves_is_mirrored_like_what_does_not(
    patch: tuple[int, ...], spacing: tuple[float, ...], rows: tuple[str, ...]
) -> None:
    table = table_of("nnunet", patch, spacing)
    moves = draw_moves({k: replace(table[k], probability=0.7) for k in rows}, Draws(16, keyed()), patch, spacing)
    signs = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.float32), (16, len(patch)))
    images = torch.randn(16, 2, *[n + 2 for n in patch], generator=keyed(2))
    labels = torch.randint(0, 9, (16, *images.shape[2:]), generator=keyed(3))
    x, y = warp(images, labels, moves, patch, spacing)
    mirrored = replace(moves, matrix=moves.matrix * signs[:, None])
    flipped_x, flipped_y = warp(images, labels, mirrored, patch, spacing)
    assert moves.active.any()
    for n in range(16):
        axes = [a - len(patch) for a, sign in enumerate(signs[n].tolist()) if sign < 0]
        torch.testing.assert_close(flipped_x[n], x[n].flip(axes), atol=1e-4, rtol=1e-4)
        # Places halfway between two voxels go to the same side, seen from either end.
        assert (flipped_y[n] == y[n].flip(axes)).float().mean() > 0.99


def test_factors_are_as_often_below_1_as_above() -> None:
    count = 2000
    batch = Batch(torch.ones(count, 1, 2, 2), torch.zeros(count, 2, 2), (1.0, 1.0), None)
    STEPS["brightness"](batch, Change(1.0, 0.9, 1.5), Draws(count, keyed()))
    factor = batch.images[:, 0, 0, 0]
    assert within_binomial(int((factor < 1).sum()), count, 0.5)
    assert (0.9 <= factor.min() < 0.91) and (1.49 < factor.max() <= 1.5)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.8), (1.2, 1.5), (0.5, 1.0), (1.0, 1.5), (1.0, 1.0)])
def test_factors_of_a_range_on_one_side_of_1_fill_it(low: float, high: float) -> None:
    batch = Batch(torch.ones(500, 1, 2, 2), torch.zeros(500, 2, 2), (1.0, 1.0), None)
    STEPS["brightness"](batch, Change(1.0, low, high), Draws(500, keyed()))
    margin = 0.02 * (high - low) + 1e-6
    assert low - 1e-6 <= batch.images.min() <= low + margin
    assert high - margin <= batch.images.max() <= high + 1e-6


def test_shared_changes_leave_the_ratio_of_channels() -> None:
    images = torch.rand(50, 3, 4, 4, generator=keyed(1)) + 0.1
    batch = Batch(images.clone(), torch.zeros(50, 4, 4), (1.0, 1.0), None)
    STEPS["brightness"](batch, MICROSCOPY["brightness"], Draws(50, keyed()))
    ratio = (batch.images / images).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


# What happens to a batch


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_drawn_changes_no_bit(name: str, shape: tuple[int, ...], use: Any) -> None:
    use(name, {k: replace(v, probability=0.0) for k, v in TABLES[name].items()})
    images, labels = batch_of(shape)
    x, y = AUGMENTATIONS[name](images, labels, keyed(), Setting((1.0,) * len(shape), True))
    assert torch.equal(x, images)
    assert torch.equal(y, labels)
    assert x.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_constant_images_stay_finite(name: str, shape: tuple[int, ...], value: float, use: Any) -> None:
    use(name, always(TABLES[name]))
    images, labels = torch.full((3, 3, *shape), value), torch.zeros(3, *shape, dtype=torch.int64)
    for seed in range(3):
        x, _ = AUGMENTATIONS[name](images, labels, keyed(seed), Setting((1.0,) * len(shape), False))
        assert torch.isfinite(x).all()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_those_that_were_there(name: str, shape: tuple[int, ...], use: Any) -> None:
    use(name, always(TABLES[name]))
    images, labels = batch_of(shape)
    labels = torch.tensor([1, 2, 200, 255])[labels]
    x, y = AUGMENTATIONS[name](images, labels, keyed(1), Setting((1.0,) * len(shape), False))
    assert (y.dtype, y.shape) == (torch.int64, labels.shape)
    assert (x.dtype, x.shape) == (torch.float32, images.shape)
    assert set(y.unique().tolist()) <= {0, 1, 2, 200, 255}
    assert 255 in y


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", [(48, 48), (40, 57), (24, 28, 32), (6, 40, 40)])
def test_image_and_label_move_together(name: str, shape: tuple[int, ...], use: Any) -> None:
    use(name, always(TABLES[name], *(k for k in MOVING if k in TABLES[name])))
    labels = torch.zeros(8, *shape, dtype=torch.int64)
    labels[..., shape[-2] // 4 : shape[-2] // 2, shape[-1] // 5 : -shape[-1] // 3] = 1
    x, y = AUGMENTATIONS[name](labels[:, None].float(), labels, keyed(2), Setting((1.0,) * len(shape), False))
    assert not torch.equal(y, labels)
    assert ((x[:, 0] > 0.5) == (y > 0)).float().mean() > 0.99
    assert ((x[:, 0] > 0.999) <= (y > 0)).all()


def test_nothing_is_turned_or_bent_across_a_coarse_axis(use: Any) -> None:
    """Slices of constant value stay constant, whatever happens within them; mirrors may swap them."""
    shape, spacing = (5, 32, 32), (4.0, 1.0, 1.0)
    use("nnunet", {**always(NNUNET, "rotation", "scaling", "elastic", "low_resolution"), "mirror": Change(0.0)})
    images = torch.arange(1.0, 6)[None, None, :, None, None].expand(4, 1, *shape).clone()
    x, _ = AUGMENTATIONS["nnunet"](images, torch.zeros(4, *shape, dtype=torch.int64), keyed(), Setting(spacing, True))
    for z in range(5):
        centre = x[:, 0, z, 12:20, 12:20]
        torch.testing.assert_close(centre, torch.full_like(centre, z + 1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("shape", "spacing"), [((32, 40), (1.0, 1.0)), ((24, 28, 20), (1.0, 1.0, 1.5))])
def test_the_strongest_bends_do_not_fold(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    counts, size = cells(shape, spacing)
    dims = len(shape)
    most = max(t["elastic"].high for t in TABLES.values())
    points = (torch.randint(0, 2, (40, dims, *[c + 3 for c in counts]), generator=keyed()) * 2.0 - 1) * size * most
    displaced = spline_field(points, shape, spacing)
    jacobian = torch.stack(torch.gradient(displaced, spacing=list(spacing), dim=list(range(2, 2 + dims))), dim=2)
    matrices = jacobian.flatten(3).permute(0, 3, 1, 2) + torch.eye(dims)
    assert matrices.det().min() > 0


# Context


@pytest.mark.parametrize(("patch", "spacing"), [((20, 26), (1.0, 2.0)), ((12, 10, 14), (1.0, 1.5, 1.0))])
def test_reach_is_all_that_a_sample_looks_at(patch: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    table = {"rotation": Change(0.4, -180, 180), "scaling": Change(0.4, 0.7, 1.4), "elastic": Change(0.5, 0, 0.3)}
    moves = draw_moves(table, Draws(16, keyed()), patch, spacing)
    around = reach(moves, patch, spacing)
    assert (around[~moves.active] == 0).all()
    assert (~moves.active).any()
    wide = int(around.max()) + 3
    images = torch.randn(16, 1, *[n + 2 * wide for n in patch], generator=keyed(1))
    labels = torch.randint(1, 9, (16, *images.shape[2:]), generator=keyed(2))
    all_x, all_y = warp(images, labels, moves, patch, spacing)
    for n, margin in enumerate(around.tolist()):
        inner = tuple(slice(wide - m, -(wide - m)) for m in margin)
        one = type(moves)(moves.active[n : n + 1], moves.matrix[n : n + 1], moves.bends[n : n + 1])
        x, y = warp(images[n : n + 1][(..., *inner)], labels[n : n + 1][(..., *inner)], one, patch, spacing)
        torch.testing.assert_close(x[0], all_x[n], atol=1e-4, rtol=1e-4)
        assert (y[0] == all_y[n]).float().mean() > 0.999
        assert (y > 0).all(), "nothing from outside"


def test_margins_are_those_of_the_draws_that_follow() -> None:
    patch, spacing = (32, 32), (1.0, 1.0)
    generator = keyed(4)
    around = margins("nnunet", 64, patch, spacing, generator)
    assert torch.equal(generator.get_state(), keyed(4).get_state())
    moves = draw_moves(table_of("nnunet", patch, spacing), Draws(64, keyed(4)), patch, spacing)
    limit = int(32 * MAX_REACH)
    np.testing.assert_array_equal(around, reach(moves, patch, spacing).clip(max=limit))
    assert 0 < int((around > 0).any(axis=1).sum()) < 40
    for name in ("default", "none"):
        assert not margins(name, 8, patch, spacing, keyed()).any()


def test_unequal_margins_are_refused() -> None:
    images, labels = batch_of((9, 9))
    with pytest.raises(ValueError, match="9 voxels do not hold a patch of 8"):
        AUGMENTATIONS["nnunet"](images, labels, keyed(), Setting((1.0, 1.0), False, (8, 9)))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("slices", [False, True])
def test_training_patches_hold_what_lies_around_them(
    name: str, slices: bool, use: Any, tiny_cases: Any, tiny_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside an image that is 1 everywhere, turned patches have no empty corners, unless they read too little."""
    from medseg.train import data

    def fill(index: int, image: np.ndarray) -> None:
        image[:] = 1.0

    use(name, always(TABLES[name], "rotation"))
    dims = 3 if slices else 2
    cases = tiny_cases(dims, spoil=fill)
    changes = {"spacing": (1.0, 0.0, 1.0)} if slices else {}
    size = 8 if slices else 16
    plan = tiny_plan(dims=2, augment=name, batch=4, patch=(size, size), foreground=0.0, **changes)
    middle = lambda shape, patch, rng, rows=None: tuple((n - p) // 2 for n, p in zip(shape, patch, strict=True))  # noqa: E731
    monkeypatch.setattr(data, "patch_start", middle)
    x, y = data.make_batch(cases, plan, 0, 1)
    assert x.shape == (4, 1, size, size)
    assert y.shape == (4, size, size)
    torch.testing.assert_close(x, torch.ones_like(x), atol=1e-4, rtol=0)
    again, _ = data.make_batch(cases, plan, 0, 1)
    assert torch.equal(x, again)
    monkeypatch.setattr(data, "margins", lambda *options: np.zeros((4, 2), dtype=np.int64))
    assert float(data.make_batch(cases, plan, 0, 1)[0].min()) < 0.5


# Overrides


def test_every_row_can_be_overridden_in_every_recipe() -> None:
    for table in TABLES.values():
        assert set(table) == set(AUGMENTATION)
        for name, row in table.items():
            limits = AUGMENTATION[name]
            assert (limits is None) == (row.low == row.high == 0)
            assert limits is None or limits[0] <= row.low <= row.high <= limits[1]


def test_overrides_take_the_place_of_the_recipe_and_of_its_rules() -> None:
    overrides = {"rotation": {"range": [-5.0, 5.0]}, "blur": {"probability": 1.0}}
    table = table_of("nnunet", (32, 32), (1.0, 1.0), overrides)
    assert table["rotation"] == Change(0.2, -5.0, 5.0)
    assert table["blur"] == Change(1.0, 0.5, 1.0, per_channel=0.5)
    assert {k: v for k, v in table.items() if k not in overrides} == {
        k: v for k, v in NNUNET.items() if k not in overrides
    }
    images, labels = batch_of((32, 32))
    off = {name: {"probability": 0.0} for name in NNUNET}
    x, _ = AUGMENTATIONS["nnunet"](images, labels, keyed(), Setting((1.0, 1.0), False, None, off))
    assert torch.equal(x, images)
    x, _ = AUGMENTATIONS["nnunet"](
        images, labels, keyed(), Setting((1.0, 1.0), False, None, {**off, "noise": {"probability": 1.0}})
    )
    assert not torch.equal(x, images)


def test_training_uses_the_overrides_of_the_plan(tiny_cases: Any, tiny_plan: Any) -> None:
    from medseg.train.data import make_batch

    cases = tiny_cases(2)
    off = {name: {"probability": 0.0} for name in NNUNET}
    x, y = make_batch(cases, tiny_plan(augment="nnunet", augmentation=off), 0, 0)
    plain_x, plain_y = make_batch(cases, tiny_plan(augment="none"), 0, 0)
    assert torch.equal(x, plain_x)
    assert torch.equal(y, plain_y)


# How it is computed changes nothing


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_together_as_on_a_gpu_equals_one_after_the_other(
    name: str, shape: tuple[int, ...], use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.augment import steps
    from medseg.augment import warp as warping

    use(name, {k: replace(v, probability=0.6) for k, v in TABLES[name].items()})
    images, labels = batch_of(shape)
    spacing = (1.0,) * len(shape)
    x, y = AUGMENTATIONS[name](images, labels, keyed(2), Setting(spacing, True))
    together = lambda chosen, device: [(np.flatnonzero(chosen),) * 2] if chosen.any() else []  # noqa: E731
    for module in (steps, warping):
        monkeypatch.setattr(module, "parts", together)
    flat = lambda chosen, size, device: together(chosen.ravel(), device)  # noqa: E731
    monkeypatch.setattr(steps, "chosen_rows", flat)
    together_x, together_y = AUGMENTATIONS[name](images, labels, keyed(2), Setting(spacing, True))
    torch.testing.assert_close(together_x, x, atol=1e-4, rtol=1e-4)
    assert (together_y == y).float().mean() > 0.999


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_those_chosen_each_once(channels: int) -> None:
    chosen = np.random.default_rng(1).random((40, channels)) < 0.6
    chosen[0], cpu = True, torch.device("cpu")
    for size in (SMALL, SMALL + 1):
        pieces = [where for where, _ in chosen_rows(chosen, size, cpu)]
        seen = np.concatenate([np.arange(40 * channels)[where] for where in pieces])
        np.testing.assert_array_equal(seen, np.flatnonzero(chosen))
        assert max(piece.stop - piece.start for piece in pieces) == (channels if size == SMALL else 1)


@pytest.mark.parametrize(("shape", "axis"), [((6, 30, 26), 0), ((30, 6, 26), 1), ((30, 26, 6), 2)])
def test_slices_as_channels_equal_volumes(shape: tuple[int, ...], axis: int) -> None:
    spacing = tuple(3.0 if a == axis else 1.0 for a in range(3))
    table = {"rotation": Change(0.7, -180, 180), "scaling": Change(0.7, 0.7, 1.4), "elastic": Change(0.7, 0.1, 0.25)}
    moves = draw_moves(table, Draws(5, keyed(1)), shape, spacing)
    assert moves.coarse == axis
    assert not reach(moves, shape, spacing)[:, axis].any()
    larger = [n + 4 for n in shape]
    images, labels = (
        torch.randn(5, 2, *larger, generator=keyed(3)),
        torch.randint(0, 9, (5, *larger), generator=keyed(4)),
    )
    x, y = warp(images, labels, moves, shape, spacing)
    volume_x, volume_y = warp(images, labels, replace(moves, coarse=None), shape, spacing)
    torch.testing.assert_close(x, volume_x, atol=1e-4, rtol=1e-4)
    assert (y == volume_y).float().mean() > 0.995
