"""Pictures and curves of objects: colours say what was matched, contours run between objects, intervals have laws."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg.compare.interval import mean_interval
from medseg.compare.objects import agreement, pooled_interval
from medseg.config import load_config
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.objects import of_numbers
from medseg.ingest.manifest import Manifest
from medseg.metrics.object_errors import object_rows
from medseg.report.figures import Look, in_themes
from medseg.report.object_charts import Agreement, Curve, Sizes, agreement_chart, ap_chart, size_chart
from medseg.report.object_contours import (
    COLOUR_OF,
    FOUND,
    INVENTED,
    MATCHED,
    MERGES,
    MISSED,
    SPLIT,
    coloured_rings,
    marks,
    match,
    object_contours,
)
from medseg.report.overlays import draw
from medseg.report.pictures import BINS_PER_DECADE, size_bins
from medseg.report.planes import planes_2d
from medseg.report.statements import statements

SIDE = 40


def test_the_statements_say_how_objects_are_read_off_and_what_was_tuned() -> None:
    """Of each head once, with its models; a model of classes has nothing tuned, a data set without objects no line."""
    models = {name: {"network": "unet"} for name in ("one", "two", "plain")}
    data = {"cells": {"path": "c", "labels": {"cell": 1}, "instances": True}}
    config = load_config([], {"datasets": data, "models": models, "budget": {"steps": 1}})
    labels = LabelTable.create({"cell": 1}, instances=True)
    manifest = Manifest("cells", 2, ("grey",), labels, (), (), ())

    def facts(model: str, head: str, decoding: bool = True) -> dict[str, Any]:
        return {
            "plan": {"model": model, "network": {"head": head}},
            **({"decoding": {"seed": 0.5}} if decoding else {}),
        }

    trained = [facts("one", "boundary"), facts("one", "boundary"), facts("two", "flows"), facts("gone", "distance")]
    found = dict(statements(config, manifest, 0, "", (), [*trained, facts("plain", "classes", decoding=False)]))
    text = found["Objects"]
    assert text.startswith("one: by the head boundary, foreground and boundary; watershed from seeds")
    assert "(Caicedo et al. 2019" in text and ". two: by the head flows, " in text
    assert "plain: by the head classes, the foreground alone; what is connected is an object. Thresholds" in text
    assert "Thresholds and smallest sizes of one, two were tuned after training, on some of each network's own" in text
    assert "gone" not in text
    assert "Objects" not in dict(statements(config, manifest, 0, "", (), [facts("one", "", decoding=False)]))


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction: one found, one missed, one invented, two merged, one split."""
    reference, prediction = np.zeros((SIDE, SIDE), int), np.zeros((SIDE, SIDE), int)
    reference[2:10, 2:10], prediction[2:10, 2:9] = 1, 1
    reference[2:10, 20:28] = 2
    prediction[2:10, 31:38] = 2
    reference[14:22, 2:10], reference[14:22, 10:18], prediction[14:22, 2:18] = 3, 4, 3
    reference[26:34, 2:12], prediction[26:34, 2:7], prediction[26:34, 7:12] = 5, 4, 5
    return reference, prediction


def test_contours_have_the_colours_of_their_matches_and_errors_are_marked() -> None:
    reference, prediction = scene()
    matches = match(of_numbers(reference), of_numbers(prediction))
    rings = coloured_rings(of_numbers(reference).numbers, of_numbers(prediction).numbers, matches)
    corners = {what: sorted(tuple(ring.min(axis=0)) for ring in found) for what, found in rings.items()}
    # Half of an object, as one of the two merged ones and one of the two pieces are, is an IoU of 0.5: a match.
    assert len(rings[FOUND]) == len(rings[MATCHED]) == 3
    assert (19.5, 1.5) in corners[MISSED]
    assert (30.5, 1.5) in corners[INVENTED]
    assert len(rings[MISSED]) + len(rings[FOUND]) == 5
    assert len(rings[INVENTED]) + len(rings[MATCHED]) == 5
    shown = marks(of_numbers(reference).numbers, of_numbers(prediction).numbers, matches)
    assert shown == [(MERGES, 9.5, 17.5), (SPLIT, 6.5, 29.5)]


def test_pixels_of_a_picture_show_what_was_found_missed_and_invented() -> None:
    reference, prediction = (of_numbers(numbers) for numbers in scene())
    matches, grid = match(reference, prediction), Geometry.from_spacing((SIDE, SIDE), (1.0, 1.0), "px")
    planes = planes_2d(np.zeros((1, SIDE, SIDE), np.uint8), [reference.numbers, prediction.numbers], grid)
    width = 600
    data = draw(planes, width, object_contours(planes, 1, matches, width))
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    scale = width / SIDE

    def along(column: float, row: float) -> set[str]:
        """The colours that are met across a vertical edge at this column (edge of pixels) and row."""
        x, y = round(column * scale), round((row + 0.5) * scale)
        pixels = picture[y, max(0, x - 3) : x + 4]
        wanted = {what: [int(colour[k : k + 2], 16) for k in (1, 3, 5)] for what, colour in COLOUR_OF.items()}
        return {what for what, colour in wanted.items() if (np.abs(pixels - colour).max(axis=1) < 40).any()}

    assert along(9, 5) == {MATCHED}
    assert along(10, 5) == {FOUND}
    assert along(20, 5) == {MISSED}
    assert along(31, 5) == {INVENTED}
    # Two cells that touch have a line between them, in the reference and in the prediction.
    assert along(10, 17) & {FOUND, MISSED}
    assert along(7, 27) & {MATCHED, INVENTED}
    assert along(14, 37) == set()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_matches_are_those_that_are_scored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = (of_numbers(rng.integers(0, 6, (9, 9))) for _ in range(2))
    matches = match(reference, prediction)
    rows = object_rows(reference.numbers, prediction.numbers)
    found = {row.reference for row in rows if row.status == "tp"}
    assert set(np.flatnonzero(matches.found).tolist()) == found
    assert set(np.flatnonzero(matches.right).tolist()) == {row.prediction for row in rows if row.status == "tp"}
    assert matches.split == {row.reference for row in rows if row.reference and row.split}
    wrong = matches.errors(reference.numbers, prediction.numbers)
    assert not wrong[(reference.numbers == 0) & (prediction.numbers == 0)].any()
    missed = ~np.isin(reference.numbers, [0, *found])
    assert wrong[missed].all()


def test_an_object_of_another_class_is_no_match() -> None:
    numbers = np.zeros((8, 8), int)
    numbers[1:4, 1:4], numbers[5:8, 5:8] = 1, 2
    channels = np.array([0, 1, 2], np.uint8)
    reference = of_numbers(numbers, channels[numbers])
    assert match(reference, reference).found.tolist() == [False, True, True]
    other = of_numbers(numbers, channels[[0, 1, 1]][numbers])
    assert match(reference, other).found.tolist() == [False, True, False]
    assert match(reference, other).right.tolist() == [False, True, False]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=20), st.floats(1, 9))
def test_an_interval_of_summed_matches_is_that_of_a_mean_where_all_totals_are_equal(
    found: list[int], factor: float
) -> None:
    shares = np.array(found) / 20
    pooled = pooled_interval(shares * factor, np.full(len(found), factor))
    plain = mean_interval(shares[:, None])
    assert pooled.reason == plain.reason
    for name in ("mean", "low", "high"):
        assert getattr(pooled, name) == pytest.approx(getattr(plain, name), abs=1e-9, nan_ok=True)


def test_pooled_intervals_weigh_subjects_by_their_objects() -> None:
    found, total = np.array([7, 14, 8, 6, 9, 18, 7, 6]), np.array([10, 22, 10, 8, 11, 25, 9, 9])
    whole = pooled_interval(found, total)
    assert whole.mean == found.sum() / total.sum()
    assert 0 < whole.low < whole.mean < whole.high < 1
    # The order of subjects changes the draws, and not much else.
    assert pooled_interval(found[::-1], total[::-1]).low == pytest.approx(whole.low, abs=0.01)
    assert pooled_interval(found, found).low == pooled_interval(found, found).high == 1.0
    assert np.isnan(pooled_interval(found[:5], total[:5]).low)
    assert "no objects" in pooled_interval([0, 0], [0, 0]).reason


def test_limits_of_agreement_are_those_of_the_differences() -> None:
    bias, low, high = agreement([10, 20, 30, 40], [12, 19, 33, 40])
    differences = np.array([2, -1, 3, 0])
    assert bias == 1.0
    assert (low, high) == pytest.approx((1 - 1.96 * differences.std(ddof=1), 1 + 1.96 * differences.std(ddof=1)))
    assert np.isnan(agreement([1], [2])[1])
    assert np.isnan(agreement([], [])[0])


def test_sizes_fall_into_bins_of_equal_width_on_a_logarithmic_axis() -> None:
    sizes = np.array([1.0, 10.0, 1000.0, 0.001])
    assert size_bins(sizes).tolist() == [0, BINS_PER_DECADE, 3 * BINS_PER_DECADE, -3 * BINS_PER_DECADE]
    many = np.exp(np.random.default_rng(0).uniform(-5, 9, 500))
    places = size_bins(many)
    assert (10 ** (places / BINS_PER_DECADE) <= many * (1 + 1e-8)).all()
    assert (many * (1 - 1e-8) < 10 ** ((places + 1) / BINS_PER_DECADE)).all()


LOOK = Look("#0072B2", "o", "○", filled=False)


def test_charts_are_drawn_without_values_too() -> None:
    nothing, nan = np.zeros(0), float("nan")
    charts = (
        lambda theme: ap_chart([Curve("a$_{", LOOK, [0.5, 0.9], [nan, nan], [nan, nan], [nan, nan])], theme),
        lambda theme: agreement_chart(Agreement(LOOK, nothing, nothing, nan, nan, nan), (-1.0, 1.0), theme),
        lambda theme: size_chart([Sizes("", None, {}), Sizes("b", LOOK, {})], BINS_PER_DECADE, "area (px²)", theme),
    )
    for chart in charts:
        assert in_themes(chart)["light"].startswith(b"\x89PNG")
