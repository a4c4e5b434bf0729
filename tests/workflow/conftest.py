from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workflow.study import make_study, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran undisturbed; its log is `first.log`. Tests that change it take `finished_copy`."""
    folder = make_study(tmp_path_factory.mktemp("study") / "calm")
    done = run(folder)
    (folder / "first.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, times kept, to change at will."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))
