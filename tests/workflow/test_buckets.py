"""Buckets: data come from one, a study goes into one and comes back to resume, results cannot lie in one."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.team import BUCKET, KEY, Bucket, wait_for
from tests.workflow.study import TINY, digests, make_study, run, start

pytest.importorskip("moto")
pytest.importorskip("boto3")
pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]

GENERATED = "    generate: {kind: cells, cases: 4, seed: 3}\n"
FETCHED = f"    download: {{url: 's3://{BUCKET}/data/cells.zip'}}\n"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    opened = Bucket(tmp_path_factory.mktemp("bucket"))
    yield opened
    opened.close()


def test_a_study_whose_data_come_from_a_bucket_is_moved_through_it_in_mid_training_and_resumes(
    finished: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with the bits of the undisturbed one, which lies elsewhere and made its data itself."""
    for name, value in {**KEY, "AWS_ENDPOINT_URL": bucket.address}.items():
        monkeypatch.setenv(name, value)
    archive = shutil.make_archive(str(tmp_path / "cells"), "zip", finished / "data" / "cells")
    bucket.client.upload_file(archive, BUCKET, "data/cells.zip")
    assert GENERATED in TINY
    here = make_study(tmp_path / "here", TINY.replace(GENERATED, FETCHED))
    process = start(here)
    state = here / "results" / "tiny" / ".state" / "cells" / "unet" / "fold0-seed0"
    try:
        wait_for(lambda: process.poll() is not None or list(state.glob("**/*.safetensors")), "a state of training", 600)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (here / "results" / "tiny" / "report" / "index.html").exists(), (here / "run.log").read_text()
    record = (here / "data" / "cells" / ".download.json").read_text()
    assert "X-Amz" not in record

    # As docs/team.md says: tar into the bucket, and out of it.
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(here, arcname=".")
    packed.seek(0)
    bucket.client.upload_fileobj(packed, BUCKET, "studies/tiny.tar")
    shutil.rmtree(here)
    there = tmp_path / "there"
    back = io.BytesIO()
    bucket.client.download_fileobj(BUCKET, "studies/tiny.tar", back)
    back.seek(0)
    with tarfile.open(fileobj=back) as tar:
        tar.extractall(there, filter="fully_trusted")
    done = run(there)
    assert done.returncode == 0, done.stdout
    assert "resumed after step" in done.stdout, done.stdout
    assert digests(there) == digests(finished)
    again = run(there)
    assert "Nothing to be done" in again.stdout, again.stdout


def test_results_in_a_bucket_are_refused_before_anything_runs(finished: Path, bucket: Bucket, tmp_path: Path) -> None:
    pytest.importorskip("snakemake_storage_plugin_s3")
    folder = make_study(tmp_path / "study")
    options = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}/study"]
    key = {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key", "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "secret"}
    before = bucket.names()
    done = run(folder, *options, "--storage-s3-endpoint-url", bucket.address, variables=key)
    assert done.returncode == 2, done.stdout
    assert "--default-storage-provider s3: results have to lie on a file system" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (folder / "results").exists()
    assert bucket.names() == before
    # The fix that the message names.
    assert run(folder, "-n").returncode == 0
