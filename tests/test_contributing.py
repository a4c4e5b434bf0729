"""The worked examples of CONTRIBUTING.md, executed in a copy of the project: one file and one row are enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")
BLOCK = re.compile(
    r"^```python\n# (?P<file>\S+?)(?:, in (?P<table>[A-Z]+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def section(title: str) -> str:
    """A section of the page, its text up to the next heading."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to which both examples were applied."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("medseg", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    for title in ("A network", "A metric"):
        blocks = list(BLOCK.finditer(section(title)))
        assert [bool(block["table"]) for block in blocks] == [False, True], title
        for block in blocks:
            path = folder / block["file"]
            if block["table"] is None:
                assert not path.exists(), path
                path.write_text(block["code"])
            else:
                text, opening = path.read_text(), re.compile(rf"^{block['table']}: .*= {{\n", re.MULTILINE)
                assert len(opening.findall(text)) == 1
                path.write_text(opening.sub(lambda found, row=block["code"]: found[0] + row, text))
    return folder


def run(project: Path, *arguments: str) -> str:
    """Run python in the copy, which must succeed; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=project, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.exhaustive
def test_the_network_keeps_the_contract_of_all_networks(project: Path) -> None:
    out = run(project, *PYTEST, "tests/contracts/test_models.py", "-k", "plain-2d or plain-3d")
    passed = re.search(r"(\d+) passed", out)
    assert passed and int(passed[1]) >= 15, out[-2000:]
    config = "from medseg.config import load_config as load; from medseg.config import config_schema; import json"
    assert "'plain'" in run(project, "-c", f"{config}; print(config_schema())")


def test_the_metric_stands_in_the_table_the_docs_and_the_scores(project: Path) -> None:
    run(project, "docs/write_metrics.py")
    assert "| `precision` | Precision |" in (project / "docs" / "metrics.md").read_text()
    out = run(project, *PYTEST, "tests/unit/test_metrics_table.py", "-k", "precision or page or distinct")
    assert re.search(r"\b4 passed", out), out[-2000:]
    script = """
import numpy as np
from medseg.evaluate.choice import DEFAULT
from medseg.evaluate.score import score_case
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.results.key import RunKey
reference, prediction = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
reference[:2], prediction[1:] = 1, 1
grid = Geometry.from_spacing((4, 4), (1.0, 1.0), "px")
rows = score_case(RunKey("d", "m", 0, 0), "c", "c", reference, prediction, LabelTable.create({"cell": 1}), grid)
print([row["value"] for row in rows if row["metric"] == "precision"])
"""
    assert run(project, "-c", script).strip() == f"[{4 / 12}]"
