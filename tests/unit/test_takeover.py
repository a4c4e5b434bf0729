"""Runs of the workflow after one another: who may write, what is stopped, what is made again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from medseg import fence, takeover
from medseg.config import Config, load_config
from medseg.errors import BusyError
from medseg.fence import VARIABLE, SupersededError, allowed, draw_token
from medseg.files import sha256_file, sweep, write_text, writer_lock
from medseg.kept import kept, write_stamp
from medseg.outputs import OPEN, Damage, damaged, list_of, owners, read_list, writing
from medseg.shards import Shard
from medseg.takeover import hold_folder, take_over
from medseg.whole import clear, look, made_by
from medseg.workflow import begin, join, runs_jobs

CONFIG = """
experiment: tiny
datasets:
  cells: {layout: pairs, path: cells, labels: {cell: 1}, generate: {kind: cells, cases: 4, seed: 3}}
models: {unet: {network: unet}}
folds: {count: 2, run: [0]}
budget: {steps: 3}
"""
# Writes one file, says so, and writes another when a line comes in; as a job of the workflow does.
JOB = """
import sys, time
from pathlib import Path
from medseg.files import write_text
from medseg.outputs import writing
out = Path(sys.argv[1])
with writing(out / "last", out):
    write_text(out / "first", "first")
    print("first", flush=True)
    while True:
        time.sleep(0.05)
        write_text(out / "again", str(time.time()))
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results whose run this process is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    draw_token(Path("results/tiny"))
    return Path("results/tiny")


@pytest.fixture
def config(root: Path) -> Config:
    Path("config.yaml").write_text(CONFIG)
    return load_config([Path("config.yaml")])


def make(folder: Path, **texts: str) -> Path:
    """A job that writes some files and, last, ``done``; where that is."""
    with writing(folder / "done", folder):
        for name, text in {**texts, "done": "done"}.items():
            write_text(folder / name, text)
    return folder / "done"


def test_a_job_of_an_earlier_run_writes_nothing_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root / "a", one="1")
    earlier = os.environ[VARIABLE]
    draw_token(root)
    make(root / "a", one="2")
    monkeypatch.setenv(VARIABLE, earlier)
    with pytest.raises(SupersededError, match="a later run of the workflow has taken over"):
        write_text(root / "a" / "one", "1")
    assert (root / "a" / "one").read_text() == "2"
    assert sorted(p.name for p in (root / "a").iterdir()) == [".writer.lock", "done", "one"]
    with pytest.raises(SupersededError):
        make(root / "b")
    assert not (root / "b" / "done").exists()


def test_a_run_begins_after_a_file_that_is_being_put_in_place(root: Path) -> None:
    begun = threading.Event()

    def later() -> None:
        begun.set()
        draw_token(root)

    with allowed():
        thread = threading.Thread(target=later)
        thread.start()
        begun.wait()
        time.sleep(0.05)
        assert thread.is_alive()
    thread.join()


def test_a_command_by_hand_is_not_fenced_and_keeps_no_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    done = make(root / "a", one="1")
    assert not list_of(root, done).exists()


def test_deleted_results_are_said_to_be_so(root: Path) -> None:
    shutil.rmtree(root)
    with pytest.raises(SupersededError, match="deleted while this job ran"):
        write_text(Path("elsewhere"), "x")


def test_what_is_missing_or_changed_is_found_and_nothing_else(root: Path) -> None:
    results = [make(root / name, one="1", two="2") for name in "abcde"]
    assert damaged(root, results) == {}
    (root / "a" / "one").unlink()
    (root / "b" / "two").write_text("3")
    shutil.rmtree(root / "c")
    os.utime(root / "d" / "one", ns=(1, 1))
    found = damaged(root, results)
    assert {path.parent.name: damage.why.rpartition("/")[2] for path, damage in found.items()} == {
        "a": "one is missing",
        "b": "two was changed",
        "c": "done is missing",
    }
    # Same bytes at another time: noted, so that they are not read again.
    assert read_list(list_of(root, root / "d" / "done"))["d/one"].mtime_ns == 1


def test_a_change_that_keeps_size_and_time_is_found_by_reading(root: Path) -> None:
    done = make(root / "a", one="1")
    before = os.stat(root / "a" / "one")
    (root / "a" / "one").write_text("2")
    os.utime(root / "a" / "one", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert damaged(root, [done]) == {}
    assert damaged(root, [done], verify=True) == {done: Damage("results/tiny/a/one was changed")}


def test_a_damaged_list_is_a_reason_to_make_its_result_again(root: Path) -> None:
    done = make(root / "a", one="1")
    path = list_of(root, done)
    path.write_bytes(path.read_bytes().replace(b'"size": 1', b'"size": 2', 1))
    assert list(damaged(root, [done])) == [done]


def test_files_that_are_kept_stay_in_the_list_even_after_a_kill(root: Path) -> None:
    with writing(root / "a" / "done", root / "a"):
        write_text(root / "a" / "one", "1")
        write_stamp(root / "a" / ".one.json", "key", [root / "a" / "one"])
        write_text(root / "a" / "done", "")
    with pytest.raises(KeyboardInterrupt), writing(root / "a" / "done", root / "a"):
        raise KeyboardInterrupt
    assert [damage.unfinished for damage in damaged(root, [root / "a" / "done"]).values()] == [True]
    list_of(root, root / "a" / "done").with_name(f"done.json{OPEN}").write_text("torn")
    with writing(root / "a" / "done", root / "a"):
        assert kept(root / "a" / ".one.json", "key") == {"one": sha256_file(root / "a" / "one")}
    assert sorted(read_list(list_of(root, root / "a" / "done"))) == ["a/.one.json", "a/one"]


def test_files_of_cases_that_are_no_more_are_removed_where_all_were_written_or_kept(root: Path) -> None:
    def predict(*cases: str, whole: bool = True) -> None:
        with writing(root / "a" / "done", root / "a", whole=whole):
            for case in cases:
                for name in (f"{case}.mhd", f"{case}.zraw", f".{case}.json"):
                    write_text(root / "a" / name, case)
            write_text(root / "a" / "done", "")

    predict("one", "two", "three.b")
    (root / "a" / "mine.txt").touch()
    predict("two", whole=False)
    assert (root / "a" / "one.mhd").exists()
    predict("two")
    found = sorted(p.name for p in (root / "a").iterdir() if p.name != ".writer.lock")
    assert found == [".two.json", "done", "mine.txt", "two.mhd", "two.zraw"]
    assert damaged(root, [root / "a" / "done"]) == {}


def make_plan(root: Path) -> Path:
    """A plan, as its job makes it."""
    plan = root / "cells/plan/unet.json"
    with writing(plan):
        write_text(plan, "{}")
    return plan


def test_what_is_to_be_made_again_is_asked_for_until_it_is_made(config: Config, root: Path) -> None:
    plan = make_plan(root)
    assert plan in made_by(config)
    assert clear(config) == []
    for damage in (plan.unlink, lambda: plan.write_text("changed")):
        damage()
        assert clear(config) == clear(config) == [plan]
        assert not plan.exists()
        make_plan(root)
        assert clear(config) == []


def test_looking_changes_nothing(config: Config, root: Path) -> None:
    plan = make_plan(root)
    plan.write_text("changed")
    assert list(look(config)) == list(look(config)) == [plan]
    assert plan.read_text() == "changed"


def test_a_job_that_did_not_end_is_run_again_and_nothing_is_said(
    config: Config, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(root)
    with pytest.raises(KeyboardInterrupt), writing(plan):
        raise KeyboardInterrupt
    capsys.readouterr()
    assert clear(config) == [plan]
    assert capsys.readouterr().err == ""


def test_results_behind_a_link_are_found(config: Config, root: Path, tmp_path: Path) -> None:
    shutil.move(root.parent, tmp_path / "scratch")
    root.parent.symlink_to(tmp_path / "scratch")
    draw_token(root)
    plan = make_plan(root)
    plan.unlink()
    assert clear(config) == [plan]


def test_results_of_another_configuration_are_not_looked_at(config: Config, root: Path) -> None:
    done = root / "cells/plan/gone.json"
    with writing(done):
        write_text(done, "{}")
    done.unlink()
    assert clear(config) == []


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("--cores 2", True),
        ("--cores=2 --keep-going --notemp --nolock", True),
        ("-j2 -k", True),
        ("-n", False),
        ("-np --cores 1", False),
        ("--dry-run", False),
        ("--dryrun", False),
        ("--lint", False),
        ("--unlock --cores 1", False),
        ("--touch --cores 1", False),
    ],
)
def test_which_commands_run_jobs(command: str, runs: bool) -> None:
    assert runs_jobs(command.split()) is runs


def test_a_dry_run_says_what_is_missing_and_changes_nothing(
    config: Config, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(root)
    plan.write_text("changed")
    monkeypatch.setattr(sys, "argv", ["snakemake", "-n"])
    held: list[IO[str]] = []
    monkeypatch.setattr(takeover, "_held", held)
    assert begin(config, {}) == [str(plan)]
    for file in held:
        file.close()
    assert "unet.json was changed: a run makes it again" in capsys.readouterr().err
    assert plan.read_text() == "changed"
    assert not (root / "config.json").exists()


def test_a_job_that_a_cluster_begins_too_late_ends_before_snakemake_removes_anything(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join()
    earlier = os.environ[VARIABLE]
    draw_token(root)
    monkeypatch.setenv(VARIABLE, earlier)
    with pytest.raises(SystemExit) as ended:
        join()
    assert ended.value.code == 2


def test_shards_are_written_beside_one_another_and_not_beside_the_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    first, second = Shard(0, 2), Shard(1, 2)
    with first.writing(first.record(root), root), second.writing(second.record(root), root):
        with pytest.raises(BusyError), first.writing(first.record(root), root):
            pass
        with pytest.raises(BusyError), writer_lock(root):
            pass
    with writer_lock(root), pytest.raises(BusyError), first.writing(first.record(root), root):
        pass


@pytest.fixture
def orphan(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A job of this run, which will be an earlier one, at work in ``a``."""
    job = subprocess.Popen([sys.executable, "-c", JOB, str(root / "a")], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "first\n"
    yield job
    job.kill()
    job.wait()
    job.stdout.close()


def test_a_job_that_outlived_its_workflow_is_stopped(
    root: Path, orphan: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    take_over(root)
    assert orphan.wait() == -signal.SIGTERM
    assert f"a/last: process {orphan.pid} of an earlier run still works on it" in capsys.readouterr().err
    make(root / "a")
    assert not sorted(root.rglob("*.tmp"))


def test_a_job_that_was_stopped_is_woken_to_end(root: Path, orphan: subprocess.Popen[str]) -> None:
    orphan.send_signal(signal.SIGSTOP)
    take_over(root)
    assert orphan.wait() == -signal.SIGTERM


def test_a_job_that_hangs_is_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "STOP_S", 0.2)
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{JOB}"
    with subprocess.Popen([sys.executable, "-c", deaf, str(root / "a")], stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        take_over(root)
        assert job.wait() == -signal.SIGKILL


def test_a_damaged_line_names_nobody(root: Path) -> None:
    path = list_of(root, root / "a" / "done")
    path.parent.mkdir(parents=True)
    path.with_name(path.name + OPEN).write_text('{"owner": {}}\n{"owner": 3}\n{"owner": {"medseg.pid": "x"}}\n{"ow')
    assert list(owners(root)) == []
    take_over(root)


def test_a_process_that_holds_the_token_and_hangs_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "WAIT_S", 0.1)
    with allowed(), pytest.raises(BusyError, match=r"fuser .*names the process"):
        draw_token(root)


def test_a_second_workflow_is_refused_in_the_folder_and_over_the_same_results(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from medseg.takeover import hold_folder; "
    script += "hold_folder(Path(sys.argv[1]), Path(sys.argv[2])); print(flush=True); sys.stdin.read()"
    held = [str(tmp_path / "one"), str(tmp_path / "results")]
    with subprocess.Popen(
        [sys.executable, "-c", script, *held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        for folder, results in (("one", "other"), ("two", "results")):
            with pytest.raises(BusyError, match=f"process {first.pid} .*already running a workflow here"):
                hold_folder(tmp_path / folder, tmp_path / results)
        first.kill()


def test_a_job_of_the_workflow_waits_where_a_command_by_hand_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    holding = writer_lock(root / "a")
    holding.__enter__()
    waiting = threading.Thread(target=make, args=(root / "a",))
    waiting.start()
    while "waiting for it" not in capsys.readouterr().err:
        time.sleep(0.01)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(BusyError, match="already writing here"), writer_lock(root / "a"):
        pass
    holding.__exit__(None, None, None)
    waiting.join()
    assert (root / "a" / "done").is_file()


def test_the_next_owner_removes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    left = [".model.json.4000123-0a1b2c.medseg.tmp", "case/.4000123-0a1b2c.medseg.tmp.image.b2nd"]
    kept_files = [
        f".model.json.{os.getpid()}-0a1b2c.medseg.tmp",
        ".report.42.tmp",
        ".7.tmp.notes",
        ".syncthing.scan.001.tmp",
        "model.tmp",
    ]
    for name in (*left, *kept_files):
        (tmp_path / name).touch()
    sweep(tmp_path, "other.json")
    assert (tmp_path / left[0]).exists()
    sweep(tmp_path, "model.json")
    assert not (tmp_path / left[0]).exists()
    with writer_lock(tmp_path):
        pass
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted([*kept_files, ".writer.lock"])
