"""Label tables: classes, regions painted over one another, and voxels without annotation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import Config
from medseg.decoders import DECODERS, decoder_of, largest, paint
from medseg.errors import ConfigError, DataError
from medseg.files import canonical_json
from medseg.image.labels import IGNORE, LabelTable
from medseg.losses.targets import annotated, multi_hot

TUMOUR = {"necrosis": 1, "edema": 2, "enhancing": 4}
NESTED = {"whole": ["necrosis", "edema", "enhancing"], "core": ["necrosis", "enhancing"], "active": ["enhancing"]}


def nested(**changes: Any) -> LabelTable:
    return LabelTable.create(TUMOUR, **{"regions": NESTED, "ignore": 255, **changes})


def test_regions_take_the_place_of_classes_in_outputs_and_scores() -> None:
    table = nested()
    assert (table.classes, table.channels) == (4, 3)
    assert table.target_names == ("whole", "core", "active")
    assert table.members == ((1, 2, 3), (1, 3), (3,))
    assert table.order == (2, 1, 4)
    assert table.painted == (2, 1, 3)
    assert list(table.colours) == ["whole", "core", "active"]
    assert len(set(table.colours.values())) == 3
    plain = LabelTable.create(TUMOUR)
    assert (plain.classes, plain.channels, plain.target_names) == (4, 4, plain.class_names)
    assert (plain.members, plain.painted) == (((1,), (2,), (3,)), ())


@pytest.mark.parametrize(
    "table",
    [
        nested(),
        nested(ignore=-1),
        LabelTable.create({"cell": 1}, instances=True, ignore=65535),
        nested(order=(2, 1, 4)),
    ],
)
def test_json_gives_the_table_back(table: LabelTable) -> None:
    assert LabelTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    # Sorted keys must not change the painting order.
    assert LabelTable.from_json(json.loads(canonical_json(table.to_json()))) == table


def test_not_annotated_is_legal_and_stays_apart() -> None:
    found = nested().to_channels(np.array([0, 1, 2, 4, 255], dtype=np.uint8))
    assert found.tolist() == [0, 1, 2, 3, IGNORE]
    assert found.dtype == np.uint8
    assert nested(ignore=-1).to_channels(np.array([0, -1, 4], dtype=np.int16)).tolist() == [0, IGNORE, 3]
    with pytest.raises(DataError, match="255"):
        nested(ignore=None).to_channels(np.array([0, 255]))
    objects = LabelTable.create({"cell": 1}, instances=True, ignore=65535)
    values = np.array([0, 1, 70, 255, 65535], dtype=np.uint16)
    assert objects.to_channels(values).tolist() == [0, 1, 1, 1, IGNORE]
    assert objects.foreground(values).tolist() == [False, True, True, True, False]


def test_class_255_is_no_confusion_with_not_annotated() -> None:
    table = LabelTable.create({"a": 255, "b": 3}, ignore=7)
    assert table.to_channels(np.array([255, 3, 7, 0])).tolist() == [2, 1, IGNORE, 0]


@pytest.mark.parametrize(
    ("names", "changes", "cause"),
    [
        (TUMOUR, {"ignore": 0}, "0 is background"),
        (TUMOUR, {"ignore": 2}, r"ignore: 2 is also the value of class 'edema'"),
        ({f"c{k}": k for k in range(1, 256)}, {}, "255 classes; at most 254"),
        (TUMOUR, {"regions": {"core": ["necrosis", "enhancin"]}}, r"regions\.core: no class \['enhancin'\]"),
        (TUMOUR, {"regions": {"all": ["background", "edema"]}}, "background is none"),
        (TUMOUR, {"regions": {"core": []}}, "one or more classes"),
        (TUMOUR, {"regions": {"core": ["edema", "edema"]}}, "each once"),
        (TUMOUR, {"regions": {"core": ["necrosis"]}}, r"classes \['edema', 'enhancing'\] are in none"),
        (TUMOUR, {"regions": {"edema": ["necrosis", "edema", "enhancing"]}}, "a class has this name"),
        (TUMOUR, {"regions": dict(reversed(NESTED.items()))}, "larger regions before the smaller"),
        (
            {"a": 1, "b": 2},
            {"regions": {"ab": ["a", "b"], "bc": ["b"], "c": ["a"]}, "order": (1, 2, 2)},
            "not among its values",
        ),
        ({"a": 1, "b": 2}, {"regions": {"ab": ["a", "b"]}, "order": (1, 2)}, "1 of them, but 2 values"),
        ({"a": 1, "b": 2}, {"regions": {"ab": ["a", "b"], "b": ["b"]}, "order": (2, 2)}, "value 1 is in"),
    ],
)
def test_contradictions_are_refused(names: dict[str, int], changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        LabelTable.create(names, **changes)


def test_object_numbers_have_no_regions() -> None:
    with pytest.raises(ConfigError, match="object numbers"):
        LabelTable.create({"cell": 1}, instances=True, regions={"cells": ["cell"]})


def test_classes_that_share_all_their_regions_become_one() -> None:
    table = LabelTable.create({"left": 1, "right": 2}, regions={"both": ["left", "right"]})
    assert table.order == (1,)
    assert table.members == ((1, 2),)


def test_a_data_set_of_regions_alone_names_its_classes() -> None:
    """nnU-Net's dataset.json: labels are regions, painted by `regions_class_order`."""
    table = LabelTable.of_regions({"whole": [1, 2, 3], "core": [2, 3], "active": [3]}, [1, 2, 3], ignore=4)
    assert table.names == (("label 1", 1), ("label 2", 2), ("active", 3))
    assert (table.order, table.ignore) == ((1, 2, 3), 4)


@st.composite
def tables(draw: st.DrawFn) -> LabelTable:
    """Regions nested in a random order of classes: each drops some of the classes of the one before."""
    count = draw(st.integers(1, 5))
    order = draw(st.permutations(range(1, count + 1)))
    cuts = sorted(draw(st.sets(st.integers(0, count - 1), max_size=count)) | {0})
    regions = {f"r{k}": [f"c{v}" for v in order[k:]] for k in cuts}
    return LabelTable.create({f"c{v}": 10 * v for v in range(1, count + 1)}, regions=regions)


@given(tables(), st.data())
def test_painting_what_was_taken_apart_gives_the_same_regions(table: LabelTable, data: st.DataObject) -> None:
    labels = torch.tensor(data.draw(st.lists(st.sampled_from([*range(table.classes), IGNORE]), min_size=1, max_size=9)))
    targets = multi_hot(labels[None], table.members)
    assert targets.shape == (1, table.channels, len(labels))
    for hot, members in zip(targets[0], table.members, strict=True):
        assert hot.tolist() == [float(v in members) for v in labels.tolist()]
    painted = decoder_of(table).labels(10 * (targets[0] - 0.5), table)
    assert painted.dtype == torch.uint8
    known = annotated(labels[None])[0, 0] > 0
    again = multi_hot(painted[None].long(), table.members)
    assert torch.equal(again[..., known], targets[..., known])
    # Classes that a region of their own tells apart come back themselves.
    if len(table.regions) == len(table.names):
        assert torch.equal(painted[known].long(), labels[known])


def test_a_region_needs_more_than_half_and_later_ones_cover_earlier_ones() -> None:
    logits = torch.tensor([[1.0, 0.0, 1e-6, -1.0], [2.0, -1.0, 3.0, 4.0]])
    ordered = LabelTable.create({"a": 1, "b": 2}, regions={"whole": ["a", "b"], "part": ["b"]})
    turned = LabelTable.create({"a": 1, "b": 2}, regions={"whole": ["a", "b"], "part": ["a"]})
    assert DECODERS["regions"].labels(logits, ordered).tolist() == [2, 0, 2, 2]
    assert DECODERS["regions"].labels(logits, turned).tolist() == [1, 0, 1, 1]
    assert DECODERS["classes"].labels(logits, LabelTable.create({"a": 1})).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("table", [LabelTable.create({"a": 1, "b": 3}), LabelTable.create(TUMOUR, regions=NESTED)])
def test_decoders_name_a_map_per_channel_and_agree_with_their_probabilities(table: LabelTable) -> None:
    decoder = decoder_of(table)
    assert len(decoder.maps(table, 2)) == table.channels == len(set(decoder.maps(table, 2)))
    logits = torch.randn(table.channels, 7, 6, generator=torch.Generator().manual_seed(0))
    soft, labels = decoder.probabilities(logits, table), decoder.labels(logits, table)
    assert labels.dtype == torch.uint8
    read = paint((p > 0.5 for p in soft), table) if table.regions else largest(soft)
    assert torch.equal(labels, read)
    # Slab by slab gives the same.
    parts = [decoder.labels(part, table) for part in logits.split(2, dim=1)]
    assert torch.equal(torch.cat(parts), labels)


def config(**dataset: Any) -> Config:
    return Config.model_validate(
        {
            "experiment": "x",
            "datasets": {"d": {"layout": "pairs", "path": "d", "labels": TUMOUR, **dataset}},
            "models": {"m": {"network": "unet"}},
            "budget": {"steps": 1},
        }
    )


def test_the_order_of_regions_is_part_of_the_configuration() -> None:
    """Digests and comparisons sort the keys of mappings; a changed painting order must be seen all the same."""
    one, other = (config(regions=r, ignore=255) for r in (NESTED, dict(reversed(NESTED.items()))))
    dumped = [c.model_dump_json() for c in (one, other)]
    assert canonical_json(json.loads(dumped[0])) != canonical_json(json.loads(dumped[1]))
    for text, made in zip(dumped, (one, other), strict=True):
        back = Config.model_validate(json.loads(text)).datasets["d"]
        assert list((back.regions or {}).items()) == list((made.datasets["d"].regions or {}).items())
        assert back.ignore == 255
