"""Several data sets read from one download: none is read before the archive is there, which is fetched once."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.file_server import send
from tests.workflow.study import jobs, make_study, run

pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]

SETS = """
experiment: tiny
datasets:
  inside: {{layout: pairs, path: all/part, labels: {{cell: 1}}}}
  first:  {{layout: table, table: cases.csv, path: all, labels: {{cell: 1}}, download: {{url: "{url}"}}}}
  second: {{layout: table, table: cases.csv, path: all, labels: {{nucleus: 1}}, download: {{url: "{url}"}}}}
  third:  {{layout: table, table: cases.csv, path: all, labels: {{core: 1}}}}
folds: {{count: 2}}
budget: {{steps: 3}}
"""


def archive() -> bytes:
    file, rows = io.BytesIO(), ["case,image,label"]
    with zipfile.ZipFile(file, "w") as made:
        for number in range(3):
            for folder, values in (("images", np.arange(256) * (number + 1) % 251), ("masks", np.arange(256) % 2)):
                picture = io.BytesIO()
                Image.fromarray(values.reshape(16, 16).astype(np.uint8)).save(picture, format="png")
                made.writestr(f"all/part/{folder}/c{number}.png", picture.getvalue())
            rows.append(f"c{number},part/images/c{number}.png,part/masks/c{number}.png")
        made.writestr("all/cases.csv", "\n".join(rows))
        made.writestr("all/README", "")
    return file.getvalue()


def test_one_download_serves_all_data_sets_on_and_inside_its_folder(tmp_path: Path, server: Any) -> None:
    server.replies = [send(archive())]
    study = make_study(tmp_path / "study", SETS.format(url=server.url))
    done = run(study, "--until", "ingest", cores=4)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(server.asked) == 1
    for name in ("inside", "first", "second", "third"):
        assert len((study / "results" / "tiny" / name / "ingest" / "manifest.tsv").read_text().splitlines()) == 4
    assert jobs(run(study, "--until", "ingest", "--dry-run").stdout) == set()
