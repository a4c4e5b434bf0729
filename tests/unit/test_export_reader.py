"""The reader that exports carry does what predictions do, whatever the plan: by the network itself, without ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.export import reader
from medseg.export.chain import FORMULAS, chain_of
from medseg.export.handover import Handover
from medseg.export.portable import portable
from medseg.formats.source import Source
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.intensity import NORMALIZATIONS
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.predict.predictor import Predictor
from medseg.predict.sinks import LabelMap
from medseg.train.checkpoint import Checkpoint, write_checkpoint

CT = {"mean": 90.0, "std": 40.0, "p00_5": 20.0, "p99_5": 180.0}
REGIONS = LabelTable.create({"ball": 1, "rod": 3}, regions={"both": ["ball", "rod"], "rod": ["rod"]})
CLASSES = LabelTable.create({"ball": 1, "rod": 3})
# Changes of the tiny plan, table of labels, spacing of the image.
SETTINGS: dict[str, tuple[int, dict[str, Any], LabelTable, tuple[float, ...]]] = {
    "equal voxels": (3, {}, CLASSES, (1.0, 1.0, 1.0)),
    "other voxels": (3, {"spacing": (1.0, 1.0, 1.2)}, CLASSES, (0.7, 1.3, 1.1)),
    "far slices": (3, {"spacing": (1.0, 1.0, 4.0)}, CLASSES, (0.8, 0.9, 5.0)),
    "regions": (3, {"regions": ((1, 2), (2,))}, REGIONS, (1.1, 1.0, 1.0)),
    "mirrored": (3, {"oriented": False}, CLASSES, (1.0, 1.2, 1.0)),
    "slices": (
        3,
        {
            "dims": 2,
            "spacing": (1.0, 0.0, 1.0),
            "patch": (16, 16),
            "strides": ((1, 1), (2, 2), (2, 2)),
            "kernels": ((3, 3),) * 3,
        },
        CLASSES,
        (1.2, 3.0, 1.0),
    ),
    "pictures": (2, {}, CLASSES, (1.0, 1.0)),
}


def model_of(folder: Path, dims: int, changes: dict[str, Any], table: LabelTable, tiny_plan: Any) -> Handover:
    plan = tiny_plan("unet", dims).changed(**changes)
    torch.manual_seed(1)
    made = Checkpoint("d", ("MRI",), table, plan, 0, 0, "f", {})
    write_checkpoint(folder, made, build_model("unet", plan.network))
    return Handover(folder, made, "name", {"model": {"weights_sha256": "0"}})


def image_of(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(5))
    image = rng.integers(0, 200, shape).astype(np.int16)
    image[:2] = 0  # a part that is cropped
    image[(slice(5, 9),) * len(shape)] = 0  # a hole
    return image[None]


def require_equal(model: Handover, image: np.ndarray, geometry: Geometry) -> np.ndarray:
    chain = json.loads(json.dumps(chain_of(model, "none")))
    predictor = Predictor(model.folder)
    kept = LabelMap()
    predictor.predict(Source.from_array(image, geometry), "case", [kept])

    def network(window: np.ndarray) -> np.ndarray:
        assert list(window.shape) == chain["network"]["shape"]
        with torch.inference_mode():
            return model.network(torch.from_numpy(window)).numpy()

    found = reader.predict(image, geometry.affine, chain, network)
    assert found.shape == kept.values.shape
    assert found.dtype == kept.values.dtype
    wrong = int((found != kept.values).sum())
    assert wrong <= 1e-4 * found.size, f"{wrong} of {found.size} voxels"
    assert len(np.unique(found)) > 1
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_the_reader_gives_the_labels_of_a_prediction(name: str, tiny_plan: Any, tmp_path: Path, oblique: Any) -> None:
    dims, changes, table, spacing = SETTINGS[name]
    model = model_of(tmp_path, dims, changes, table, tiny_plan)
    shape = (36, 20, 22)[:dims]
    affine = np.diag([*spacing, 1.0])
    if dims == 3:
        # Axes in another order, two of them against the world's.
        affine[:3, :3] = affine[:3, :3][[2, 0, 1]] * np.array([[1], [-1], [-1]])
    require_equal(model, image_of(shape), Geometry.create(shape, affine, model.checkpoint.plan.grid.unit))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_reader_normalises_as_we_do(name: str) -> None:
    stats = {key: CT[key] for key in FORMULAS[name][1]}
    for image in (image_of((12, 14, 10))[0], np.full((4, 5), 7, np.uint8), np.linspace(0, 1, 30).reshape(5, 6)):
        expected = NORMALIZATIONS[name](image, stats)
        found = reader.normalise(image, {"name": name, **stats})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_reader_turns_volumes_as_we_do(oblique: np.ndarray) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    affines = [oblique, *(rng.standard_normal((4, 4)) for _ in range(200))]
    for affine in affines:
        affine[3] = 0, 0, 0, 1
        assert reader.turn(affine) == canonical_axes(Geometry.create((2, 2, 2), affine))


def test_the_reader_refuses_what_it_does_not_know(tmp_path: Path, tiny_plan: Any) -> None:
    (tmp_path / "chain.json").write_text('{"format": "medseg-chain-9"}')
    with pytest.raises(ValueError, match="this reader knows 'medseg-chain-1'"):
        reader.read_chain(tmp_path / "chain.json")
    chain = chain_of(model_of(tmp_path, 3, {}, CLASSES, tiny_plan), "none")
    with pytest.raises(ValueError, match=r"expected \(channels, axes\) = \(1, 3\)"):
        reader.predict(np.zeros((1, 4, 4)), np.eye(3), chain, lambda x: x)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from /data/cohort/patients/x.safetensors, 3", "from x.safetensors, 3"),
        ("~/models/unet/fold0", "fold0"),
        ("C:\\data\\cohort\\a.nii", "a.nii"),
        ("https://example.org/a/b.pth", "https://example.org/a/b.pth"),
        ("x / y and 3/4 or a/b/c", "x / y and 3/4 or a/b/c"),
    ],
)
def test_places_on_this_machine_stay_here(text: str, expected: str) -> None:
    facts = {"weights_sha256": "ab" * 32, "allowed": [text], "plan": {"reasons": {"r": text}}}
    made = portable(facts)
    assert made["allowed"] == [expected]
    assert made["plan"]["reasons"]["r"] == expected
