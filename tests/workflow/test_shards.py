"""Work on cases in several jobs, as on a cluster: the same results as by one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.workflow.study import TINY, digests, make_study, run

pytestmark = pytest.mark.workflow
STORE = "results/tiny/cells/preprocess/default"
SHARDED = ("preprocess", "predict", "evaluate")


def counts(output: str) -> dict[str, int]:
    """Rule -> number of jobs, as a dry run lists them."""
    rows = output.split("Job stats:")[1].split("total")[0].splitlines()
    return {row.split()[0]: int(row.split()[1]) for row in rows if len(row.split()) == 2 and row.split()[1].isdigit()}


def store(folder: Path) -> dict[str, str]:
    files = [p for p in sorted((folder / STORE).rglob("*")) if p.is_file()]
    shown = [p for p in files if not p.name.startswith((".", "shard-"))]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in shown}


def joined(folder: Path) -> dict[str, str]:
    """Digests of the results, without the files that shards leave to be joined."""
    return {name: digest for name, digest in digests(folder).items() if "shard-" not in name}


def test_shards_are_jobs_of_their_own(finished_copy: Path) -> None:
    (finished_copy / "config" / "config.yaml").write_text(f"{TINY}shards: 2\n")
    check_jobs(run(finished_copy, "--dry-run").stdout)


def check_jobs(output: str) -> None:
    planned = counts(output)
    assert {rule: planned[f"{rule}_shard"] for rule in SHARDED} == dict.fromkeys(SHARDED, 2)
    assert {rule: planned[rule] for rule in SHARDED} == dict.fromkeys(SHARDED, 1)


@pytest.mark.exhaustive
def test_shards_change_nothing(finished: Path, tmp_path: Path) -> None:
    parts = make_study(tmp_path / "parts", f"{TINY}shards: 2\n")
    done = run(parts)
    assert done.returncode == 0, done.stdout[-3000:]
    check_jobs(done.stdout)
    assert len([name for name in store(parts) if name.endswith(".case")]) == 4
    assert store(parts) == store(finished)
    assert joined(parts) == digests(finished)
    assert "Nothing to be done" in run(parts).stdout


def test_one_job_works_on_all_cases_unless_shards_are_asked_for(finished: Path) -> None:
    planned = counts((finished / "first.log").read_text())
    assert not [rule for rule in planned if rule.endswith("_shard")]
    assert set(planned.values()) == {1}
