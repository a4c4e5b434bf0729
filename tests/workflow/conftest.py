from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.workflow.study import make_study, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran undisturbed; its log is `first.log`. Tests that change it take `finished_copy`.

    It takes a minute: one process of pytest-xdist makes it for all, those that want it meanwhile wait.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "calm"
    with open(base / "calm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "first.log").exists():
            shutil.rmtree(folder, ignore_errors=True)
            done = run(make_study(folder))
            assert done.returncode == 0, done.stdout[-4000:]
            (folder / "first.log").write_text(done.stdout)
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, times kept, to change at will."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))
