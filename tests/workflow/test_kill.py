"""Kill the whole process group at random moments; the same plain command ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.study import digests, leftovers, make_study
from tests.workflow.torture import disturbed

pytestmark = pytest.mark.workflow


def test_killed_and_continued_gives_the_same_bits(finished: Path, tmp_path: Path) -> None:
    rough = make_study(tmp_path / "rough")
    disturbed(rough, kills=4, window_s=20.0, seed=1)
    assert digests(rough) == digests(finished)
    assert not leftovers(rough)
