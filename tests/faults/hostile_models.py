"""Descriptions of models that somebody changed, digest and all: one place of ``model.json``, another value.

Run as a program, it reads each of many variants of a model folder, predicts with those that are accepted, and prints a
line of JSON per variant; its memory is limited.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.records import DIGEST, signed

# Memory beside what is taken before the first variant, and seconds until a variant counts as hanging.
SPARE_BYTES, HANGING_S = 1 << 30, 60
Variant = tuple[str, Any]

# Place in model.json -> values that it cannot have.
HOSTILE: dict[str, list[Any]] = {
    "plan.network.patch": [
        [100_000, 32], [-1, 32], ["abc", 32], "abc", [32], [32, 32, 32], [], [0, 0], 10**9, None, [32.5, 32],
        [True, 32], [16_385, 32], [2, 2],
    ],
    "plan.network.widths": [[10**6] * 3, [8, 16], [], [0, 16, 16], [8, 16, "16"], [8] * 20, [8, 16, 10**30], "wide"],
    "plan.network.strides": [
        3, [[1, 1], [2, 2]], [[1, 1], [2, 2], [0, 2]], [[1, 1], [2, 2], [2, 2, 2]], [[1, 1], [30, 30], [30, 30]],
        [[1, 1], [2, 2], [10**9, 2]],
    ],
    "plan.network.kernels": [[[3, 3], [3, 3], [2, 2]], [[3, 3], [3, 3], [99, 99]], [[3, 3]], {}],
    "plan.network.dims": [5, "2", 3, 2.0, -2],
    "plan.network.in_channels": [0, 10**9, 2, "1"],
    "plan.network.classes": [0, 1, 10**9, 256, 4, None],
    "plan.network.regions": [[[9]], [[1], [2]], [[]], "all"],
    "plan.network.name": ["nonet", 5, "../unet", ""],
    "plan.network.options": [{"deep_supervision": "yes"}, {"widht": 3}, [], {"upsampling": "magic"}],
    "plan.grid.spacing": [[0.0, 0.0], [-1, 1], [1e30, 1], ["1", "1"], [1.0], [1.0, 1.0, 1.0], None],
    "plan.grid.unit": ["furlong", 1],
    "plan.grid.oriented": [1, "no"],
    "plan.grid.normalization": [["ct"], ["zscore", "zscore"], [5], [], ["magic"]],
    "plan.grid.statistics": [[{}, {}], [{"mean": "x"}], [{"mean": 1e300}], [[]], {}],
    "plan.training.batch": [0, -1, 10**9, 2.0, "2"],
    "plan.training.steps": [0, 2**70, "6"],
    "plan.training.validate_every": [0, -5],
    "plan.training.lr": [0, -1, "fast", 1e300, True],
    "plan.training.weight_decay": [-1, None],
    "plan.training.loss": ["x" * 65, "../dice", "", ["dice"], None],
    "plan.training.optimizer": ["lion"],
    "plan.training.augment": ["hard", None],
    "plan.training.foreground": [2, -0.1],
    "plan.training.schedule": ["random"],
    "plan.training.warmup": [-1, 1.5],
    "plan.training.clip": [0, "none"],
    "plan.training.average": [1.0, 0],
    "plan.training.freeze": ["encoder", [1]],
    "plan.training.patience": [5],
    "plan.training.augmentation": [{"blur": 1}, {"magic": {}}, {"blur": {"range": [0, "1"]}}, {"blur": {"size": 3}}],
    "plan.training.ignore": ["no", 0],
    "plan.machine.device": ["tpu", 5, "cuda:10000000"],
    "plan.machine.precision": ["fp4", 32],
    "plan.machine.threads": [10**9, 0, -1, "2", 2.0, None, True],
    "plan.machine.processes": [0, 3, 10**6],
    "plan.machine.compile": [1],
    "plan.machine.channels_last": [None],
    "plan.model": ["../x", "", 5],
    "plan.reasons": [[], {"a": 1}],
    "plan": [[], None, "unet", {}],
    "dataset": [None, [], {}],
    "dataset.name": ["../../x", 5, ""],
    "dataset.dims": [7, "2"],
    "dataset.channels": [[], ["a", "b"], [5], "MRI", 3],
    "dataset.labels": [[], {}, {"names": {"ball": 1}}],
    "dataset.labels.names": [
        {}, [], {"ball": -1}, {"ball": 1, "rod": 2**40}, {"ball": 1.5, "rod": 3}, {"ball": "one", "rod": 3},
        {f"c{n}": n for n in range(1, 300)}, {"ball": 1}, {"ball": 1, "rod": 1},
    ],
    "dataset.labels.instances": ["yes", True],
    "dataset.labels.regions": [[["r", [9]]], [["r"]], {"r": [1]}, [["r", [1, 3]]]],
    "dataset.labels.order": [[7], "1"],
    "dataset.labels.ignore": [0, "x", 1],
    "fold": [-1, 10**9, "0", 1.0, None],
    "seed": [-1, 2**70, "s"],
    "weights_sha256": ["abc", None, "0" * 64],
    "parameters": [-1, "many"],
    "fingerprint": ["", {"a": 1}, "x" * 10_000, "../x"],
    "inputs": [[], {"a": 1}],
    "allowed": ["x", [1]],
    "reading": [[], None, 5, {"orientation": "up"}, {"magic": 1}, {"axes": "XYZ"}, {"fill": "0"}, {"fill": 1e300},
        {"spacing": [1.0]}, {"spacing": [0, 1]}, {"channels": [-1]}, {"channels": [True]}, {"names": "DAPI"},
        {"names": ["x" * 10_001]}, {"colour": "blue"}, {"unit": "cm"}, {"sizes": "spacing"}],
    "accepts": ["shear", [1], ["../x"], ["x" * 65], {}],
    "voxel_sizes": [[], 5, {"unit": "mm"}, {"unit": "cm", "low": [1, 1], "median": [1, 1], "high": [1, 1]},
        {"unit": "px", "low": [0, 1], "median": [1, 1], "high": [1, 1]},
        {"unit": "px", "low": [1, 1], "median": [1, 1], "high": [1, 1, 1]}],
    "provenance": [5, {"a": {"b": 1}}],
    "trained_on": [{"complete": "yes", "subjects": []}, [], {"complete": True, "subjects": [{"dataset": 1}]}],
    "format": ["medseg-model-9", None],
}  # fmt: skip
EXTREMES: tuple[Any, ...] = (
    *(10**9, -1, 0, 1, 2**63, 10**400, 1e308, -1e308, 0.5, True, None, "", "abc", "\x00\x1b[31m", "x" * 100_000),
    *([], {}, [[]], {"a": 1}, [10**9] * 4, list(range(1000)), "cuda", "fp16", "vnet", "swin_unetr"),
)


def variants() -> Iterator[Variant]:
    """Every place with each of its impossible values."""
    return ((place, value) for place, values in HOSTILE.items() for value in values)


def mutations(facts: Any, count: int, seed: int) -> Iterator[Variant]:
    """Random places with extreme values, some of them possible there."""
    draw = random.Random(seed)
    places = [place for place in _places(facts) if place != DIGEST]
    return ((draw.choice(places), draw.choice(EXTREMES)) for _ in range(count))


def _places(value: Any, place: str = "") -> Iterator[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield f"{place}{key}"
        yield from _places(held, f"{place}{key}.")


def changed(facts: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The facts with another value at a place, and the digest that belongs to them."""
    facts = copy.deepcopy({name: held for name, held in facts.items() if name != DIGEST})
    *path, last = place.split(".")
    section: Any = facts
    for key in path:
        section = section[int(key) if isinstance(section, list) else key]
    section[int(last) if isinstance(section, list) else last] = value
    return signed(facts)


def main(folder: Path, image: Path, seed: int, count: int) -> None:
    """Try every variant on the model in ``folder``."""
    from medseg.errors import MedsegError
    from medseg.formats.read import open_image
    from medseg.predict.predictor import Predictor

    description = folder / "model.json"
    facts = json.loads(description.read_text())
    expected = Predictor(folder).label_map(open_image(image), "image")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, taken + SPARE_BYTES))
    for number, (place, value) in enumerate([*variants(), *mutations(facts, count, seed)]):
        faulthandler.dump_traceback_later(HANGING_S, exit=True)
        description.write_text(json.dumps(changed(facts, place, value)))
        result: dict[str, Any] = {"number": number, "place": place, "value": repr(value)[:60]}
        try:
            found = Predictor(folder).label_map(open_image(image), "image")
            result["same"] = bool(found.shape == expected.shape and (found == expected).all())
        except MedsegError as error:
            result["refused"] = str(error)
        except Exception as error:  # noqa: BLE001 (what the test is about)
            result["escaped"] = repr(error)[:300]
        print(json.dumps(result), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
