"""Preprocessing in several jobs, as on a cluster: the same store as by one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.workflow.study import TINY, make_study, run

pytestmark = pytest.mark.workflow
STORE = "results/tiny/cells/preprocess/default"


def counts(output: str) -> dict[str, int]:
    """Rule -> number of jobs, as a dry run lists them."""
    rows = output.split("Job stats:")[1].split("total")[0].splitlines()
    return {row.split()[0]: int(row.split()[1]) for row in rows if len(row.split()) == 2 and row.split()[1].isdigit()}


def store(folder: Path) -> dict[str, str]:
    files = [p for p in sorted((folder / STORE).rglob("*")) if p.is_file()]
    shown = [p for p in files if not p.name.startswith((".", "shard-"))]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in shown}


def test_shards_are_jobs_of_their_own_and_change_nothing(tmp_path: Path) -> None:
    whole, parts = make_study(tmp_path / "whole"), make_study(tmp_path / "parts", f"{TINY}shards: 3\n")
    planned = run(parts, "--dry-run", f"{STORE}/index.json")
    assert planned.returncode == 0, planned.stdout[-3000:]
    jobs = counts(planned.stdout)
    assert jobs["preprocess_shard"] == 3
    assert jobs["preprocess"] == 1
    assert "preprocess_shard" not in counts(run(whole, "--dry-run", f"{STORE}/index.json").stdout)
    for folder in (whole, parts):
        done = run(folder, f"{STORE}/index.json")
        assert done.returncode == 0, done.stdout[-3000:]
    assert len([name for name in store(parts) if name.endswith("case.json")]) == 4
    assert store(parts) == store(whole)
    again = run(parts, f"{STORE}/index.json")
    assert "Nothing to be done" in again.stdout
