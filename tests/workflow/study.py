"""A small study in a folder of its own, run as a user runs it: as a `snakemake` process."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

TINY = """
experiment: tiny
data_root: data
datasets:
  cells:
    layout: pairs
    path: cells
    labels: {cell: 1}
    instances: true
    generate: {kind: cells, cases: 4, seed: 3}
    postprocess: {min_size: 5}
models:
  unet: {network: unet, plan: {patch: [64, 64], widths: [8, 8, 16], strides: [[1, 1], [2, 2], [2, 2]]}}
folds: {count: 2, run: [0]}
budget: {steps: 300}
threads: 1
"""


def make_study(folder: Path, config: str = TINY) -> Path:
    """Lay out a study: a copy of the package and the workflow, and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("medseg", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "config").mkdir()
    (folder / "config" / "config.yaml").write_text(config)
    return folder


def environment(folder: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the study's processes: its own copy of the package, one thread; ``variables`` on top."""
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own, **(variables or {})}


def start(folder: Path, *options: str, cores: int = 2) -> subprocess.Popen[bytes]:
    """Start the plain command in a process group of its own; its output goes to ``run.log``."""
    command = [str(BIN / "snakemake"), "--cores", str(cores), *options]
    with open(folder / "run.log", "ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )


def run(
    folder: Path, *options: str, cores: int = 2, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the plain command to its end; output and errors come back together."""
    command = [str(BIN / "snakemake"), "--cores", str(cores), *options]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def medseg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `medseg` command in the study's folder; output and errors come back together."""
    command = [sys.executable, "-m", "medseg", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def jobs(output: str) -> set[str]:
    """Names of the rules that a dry run lists."""
    names, reading = set(), False
    for line in output.splitlines():
        if line.startswith("Job stats:"):
            reading = True
        elif reading and line.startswith("total"):
            break
        elif reading and line and not line.startswith(("job ", "---")):
            names.add(line.split()[0])
    return names - {"default", "all"}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that must come out equal: weights, predictions, scores, the leaderboard."""
    patterns = (
        "*/train/*/*/model.safetensors",
        "*/predict/*/*/*",
        "*/postprocess/*/*/*",
        "*/evaluate/*/*.parquet",
        "compare/*",
    )
    files = [
        path
        for results in (folder / "results").glob("*")
        for pattern in patterns
        for path in results.glob(pattern)
        if path.is_file() and not path.name.startswith(".") and path.name != "timing.json"
    ]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a killed writer left under a visible name (there must be none)."""
    return [str(p) for p in (folder / "results").rglob("*.tmp") if not p.name.startswith(".")]
