"""Files appear whole or not at all; one writer per folder; one workflow per working folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg import files
from medseg.errors import BusyError, DataError
from medseg.files import (
    SAFE_NAME,
    atomic_writer,
    canonical_json,
    digest_of,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
    write_with,
    writer_lock,
)


class Killed(BaseException):
    """Stands for anything that ends a process in the middle of a write."""


def half_write_stream(path: Path) -> None:
    with atomic_writer(path) as file:
        file.write(b"half")
        file.flush()
        raise Killed


def half_write_path(path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise Killed

    write_with(path, write)


@pytest.mark.parametrize("half_write", [half_write_stream, half_write_path])
@pytest.mark.parametrize("old", [b"old and whole", None])
def test_death_in_the_middle_leaves_the_old_file_or_none(tmp_path: Path, half_write, old: bytes | None) -> None:
    path = tmp_path / "deep" / "scores.parquet"
    path.parent.mkdir()
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(Killed):
        half_write(path)
    assert (path.read_bytes() if path.exists() else None) == old
    assert [p.name for p in path.parent.iterdir()] == ([path.name] if old else [])


def test_nothing_is_visible_under_the_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_writer(path) as file:
        file.write(b"x")
        file.flush()
        assert not path.exists()
        # What a kill leaves here must be hidden from `*` and from readers of folders.
        assert all(p.name.startswith(".") for p in path.parent.iterdir())
    assert path.read_bytes() == b"x"
    assert os.listdir(path.parent) == ["a.json"]


def test_bytes_are_flushed_to_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_replace(old: Path, new: Path) -> None:
        events.append("rename")
        replace(old, new)

    def noted_fsync(descriptor: int) -> None:
        events.append("fsync")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    write_bytes(tmp_path / "a", b"x")
    write_with(tmp_path / "b", lambda path: path.write_bytes(b"x"))
    assert events == ["fsync", "rename", "fsync"] * 2


def test_write_with_keeps_all_suffixes(tmp_path: Path) -> None:
    seen = []
    write_with(tmp_path / "a.nii.gz", lambda path: seen.append(path.name) or path.write_bytes(b"x"))
    assert seen[0].endswith(".nii.gz")
    assert seen[0].startswith(".")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_canonical_json_is_one_text_per_value(value: dict, random) -> None:
    keys = list(value)
    random.shuffle(keys)
    text = canonical_json({key: value[key] for key in keys})
    assert text == canonical_json(value)
    assert json.loads(text) == value
    assert digest_of(value) == sha256_bytes(text.encode())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [1, -float("inf")]])
def test_numbers_that_json_lacks_are_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(bad)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", bad)
    assert list(tmp_path.iterdir()) == []


def test_digests_and_json_of_files(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "µ")
    assert sha256_file(tmp_path / "t") == sha256_bytes("µ".encode())
    write_json(tmp_path / "j", {"b": 1, "a": "µ"})
    assert (tmp_path / "j").read_text() == '{\n  "b": 1,\n  "a": "µ"\n}\n'
    assert read_json(tmp_path / "j") == {"a": "µ", "b": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", None])
def test_missing_and_damaged_json_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"plan\.json.*(run the stage|run its stage again)"):
        read_json(path)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "9", "x" * 64])
def test_safe_names_pass(name: str) -> None:
    assert SAFE_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "a\n", "x" * 65, "é", "$(a)", "a;b", "..", "a\0"])
def test_unsafe_names_are_refused(name: str) -> None:
    assert not SAFE_NAME.fullmatch(name)


HOLD = """
import sys
from pathlib import Path
{setup}
print("holding", flush=True)
sys.stdin.read()
"""
LOCK = "from medseg.files import writer_lock\nlock = writer_lock(Path(sys.argv[1])); lock.__enter__()"
FOLDER = """
from medseg.errors import MedsegError
from medseg.takeover import hold_folder
from medseg.ending import stop
try:
    hold_folder(Path(sys.argv[1]), Path(sys.argv[1], "results"))
except MedsegError as error:
    raise stop(error)
"""


def holder(setup: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(setup=setup), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "holding"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_second_writer_is_refused_and_told_the_first(tmp_path: Path) -> None:
    first = holder(LOCK, tmp_path)
    try:
        with pytest.raises(BusyError, match=rf"\b{first.pid}\b"), writer_lock(tmp_path):
            pass
    finally:
        end(first)
    # The kernel frees the lock of a killed process: nothing to clear by hand.
    with writer_lock(tmp_path):
        assert (tmp_path / ".writer.lock").read_text() == str(os.getpid())
    with writer_lock(tmp_path):
        pass


def test_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(Killed), writer_lock(tmp_path / "new"):
        raise Killed
    with writer_lock(tmp_path / "new"):
        pass


def test_second_workflow_in_a_folder_is_refused_with_exit_code_2(tmp_path: Path) -> None:
    first = holder(FOLDER, tmp_path)
    locks = tmp_path / ".snakemake" / "locks"
    (locks / "0.input.lock").write_text("stale, of the killed run")
    try:
        second = subprocess.run(
            [sys.executable, "-c", HOLD.format(setup=FOLDER), str(tmp_path)],
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        assert f"process {first.pid} " in second.stderr
        assert "Traceback" not in second.stderr
        assert "holding" not in second.stdout
        assert list(locks.iterdir()), "a refused workflow must not touch the locks of the first"
    finally:
        end(first)
    third = holder(FOLDER, tmp_path)
    try:
        assert list(locks.iterdir()) == []
    finally:
        end(third)
