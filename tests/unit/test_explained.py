"""Errors of the operating system: the ones a user can fix are one line with path, cause and what to do; no others."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch

from medseg import fence
from medseg.causes import CAUSES
from medseg.errors import DataError
from medseg.explained import check_writing, explain, make_folder
from medseg.files import atomic_writer, read_json, write_bytes, write_text, write_with, writer_lock
from medseg.image.geometry import Geometry
from medseg.preprocess.arrays import write_array
from medseg.preprocess.case_file import write_case_file
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.store import PreparedCase, write_case
from medseg.takeover import hold_folder
from medseg.tracking.store import store_lock
from tests.disks import ERRORS, FailingDisk, failing, mounted, read_only, small_disk

BIG = np.random.default_rng(0).integers(0, 255, (1, 60, 60, 60), dtype=np.uint8)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "full", "64k") as folder:
        yield folder


@pytest.fixture
def few_bytes(tmp_path: Path) -> Iterator[Path]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def said(write: Callable[[], Any]) -> str:
    """What is said of the error that a call raises; one line that says to run the command again."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is the library's choice)
        write()
    text = explain(caught.value)
    assert text is not None, repr(caught.value)
    assert "\n" not in text
    return text


class Caught:
    """Collects an error that is raised in the block."""

    def __enter__(self) -> list[BaseException]:
        self.caught: list[BaseException] = []
        return self.caught

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is not None:
            self.caught.append(error)
        return error is not None


WRITERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: write_bytes(path, BIG.tobytes()),
    "tofile": lambda path: write_with(path, lambda p: BIG.tofile(p)),
    "blosc2": lambda path: write_with(path, lambda p: write_array(p, BIG, 1, None)),
    "case": lambda path: write_case_file(path, ("a", lambda p: p.write_bytes(b"a")), {"b": BIG.tobytes()}, {}),
    "parquet": lambda path: write_with(path, lambda p: pd.DataFrame({"x": BIG.ravel()}).to_parquet(p)),
}


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_full_disk_is_named_and_leaves_nothing(kind: str, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(full.parent)
    write_text(full / "old.b2nd", "old")
    text = said(lambda: WRITERS[kind](full / "old.b2nd"))
    assert text.startswith("full/old.b2nd: no space left: more is needed than the ")
    assert f"free on the file system at {full}; free some, then run the same command again" in text
    assert (full / "old.b2nd").read_text() == "old"
    assert [path.name for path in full.iterdir()] == ["old.b2nd"]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_limit_of_files_is_named(kind: str, few_bytes: Path) -> None:
    text = said(lambda: WRITERS[kind](few_bytes / "x.b2nd"))
    assert "larger than a file may be here, 50.0 kB; raise that limit (`ulimit -f unlimited`)" in text
    assert not list(few_bytes.iterdir())


def test_no_inodes_left_is_named(tmp_path: Path) -> None:
    with mounted(tmp_path / "few", "-t", "tmpfs", "-o", "nr_inodes=2", "none") as folder:
        (folder / "one").touch()
        assert "no room for more files (all 2 inodes are taken)" in said(lambda: write_text(folder / "two", "2"))


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    write_text(tmp_path / "ro" / "old", "old")
    with read_only(tmp_path / "ro") as folder:
        for call in (lambda: write_text(folder / "old", "new"), lambda: write_text(folder / "new" / "x", "new")):
            assert f"the file system at {folder} is read-only" in said(call)
        assert "is read-only" in said(lambda: check_writing(folder))
        assert (folder / "old").read_text() == "old"


def test_files_in_the_place_of_folders_and_folders_in_the_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    assert "file is a file, and a folder is needed there" in said(lambda: write_text(tmp_path / "file" / "x" / "y", ""))
    assert "is a file, and a folder is needed there" in said(lambda: (tmp_path / "file").mkdir())
    assert "is a folder, and a file is needed there" in said(lambda: write_text(tmp_path / "folder", ""))
    assert (tmp_path / "file").read_text() == "kept"


def test_long_names_and_circles_of_links(tmp_path: Path) -> None:
    assert "a name of 300 bytes is too long" in said(lambda: write_text(tmp_path / ("n" * 300), ""))
    deep = tmp_path.joinpath(*["d" * 100] * 45)
    assert "a path of " in said(lambda: write_text(deep, ""))
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "links lead round in circles" in said(lambda: (tmp_path / "a" / "x").touch())


def test_too_many_open_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        text = said((tmp_path / "x").touch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "files are open, all that a process may here; raise that (`ulimit -n`)" in text


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_error_at_any_call_names_the_file_and_leaves_the_old_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    at, disk = 0, None
    while disk is None or disk.failed:
        at += 1
        disk = FailingDisk(tmp_path, at, number)
        write_text(tmp_path / "old", "old")
        with failing(monkeypatch, disk), Caught() as caught:
            write_text(tmp_path / "old", "new")
        if disk.failed:
            assert (explain(caught[0]) or "").startswith(("old: ", "this folder: ")), (disk.calls, caught)
            # The last call is of the folder, after the renaming.
            assert (tmp_path / "old").read_text() == ("new" if disk.calls[-2:] == ["replace", "fsync"] else "old")
            assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert disk.calls == ["open", "write", "fsync", "replace", "fsync"]


def test_words_of_libraries_are_understood(full: Path) -> None:
    assert "no space left" in said(lambda: safetensors.numpy.save_file({"x": BIG}, full / "x.safetensors"))
    store = sqlite3.connect(full / "x.db")
    assert "no space left" in said(lambda: store.execute("create table t as select zeroblob(1000000)"))


def test_memory_that_ran_out_says_how_much_was_asked_for() -> None:
    text = said(lambda: np.empty((1 << 50,), np.uint8))
    assert "memory ran out (Unable to allocate 1.00 PiB" in text
    assert "memory ran out" in said(lambda: torch.empty(1 << 50, dtype=torch.uint8))
    assert "the memory of the GPU ran out (x)" in (explain(torch.OutOfMemoryError("x")) or "")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        FileExistsError(errno.EEXIST, "File exists", os.devnull + "x"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
        OSError("words only"),
        ValueError("disk"),
        RecursionError("maximum recursion depth exceeded"),
        KeyError("no space"),
    ],
    ids=repr,
)
def test_what_can_be_a_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None


def test_errors_of_our_own_and_mistakes_beside_a_full_disk_are_not_explained_away() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "x")
    wrapped = RuntimeError("the library's words")
    wrapped.__cause__ = full
    assert "no space left" in (explain(wrapped) or "")
    handling = KeyError("a mistake while the first error was handled")
    handling.__context__ = full
    assert explain(handling) is None
    damaged = DataError("x: damaged")
    damaged.__cause__ = full
    assert explain(damaged) is None


@pytest.mark.parametrize("number", sorted(number for number in CAUSES if number is not None))
def test_a_disk_that_answers_no_question_keeps_nothing_from_being_explained(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stale network share, where stat fails, too, and a working folder that was deleted."""

    def broken(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for away in (("getcwd",), ("stat", "lstat"), ("statvfs",), ("getcwd", "stat", "lstat", "statvfs")):
        for path in (tmp_path / "x", Path("x"), None):
            with monkeypatch.context() as patched:
                for name in away:
                    patched.setattr(os, name, broken)
                text = explain(OSError(number, os.strerror(number), path and str(path)))
            assert text is None or (text.startswith((f"{path}: ", "a file or folder")) and "\n" not in text)
            if number in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ENOLCK):
                assert text is not None


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def allowed_to_write() -> None:
        with fence.allowed():
            pass

    (tmp_path / "results").mkdir()
    monkeypatch.setenv(fence.VARIABLE, "")
    fence.draw_token(tmp_path / "results")
    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "lockf", none)
    for call, place in (
        (lambda: writer_lock(tmp_path / "out").__enter__(), "out/.writer.lock"),
        (allowed_to_write, "results/"),
        (lambda: hold_folder(tmp_path, tmp_path / "results"), ".snakemake/medseg.lock"),
        (lambda: store_lock(tmp_path / "store.lock").__enter__(), "store.lock"),
    ):
        text = said(call)
        assert f"{tmp_path}/{place}" in text
        assert "has no file locks; mount it with them or work on a local one" in text


def test_places_without_folders_of_users_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^/proc/nope/a: no folder can be made in /proc; choose another place$"):
        make_folder(Path("/proc/nope/a"))
    with pytest.raises(FileExistsError):
        (tmp_path / "file").touch()
        make_folder(tmp_path / "file")


def test_a_working_folder_that_was_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        for call in (Path.cwd, lambda: write_text(Path("x"), ""), lambda: check_writing(Path("results"))):
            assert "the folder in which this command works was deleted" in said(call)
    finally:
        os.chdir(tmp_path)


def test_names_in_the_explanation_are_escaped() -> None:
    text = explain(OSError(errno.ENOSPC, "No space left on device", "a\n\x1b[2Jb")) or ""
    assert text.startswith("a\\n\\x1b[2Jb: no space left")


def test_a_mistake_while_writing_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_writer(tmp_path / "x"):
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="of the library"):
        write_with(tmp_path / "x", lambda path: (_ for _ in ()).throw(RuntimeError("of the library")))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert "input/output error" in said(lambda: read_json(tmp_path / "x.json"))


@pytest.mark.parametrize("call", ["stat", "open"])
def test_a_prepared_case_that_cannot_be_read_is_not_called_damaged(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    record = InverseRecord(Geometry.from_spacing((4, 4), (1.0, 1.0)), (0, 1), (False,) * 2, (0, 0), (4, 4), (4, 4))
    values = np.zeros((4, 4), np.uint8)
    path = tmp_path / "c.case"
    write_case(path, "key", values[None].astype(np.float32), values, np.zeros((0, 3), np.int32), record)
    case = PreparedCase.open(path)
    with monkeypatch.context() as patched:
        patched.setattr(os if call == "stat" else builtins, call, broken)
        assert "c.case: the disk or the network share reports an input/output error" in said(case.read_image)
    assert case.read_image().shape == (1, 4, 4)
    path.unlink()
    with pytest.raises(DataError, match="missing, or its image damaged since it was prepared"):
        case.read_image()


def test_writing_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    check_writing(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
