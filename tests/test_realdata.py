"""Real data, where it is there: MEDSEG_REALDATA names a folder with `hippocampus/` and `nuclei_fluo/`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg.config import load_config
from medseg.ingest.run import run

ROOT = Path(__file__).resolve().parents[1]
FOLDER = os.environ.get("MEDSEG_REALDATA", "")

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER, reason="MEDSEG_REALDATA names no folder with real data"),
]


@pytest.mark.parametrize(
    ("study", "dataset", "dims", "cases"),
    [("hippocampus", "hippocampus", 3, 200), ("nuclei", "nuclei_fluo", 2, 441)],
)
def test_real_data_sets_are_clean(study: str, dataset: str, dims: int, cases: int, tmp_path: Path) -> None:
    config = load_config([ROOT / f"config/{study}.yaml"], {"data_root": FOLDER})
    manifest = run(config, dataset, tmp_path, workers=2)
    assert manifest.dims == dims
    assert len(manifest.cases) == cases
    # What its table of subjects leaves apart though it looks alike, and `allow` names.
    assert all(line.startswith("same-origin ") for line in manifest.allowed)
