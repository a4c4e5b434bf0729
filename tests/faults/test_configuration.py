"""Traps of YAML and JSON: a configuration means what it says, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medseg.config import load_config
from medseg.errors import ConfigError

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
from medseg.config import load_config
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
