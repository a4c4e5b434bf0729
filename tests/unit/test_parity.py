"""Plans held against nnU-Net's: the published ones of four data sets, and ten that nnU-Net 2.8.1 made of random data.

Facts, not code: fingerprints went into its ``ExperimentPlanner``, and what came out was written down, axes turned into
canonical order (its first axis is the last here). Its planner agreed with ours on 320 such fingerprints, of which these
ten are a sample. The published plans are those of the Medical Segmentation Decathlon (Antonelli et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from medseg.config import load_config
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import low_spacing
from medseg.plan.plan import Plan
from medseg.plan.planner import PlanRequest, make_plan
from medseg.plan.resources import Resources
from medseg.plan.topology import feature_voxels


@dataclass(frozen=True)
class Answer:
    """nnU-Net's plan of one configuration; strides and kernels as digits per axis, a group per stage."""

    patch: tuple[int, ...]
    batch: int
    strides: str
    kernels: str
    widest: int
    feature_voxels: int
    spacing: tuple[float, ...]
    masked: bool


@dataclass(frozen=True)
class Case:
    """A fingerprint, the memory of the GPU, and nnU-Net's plans by configuration."""

    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    channels: tuple[str, ...]
    classes: int
    plans: dict[str, Answer]
    gb: float = 8.0
    kept: float = 1.0

    @property
    def fingerprint(self) -> Fingerprint:
        dims = len(self.shapes[0])
        facts: dict[str, Any] = {"unit": "mm", "oriented": dims == 3, "intensities": ({},) * len(self.channels)}
        return Fingerprint(
            dataset="d",
            dims=dims,
            channels=self.channels,
            classes=self.classes,
            subjects=len(self.shapes),
            shapes=self.shapes,
            spacings=self.spacings,
            median_relative_size=self.kept,
            **facts,
        )

    def plan(self, **model: Any) -> Plan:
        section = {"network": "unet", **model}
        config = load_config(
            [],
            {
                "experiment": "e",
                "datasets": {"d": {"layout": "pairs", "path": "p"}},
                "models": {"m": section},
                "budget": {"steps": 1},
            },
        )
        machine = Resources("cuda", "bf16", self.gb * 1e9, 1)
        return make_plan(PlanRequest.of(config, "m", self.fingerprint, machine))


def digits(stages: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("".join(map(str, stage)) for stage in stages)


def answer_of(plan: Plan) -> Answer:
    voxels = feature_voxels(plan.network.patch, plan.network.strides, plan.network.widths, plan.network.classes)
    spacing = tuple(round(s, 6) for s in plan.grid.patch_spacing)
    masked = plan.grid.normalization[0] == "zscore_nonzero"
    strides, kernels = digits(plan.network.strides), digits(plan.network.kernels)
    return Answer(
        plan.network.patch, plan.training.batch, strides, kernels, plan.network.widths[-1], voxels, spacing, masked
    )


MSD = {
    "hippocampus": Case(
        shapes=((35, 50, 36),) * 260,
        spacings=((1.0, 1.0, 1.0),) * 260,
        channels=("MRI",),
        classes=3,
        plans={
            "2d": Answer((40, 56), 366, "11 22 22 22", "33 33 33 33", 256, 651840, (1.0, 1.0), False),
            "3d_fullres": Answer(
                (40, 56, 40), 9, "111 222 222 222", "333 333 333 333", 256, 19174400, (1.0, 1.0, 1.0), False
            ),
        },
    ),
    "heart": Case(
        shapes=((232, 320, 115),) * 20,
        spacings=((1.25, 1.25, 1.37),) * 20,
        channels=("MRI",),
        classes=2,
        kept=0.6,
        plans={
            "2d": Answer(
                (256, 320), 40, "11 22 22 22 22 22 22", "33 33 33 33 33 33 33", 512, 25784320, (1.25, 1.25), True
            ),
            "3d_fullres": Answer(
                (160, 192, 80),
                2,
                "111 222 222 222 222 221",
                "333 333 333 333 333 333",
                320,
                528211200,
                (1.25, 1.25, 1.37),
                True,
            ),
        },
    ),
    "prostate": Case(
        shapes=((319, 320, 20),) * 32,
        spacings=((0.625, 0.625, 3.6),) * 32,
        channels=("T2", "ADC"),
        classes=3,
        plans={
            "2d": Answer(
                (320, 320), 32, "11 22 22 22 22 22 22", "33 33 33 33 33 33 33", 512, 32332800, (0.625, 0.625), False
            ),
            "3d_fullres": Answer(
                (256, 320, 20),
                2,
                "111 221 221 222 222 221 221",
                "331 331 333 333 333 333 333",
                320,
                483315200,
                (0.625, 0.625, 3.6),
                False,
            ),
        },
    ),
    # Most cases have slices of 5 mm, the thinnest ones 1.6 mm, which its planner takes.
    "spleen": Case(
        shapes=((512, 512, 187),) * 10 + ((512, 512, 60),) * 31,
        spacings=((0.792969, 0.792969, 1.60001),) * 10 + ((0.792969, 0.792969, 5.0),) * 31,
        channels=("CT",),
        classes=2,
        plans={
            "2d": Answer(
                (512, 512),
                12,
                "11 22 22 22 22 22 22 22",
                "33 33 33 33 33 33 33 33",
                512,
                82624512,
                (0.792969, 0.792969),
                False,
            ),
            "3d_fullres": Answer(
                (160, 192, 64),
                2,
                "111 221 222 222 222 222",
                "331 333 333 333 333 333",
                320,
                526556160,
                (0.792969, 0.792969, 1.60001),
                False,
            ),
            "3d_lowres": Answer(
                (192, 192, 64),
                2,
                "111 222 222 222 222 221",
                "333 333 333 333 333 333",
                320,
                507082752,
                (1.390476, 1.390476, 2.72391),
                False,
            ),
        },
    ),
}

RANDOM = [
    Case(
        shapes=((318, 497, 197), (447, 348, 309), (428, 378, 302)),
        spacings=((0.988478, 1.115928, 6.928807), (1.968029, 1.198611, 7.688498), (2.335614, 1.456573, 5.90913)),
        channels=(
            "MRI",
            "MRI",
            "MRI",
        ),
        classes=12,
        gb=8.0,
        kept=0.927,
        plans={
            "2d": Answer(
                (448, 512),
                14,
                "11 22 22 22 22 22 22",
                "33 33 33 33 33 33 33",
                512,
                74489856,
                (1.968029, 1.198611),
                False,
            ),
            "3d_lowres": Answer(
                (160, 96, 160),
                2,
                "111 222 222 222 222 212",
                "333 333 333 333 333 333",
                320,
                552787200,
                (3.661114, 3.578126, 7.136671),
                False,
            ),
            "3d_fullres": Answer(
                (128, 160, 88),
                2,
                "111 221 221 222 222 222",
                "331 331 333 333 333 333",
                320,
                547233280,
                (1.968029, 1.198611, 6.928807),
                False,
            ),
        },
    ),
    Case(
        shapes=((135, 522, 324), (156, 318, 242), (114, 534, 291), (128, 515, 261), (120, 476, 254), (124, 398, 236)),
        spacings=(
            (0.992286, 2.108552, 8.125077),
            (0.701099, 1.713662, 14.552384),
            (1.184714, 1.195157, 15.004144),
            (0.844743, 1.042795, 9.553578),
            (1.523786, 0.901373, 5.012816),
            (0.943397, 1.484402, 17.41366),
        ),
        channels=("MRI",),
        classes=2,
        gb=8.0,
        kept=0.628,
        plans={
            "2d": Answer(
                (160, 448), 45, "11 22 22 22 22 22 12", "33 33 33 33 33 33 33", 512, 22579200, (0.967842, 1.33978), True
            ),
            "3d_lowres": Answer(
                (96, 256, 72),
                2,
                "111 221 221 221 222 122 122",
                "331 331 331 333 333 333 333",
                320,
                541430784,
                (1.379911, 1.910205, 12.052981),
                True,
            ),
            "3d_fullres": Answer(
                (96, 320, 56),
                2,
                "111 221 221 221 222 122 122",
                "331 331 331 333 333 333 333",
                320,
                526391040,
                (0.967842, 1.33978, 12.052981),
                True,
            ),
        },
    ),
    Case(
        shapes=((325, 325, 246), (325, 325, 246), (325, 325, 246)),
        spacings=((0.709865, 0.709865, 0.994979), (0.709865, 0.709865, 0.994979), (0.709865, 0.709865, 0.994979)),
        channels=(
            "MRI",
            "MRI",
            "MRI",
        ),
        classes=5,
        gb=8.0,
        kept=0.906,
        plans={
            "2d": Answer(
                (384, 384),
                22,
                "11 22 22 22 22 22 22",
                "33 33 33 33 33 33 33",
                512,
                46854144,
                (0.709865, 0.709865),
                False,
            ),
            "3d_lowres": Answer(
                (128, 160, 112),
                2,
                "111 222 222 222 222 221",
                "333 333 333 333 333 333",
                320,
                499878400,
                (1.012098, 1.012098, 1.418602),
                False,
            ),
            "3d_fullres": Answer(
                (128, 160, 112),
                2,
                "111 222 222 222 222 221",
                "333 333 333 333 333 333",
                320,
                499878400,
                (0.709865, 0.709865, 0.994979),
                False,
            ),
        },
    ),
    Case(
        shapes=((241, 402, 45), (241, 402, 45), (241, 402, 45), (241, 402, 45), (241, 402, 45)),
        spacings=(
            (1.344352, 1.478788, 5.423161),
            (1.344352, 1.478788, 5.423161),
            (1.344352, 1.478788, 5.423161),
            (1.344352, 1.478788, 5.423161),
            (1.344352, 1.478788, 5.423161),
        ),
        channels=(
            "MRI",
            "MRI",
            "MRI",
        ),
        classes=4,
        gb=8.0,
        kept=0.812,
        plans={
            "2d": Answer(
                (256, 448),
                10,
                "11 22 22 22 22 22 22",
                "33 33 33 33 33 33 33",
                512,
                36327424,
                (1.344352, 1.478788),
                False,
            ),
            "3d_fullres": Answer(
                (160, 320, 32),
                2,
                "111 221 221 222 222 222",
                "331 331 333 333 333 333",
                320,
                484377600,
                (1.344352, 1.478788, 5.423161),
                False,
            ),
        },
    ),
    Case(
        shapes=((280, 194, 88), (259, 179, 119), (429, 136, 127), (228, 186, 137), (256, 230, 95)),
        spacings=(
            (0.378218, 0.383903, 1.465319),
            (0.746186, 0.604356, 1.830393),
            (0.499517, 0.292369, 1.837599),
            (0.494183, 0.436888, 2.160617),
            (0.427416, 0.403819, 1.565389),
        ),
        channels=(
            "MRI",
            "MRI",
            "MRI",
        ),
        classes=6,
        gb=8.0,
        kept=0.838,
        plans={
            "2d": Answer(
                (256, 224), 24, "11 22 22 22 22 22", "33 33 33 33 33 33", 512, 18178048, (0.494183, 0.403819), False
            ),
            "3d_fullres": Answer(
                (160, 128, 88),
                2,
                "111 221 221 222 222 222",
                "331 331 333 333 333 333",
                320,
                536419840,
                (0.494183, 0.403819, 1.830393),
                False,
            ),
        },
    ),
    Case(
        shapes=((312, 160, 208), (312, 160, 208), (312, 160, 208), (312, 160, 208), (312, 160, 208)),
        spacings=(
            (1.909063, 1.909063, 3.938217),
            (1.909063, 1.909063, 3.938217),
            (1.909063, 1.909063, 3.938217),
            (1.909063, 1.909063, 3.938217),
            (1.909063, 1.909063, 3.938217),
        ),
        channels=("MRI",),
        classes=12,
        gb=24.0,
        kept=0.491,
        plans={
            "2d": Answer(
                (320, 160), 51, "11 22 22 22 22 22", "33 33 33 33 33 33", 512, 16537600, (1.909063, 1.909063), True
            ),
            "3d_fullres": Answer(
                (256, 128, 160),
                2,
                "111 221 222 222 222 222 212",
                "331 333 333 333 333 333 333",
                320,
                1456936960,
                (1.909063, 1.909063, 3.938217),
                True,
            ),
        },
    ),
    Case(
        shapes=((150, 27, 85), (118, 32, 66), (130, 29, 79), (146, 25, 52), (112, 26, 57)),
        spacings=(
            (0.351391, 0.29843, 0.62754),
            (0.288895, 0.3867, 0.756932),
            (0.408228, 0.346957, 0.610721),
            (0.279907, 0.347648, 0.520934),
            (0.345924, 0.462869, 0.547292),
        ),
        channels=("CT",),
        classes=5,
        gb=4.0,
        kept=0.652,
        plans={
            "2d": Answer((128, 32), 17, "11 22 22 22 21", "33 33 33 33 33", 512, 1282048, (0.345924, 0.347648), False),
            "3d_fullres": Answer(
                (128, 32, 80),
                2,
                "111 222 222 222 212",
                "333 333 333 333 333",
                320,
                71372800,
                (0.345924, 0.347648, 0.610721),
                False,
            ),
        },
    ),
    Case(
        shapes=((1842, 806), (1570, 955), (1605, 858)),
        spacings=((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
        channels=("MRI",),
        classes=9,
        gb=24.0,
        kept=0.617,
        plans={
            "2d": Answer(
                (1792, 896),
                2,
                "11 22 22 22 22 22 22 22 21",
                "33 33 33 33 33 33 33 33 33",
                512,
                517515264,
                (1.0, 1.0),
                True,
            ),
        },
    ),
    Case(
        shapes=((1931, 423), (1629, 373), (1533, 337), (2163, 439), (2040, 347)),
        spacings=(
            (0.143084, 0.143084),
            (0.143084, 0.143084),
            (0.143084, 0.143084),
            (0.143084, 0.143084),
            (0.143084, 0.143084),
        ),
        channels=(
            "MRI",
            "MRI",
            "MRI",
        ),
        classes=9,
        gb=8.0,
        kept=0.994,
        plans={
            "2d": Answer(
                (2048, 384),
                2,
                "11 22 22 22 22 22 22 21 21",
                "33 33 33 33 33 33 33 33 33",
                512,
                253624320,
                (0.143084, 0.143084),
                False,
            ),
        },
    ),
]
CASES = {**MSD, **{f"random{i}": case for i, case in enumerate(RANDOM)}}
MODELS = {"2d": {"dims": 2}, "3d_fullres": {"dims": 3}, "3d_lowres": {"plan": {"resolution": "low"}}}
PLANS = [(name, kind) for name, case in CASES.items() for kind in case.plans if kind != "3d_lowres" or name in MSD]


@pytest.mark.parametrize(("name", "kind"), PLANS, ids=["-".join(p) for p in PLANS])
def test_plan_is_nnunets(name: str, kind: str) -> None:
    case = CASES[name]
    plan = case.plan(**MODELS[kind])
    assert answer_of(plan) == case.plans[kind]
    cap = 512 if plan.network.dims == 2 else 320
    assert plan.network.widths == tuple(min(32 * 2**i, cap) for i in range(len(plan.network.widths)))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if len(c.shapes[0]) == 3 and c.gb == 8])
def test_a_low_resolution_model_exists_where_nnunet_makes_one(name: str) -> None:
    case = CASES[name]
    found = low_spacing(case.fingerprint)
    expected = case.plans.get("3d_lowres")
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert tuple(round(s, 6) for s in found) == pytest.approx(expected.spacing, abs=2e-6)
