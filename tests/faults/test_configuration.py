"""Traps of YAML and JSON: a configuration means what it says, or is refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medseg import settings, workflow
from medseg.config import config_schema, load_config
from medseg.errors import ConfigError
from medseg.places import read_study

BASE = """
experiment: e
datasets: {d: {layout: pairs, path: p}}
models: {m: {network: unet}}
"""

# What is written -> what must be said.
TRAPS = {
    "number without a point is text": ("budget: {steps: 3}\nfolds: {seed: 1e-4}", "'folds.seed'"),
    "exponent is text": ("budget: {minutes: 1e1}", "write it as 10.0"),
    "octal": ("budget: {steps: 012.5}", "'budget.steps'"),
    "no is false": ("budget: {steps: no}", "'budget.steps'"),
    "yes is true": ("budget: {steps: 3}\nthreads: yes", "'threads'"),
    "sexagesimal": ("budget: {steps: 3:20.5}", "'budget.steps'"),
    "a float for a count": ("budget: {steps: 3.0}", "'budget.steps'"),
    "text for a count": ('budget: {steps: "3"}', "'budget.steps'"),
    "null for a count": ("budget: {steps: 3}\nthreads: ~", "'threads'"),
    "not a number": ("budget: {minutes: .nan}", "'budget.minutes'"),
    "infinity": ("budget: {minutes: .inf}", "'budget.minutes'"),
    "duplicate key": ("budget: {steps: 3, steps: 4}", "duplicate key 'steps'"),
    "date for a name": ("budget: {steps: 3}\nresults: 2026-01-01", "'results'"),
    "number for a name": ("budget: {steps: 3}\ndata_root: 5", "'data_root'"),
}


@pytest.mark.parametrize(("text", "expected"), TRAPS.values(), ids=TRAPS)
def test_traps_of_yaml_and_json(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(BASE + text)
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "c.yaml"])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


JSON_TRAPS = {
    "duplicate key": ('{"budget": {"steps": 3, "steps": 4}', "duplicate key 'steps'"),
    "not a number": ('{"budget": {"minutes": NaN}', "'budget.minutes'"),
    "infinity": ('{"budget": {"minutes": Infinity}', "'budget.minutes'"),
    "float for a count": ('{"budget": {"steps": 3.0}', "'budget.steps'"),
}


@pytest.mark.parametrize(("text", "expected"), JSON_TRAPS.values(), ids=JSON_TRAPS)
def test_traps_of_json(text: str, expected: str, tmp_path: Path) -> None:
    rest = json.dumps(yaml.safe_load(BASE)).removeprefix("{")
    (tmp_path / "c.json").write_text(f"{text}, {rest}")
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "c.json"])
    assert expected in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)
READ = """
import resource, sys
from pathlib import Path
from medseg.config import config_schema, load_config
from medseg.errors import ConfigError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    load_config([Path(sys.argv[1])])
except ConfigError as error:
    print(error)
"""


def test_an_alias_bomb_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BASE + BOMB)
    command = [sys.executable, "-c", READ, str(tmp_path / "bomb.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "aliases (*name) are not allowed" in done.stdout


# Size: what reading costs is counted, not timed, and grows as the configuration does.


class Counted(str):
    """Text that counts how often it is compared with another one."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


@pytest.mark.parametrize("last", ["k199", "other"])
def test_duplicate_keys_are_found_without_comparing_each_with_each(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings._StrictLoader, "construct_scalar", lambda loader, node: Counted(node.value))
    monkeypatch.setattr(Counted, "compared", 0)
    (tmp_path / "c.yaml").write_text("".join(f"k{n}: a\n" for n in range(200)) + f"{last}: a\n")
    for read in (
        lambda: settings.read_settings(tmp_path / "c.yaml"),
        lambda: settings._unique([(Counted(f"k{n}"), 0) for n in range(200)] + [(Counted(last), 0)]),
    ):
        with pytest.raises(ValueError, match="duplicate key 'k199'") if last == "k199" else contextlib.nullcontext():
            read()
    assert Counted.compared < 2000


UNET = {"network": "unet"}


def chain(names: list[str], step: int) -> dict[str, Any]:
    """Models each of which starts from its neighbour."""
    starts = {name: names[k + step] for k, name in enumerate(names) if 0 <= k + step < len(names)}
    return {name: {**UNET, **({"start": starts[name]} if name in starts else {})} for name in names}


# What there are many of, by their names -> the sections that hold them.
MANY: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "models": lambda names: {"models": dict.fromkeys(names, UNET)},
    "data sets": lambda names: {"datasets": {name: {"path": name} for name in names}},
    "generated sets": lambda names: {
        "datasets": {name: {"path": name, "generate": {"kind": "cells"}} for name in names}
    },
    "sets in one folder": lambda names: {"datasets": {name: {"path": "p"} for name in names}},
    "starts": lambda names: {"models": chain(names, -1)},
    "starts from the next": lambda names: {"models": chain(names, 1)},
    "models of their own sets": lambda names: {
        "datasets": {name: {"path": name} for name in names},
        "models": {name: {**UNET, "datasets": [name]} for name in names},
    },
    "seeds": lambda names: {"seeds": list(range(len(names)))},
    "excluded cases": lambda names: {"datasets": {"d": {"path": "p", "exclude": names}}},
    "unknown keys": lambda names: dict.fromkeys(names, 1),
    "bad models": lambda names: {"models": {name: {"netwrk": "unet"} for name in names}},
    "reserved names": lambda names: {"models": {f"{name}.": UNET for name in names}},
}


def cost(task: Callable[[], Any]) -> int:
    """Lines of Python and calls of functions that a task takes."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return seen

    before = sys.gettrace()
    sys.settrace(seen)
    sys.setprofile(seen)
    try:
        task()
    finally:
        sys.setprofile(None)
        sys.settrace(before)
    return count


@pytest.mark.parametrize("kind", MANY)
def test_what_reading_costs_grows_as_the_configuration_does(kind: str, tmp_path: Path) -> None:
    def reading(n: int) -> Callable[[], Any]:
        value = {**yaml.safe_load(BASE + "budget: {steps: 3}"), **MANY[kind]([f"m{k}" for k in range(n)])}
        path = tmp_path / f"{n}.json"
        path.write_text(json.dumps(value))

        def read() -> None:
            with contextlib.suppress(ConfigError):
                read_study([path]).runs()

        return read

    reading(3)()
    few, some, many = (cost(reading(n)) for n in (60, 120, 240))
    # Linear is 2, quadratic is 4.
    assert many - some < 2.6 * (some - few) + 500


def test_a_study_that_no_workflow_could_plan_is_refused() -> None:
    names = [f"m{k}" for k in range(400)]
    value = yaml.safe_load(BASE + "budget: {steps: 3}")
    value |= {"datasets": {name: {"path": name} for name in names}, "models": dict.fromkeys(names, UNET)}
    with pytest.raises(ConfigError, match=r"160,000 trainings .*; a study has at most 100,000"):
        load_config([], value)


@pytest.mark.parametrize(("shards", "trainings", "said"), [(10_001, 1, "shards"), (10_000, 11, "110,000 parts of tr")])
def test_parts_of_stages_count_among_the_jobs_of_a_study(shards: int, trainings: int, said: str) -> None:
    value = {**yaml.safe_load(BASE + "budget: {steps: 3}"), "shards": shards, "seeds": list(range(trainings))}
    with pytest.raises(ConfigError, match=said):
        load_config([], value)
    assert load_config([], {**value, "shards": 10_000, "seeds": [0]})


def test_every_number_has_a_largest_value() -> None:
    unbounded = []

    def walk(value: Any, where: str) -> None:
        number = isinstance(value, dict) and value.get("type") in ("integer", "number")
        if number and not value.keys() & {"maximum", "exclusiveMaximum", "const", "enum"}:
            unbounded.append(where)
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value if type(value) is list else ()):
            walk(inner, where if key in ("$defs", "properties") else f"{where}.{key}")

    walk(config_schema(), "")
    assert unbounded == []


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("shards", 1_000_000),
        ("loader", {"workers": 1_000_000}),
        ("loader", {"timeout_s": 1e300}),
        ("budget", {"epochs": 10**12}),
        ("budget", {"minutes": 1e300}),
        ("budget", {"steps": 3, "memory_gb": 1e300}),
        ("datasets", {"d": {"path": "p", "max_gb": 1e300}}),
        ("datasets", {"d": {"path": "p", "spacing": [1e7, 1e7]}}),
        ("datasets", {"d": {"path": "p", "generate": {"kind": "cells", "cases": 10**9}}}),
        ("datasets", {"d": {"path": "p", "postprocess": {"crf": {"iterations": 10**9}}}}),
        ("datasets", {"d": {"path": "p", "postprocess": {"min_size": 10**30}}}),
        ("models", {"m": {**UNET, "plan": {"patch": [2048, 1024, 1024]}}}),
        ("models", {"m": {**UNET, "plan": {"widths": [4, 8]}}}),
    ],
)
def test_what_no_machine_could_do_is_refused_when_it_is_read(section: str, value: Any) -> None:
    study = {**yaml.safe_load(BASE), "budget": {"steps": 3}, section: value}
    with pytest.raises(ConfigError, match=rf"'{section}.*, found ") as caught:
        load_config([], study)
    assert len(str(caught.value)) < 300


def test_large_patches_are_for_the_check_of_memory_to_decide() -> None:
    for patch in ([512, 512, 512], [1024, 1024, 1024], [16_384, 16_384]):
        models = {"m": {**UNET, "plan": {"patch": patch}}}
        assert load_config([], {**yaml.safe_load(BASE), "budget": {"steps": 3}, "models": models})


@pytest.mark.parametrize(("suffix", "start", "end"), [(".yaml", "[", "]"), (".json", "[", "]"), (".yaml", "{a: ", "}")])
@pytest.mark.parametrize("depth", [21, 300, 3000, 100_000])
def test_deep_nesting_is_refused(suffix: str, start: str, end: str, depth: int, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_text(f'{{"budget": {start * depth}1{end * depth}}}')
    with pytest.raises(ConfigError, match=r"nested too deeply; at most 20 levels"):
        load_config([path])


@pytest.mark.parametrize(
    "text",
    [
        "budget: {steps: 0x" + "f" * 50_000 + "}",
        "budget: {steps: " + "9" * 50_000 + "}",
        "budget: {steps: 3}\ndata_root: {2020-01-01: 1}",
        "budget: {steps: 3}\ndata_root: !!set {a, b}",
        "budget: {steps: 3}\ndata_root: !!binary aGFsbG8=",
        "budget: {steps: 3}\n? [a, b]\n: 1",
        "budget: {steps: 3}\n? {a: 1}\n: 1",
        "budget: {steps: 3}\ndata_root: " + "x" * 500_000 + "\nseed: 1",
        "budget: {steps: 3}\nmodels: {" + "y" * 100_000 + ": 1}",
    ],
    ids=range(9),
)
def test_what_is_wrong_is_said_shortly_whatever_it_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(BASE + text if "models" not in text else text)
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "c.yaml"])
    assert len(str(caught.value)) < 2000


def test_the_configuration_of_a_large_study_is_read_again_by_its_stages(tmp_path: Path) -> None:
    """The workflow writes it with all that was left out, some thirty times as long as the user's own."""
    names = [f"m{k}" for k in range(1500)]
    value = yaml.safe_load(BASE + "budget: {steps: 3}") | {"models": dict.fromkeys(names, UNET)}
    path = tmp_path / "config.json"
    workflow.write_config(load_config([], value), path)
    assert path.stat().st_size > settings.MAX_YAML_BYTES
    assert read_study([path]) == load_config([], value)
