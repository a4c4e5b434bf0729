"""Laws that cross modules: what must not change when only the way to it does."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.config import PostprocessConfig
from medseg.evaluate.score import score_case
from medseg.formats.read import read_image
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.resample import reorient
from medseg.losses.build import build_loss
from medseg.losses.table import LOSSES
from medseg.metrics.table import METRICS
from medseg.patches.tiling import predict_tiled
from medseg.plan.plan import Grid
from medseg.postprocess.operations import LABELS, apply
from medseg.predict.predictor import Predictor
from medseg.preprocess.prepare import prepare_image, prepare_labels, restore_labels
from medseg.results.key import RunKey
from medseg.train.checkpoint import network_tensors, pack_tensors
from medseg.train.loop import train
from medseg.train.state import FoldCases

few = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
orders = st.permutations(range(3)).flatmap(lambda a: st.tuples(st.just(tuple(a)), st.tuples(*[st.booleans()] * 3)))
Predict = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def predict(study: Any) -> Predict:
    """Image, geometry -> labels, with the study's trained network; and the volume it was given."""
    predictor = Predictor(study.model("solid"))
    return lambda image, geometry: predictor.label_map(Source.from_array(image, geometry), "case")


@pytest.fixture(scope="module")
def volume(study: Any) -> tuple[np.ndarray, Geometry]:
    return read_image(study.folder("solid") / "imagesTr" / "s0.nii.gz")


# Prediction


@few
@given(order=orders)
def test_how_a_volume_is_stored_does_not_change_what_is_seen(order: Any, predict: Any, volume: Any) -> None:
    """Any axis order, any flips, with the affine that goes with them: the same voxels of the patient get the label."""
    image, geometry = volume
    expected = predict(image, geometry)
    assert len(np.unique(expected)) > 1
    turned = predict(np.ascontiguousarray(reorient(image, *order)), geometry.reoriented(*order))
    np.testing.assert_array_equal(turned, reorient(expected, *order))


def test_where_the_patient_lies_does_not_matter(predict: Any, volume: Any) -> None:
    image, geometry = volume
    moved = geometry.affine
    moved[:3, 3] += (500.0, -300.0, 77.0)
    np.testing.assert_array_equal(predict(image, Geometry.create(geometry.shape, moved)), predict(image, geometry))


def test_the_scale_of_the_scanner_does_not_matter_after_zscore(predict: Any, volume: Any) -> None:
    image, geometry = volume
    same = predict(image.astype(np.float64) * 37.5 + 0.0, geometry) == predict(image, geometry)
    assert same.mean() > 0.999


def test_a_margin_of_zeros_changes_nothing(predict: Any, volume: Any) -> None:
    image, geometry = volume
    before, after = (3, 1, 2), (0, 4, 1)
    wide = np.pad(image, ((0, 0), *zip(before, after, strict=True)))
    shape = wide.shape[1:]
    around = geometry.cropped([-b for b in before], shape)
    inner = tuple(slice(b, b + n) for b, n in zip(before, geometry.shape, strict=True))
    found = predict(wide, around)
    np.testing.assert_array_equal(found[inner], predict(image, geometry))
    assert np.count_nonzero(found) == np.count_nonzero(found[inner])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_how_many_tiles_go_together_does_not_matter(batch: int, study: Any) -> None:
    predictor = Predictor(study.model("flat"))
    image = torch.randn(1, 50, 70, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one = predict_tiled(predictor.members[0], image, predictor.plan.network.patch, batch=1)
        many = predict_tiled(predictor.members[0], image, predictor.plan.network.patch, batch=batch)
    torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


@few
@given(order=orders, shape=st.tuples(*[st.integers(3, 9)] * 3), data=st.data())
def test_labels_survive_any_native_grid_at_its_own_spacing(
    order: Any, shape: Any, data: st.DataObject, oblique: Any
) -> None:
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4)))
    geometry = Geometry.create(shape, oblique).reoriented(*order)
    stored = np.ascontiguousarray(reorient(labels, *order))
    spacing = Geometry.create(shape, oblique).spacing
    canonical = tuple(spacing[a] for a in _canonical(Geometry.create(shape, oblique))[0])
    image = np.where(stored > 0, 5, 0).astype(np.int16)[None]
    _, record = prepare_image(image, geometry, Grid("mm", True, canonical, ("none",), ({},)))
    # The crop keeps every voxel of the image that is not zero, hence every label.
    np.testing.assert_array_equal(restore_labels(prepare_labels(stored, record), record), stored)


def _canonical(geometry: Geometry) -> Any:
    from medseg.image.geometry import canonical_axes

    return canonical_axes(geometry)


# Training


@pytest.mark.parametrize("network", ["unet", "deeplabv3plus"])
def test_no_draw_comes_from_a_global_generator(network: str, tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    cases, plan, seen = tiny_cases(2), tiny_plan(network, steps=3), set()
    for number in range(3):
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        torch.manual_seed(number)
        trained = train(
            plan, FoldCases(cases, cases[:1], LabelTable.create({"ball": 1, "rod": 3})), 0, tmp_path / str(number), "x"
        )
        seen.add(hashlib.sha256(pack_tensors(network_tensors(trained))).hexdigest())
    assert len(seen) == 1


@pytest.mark.parametrize("name", LOSSES)
@given(axes=st.sets(st.integers(2, 4), min_size=1), classes=st.permutations([1, 2]))
@few
def test_losses_do_not_know_left_from_right_nor_the_order_of_classes(
    name: str, axes: set[int], classes: list[int]
) -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, 7, generator=source)
    labels = torch.randint(0, 3, (2, 5, 6, 7), generator=source)
    loss = build_loss(name)
    expected = float(loss(logits, labels))
    mirrored = loss(logits.flip(sorted(axes)), labels.flip([a - 1 for a in sorted(axes)]))
    assert float(mirrored) == pytest.approx(expected, rel=1e-5)
    order = torch.tensor([0, *classes])
    assert float(loss(logits[:, order], order.argsort()[labels])) == pytest.approx(expected, rel=1e-5)


# After prediction

maps = hnp.arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 0, 3]))
steps = st.builds(
    PostprocessConfig,
    fill_holes=st.booleans(),
    largest_component=st.sampled_from([[], ["rod"]]),
    min_size=st.integers(0, 5),
)


@given(maps, steps)
def test_postprocessing_twice_is_postprocessing_once(labels: np.ndarray, wanted: PostprocessConfig) -> None:
    table = LabelTable.create({"rod": 3})
    once = apply({LABELS: lambda: labels}, wanted, table)
    np.testing.assert_array_equal(apply({LABELS: lambda: once}, wanted, table), once)
    assert set(np.unique(once)) <= {0, 3}
    assert once.dtype == labels.dtype


pairs = st.tuples(*[hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 2))] * 2)


@given(pairs, st.integers(0, 1), st.booleans())
def test_scores_do_not_depend_on_orientation_and_lengths_and_volumes_scale(pair: Any, axis: int, swap: bool) -> None:
    table, key = LabelTable.create({"ball": 1, "rod": 3}), RunKey("d", "m", 0, 0)

    def values(a: np.ndarray, b: np.ndarray, side: float = 1.0) -> dict[Any, float]:
        grid = Geometry.from_spacing(a.shape, (side, side))
        return {(r["label"], r["metric"]): r["value"] for r in score_case(key, "c", "s", a, b, table, grid)}

    plain = values(*pair)
    turned = values(*[np.flip(m.T if swap else m, axis) for m in pair])
    assert turned == pytest.approx(plain, nan_ok=True)
    larger = values(*pair, 2.5)
    for (label, metric), value in plain.items():
        length = metric in METRICS and METRICS[metric].unit == "length"
        factor = 2.5**2 if metric.startswith("volume") else 2.5 if length else 1.0
        assert larger[label, metric] == pytest.approx(value * factor, nan_ok=True)
    back = values(*pair[::-1])
    for label in ("ball", "rod"):
        # The reference alone decides whether there is a score; where both have one, it is the same.
        both = np.isfinite([back[label, "dice"], plain[label, "dice"]]).all()
        assert not both or back[label, "dice"] == pytest.approx(plain[label, "dice"])
        assert np.isfinite(plain[label, "dice"]) == (plain[label, "volume_ref"] > 0)
        assert back[label, "volume_ref"] == plain[label, "volume_pred"]
