"""The n-th call that writes fails, for each n: exit 2, one line, nothing lost, and the same bits by the same command.

So SQLite is tested (https://sqlite.org/testing.html, 3.3); the errors take turns.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medseg.cli import main
from medseg.workflow import write_config
from tests.choices import few
from tests.disks import ERRORS, FailingDisk, failing

SAID = {
    errno.ENOSPC: "no space left",
    errno.EIO: "input/output error",
    errno.EDQUOT: "disk quota",
    errno.EROFS: "is read-only",
    errno.EFBIG: "larger than",
    errno.EACCES: "no permission",
    errno.ENAMETOOLONG: "too long",
}


class Runner:
    """Runs commands of one study in this process; what they write goes to a folder of its own."""

    def __init__(self, study: Any, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capsys = patch, capsys
        self.folder, self.out, config = folder, folder / "out", folder / "config.json"
        fixed = study.config.models["unet"].plan.model_copy(update={"strides": [[1, 1], [2, 2], [2, 2]]})
        models = {"unet": study.config.models["unet"].model_copy(update={"plan": fixed})}
        write_config(study.config.model_copy(update={"models": models}), config)
        scores, out = folder / "scores.parquet", self.out
        of = {
            "config": config,
            "manifest": study.manifest("flat"),
            "splits": study.splits("flat"),
            "fingerprint": study.fingerprint("flat"),
            "index": study.index("flat"),
            "predictions": study.predictions("flat"),
        }
        model, state = study.model("flat"), out / "state"
        training = ("--plan", study.plan("flat"), "--seed", 0, "--state", state, "--out", out / "model")
        commands: dict[str, tuple[list[str], tuple[Any, ...]]] = {
            "ingest": (["config"], ("--dataset", "flat", "--workers", 1, "--out", out)),
            "fingerprint": (["config", "manifest"], ("--out", out / "fingerprint.json")),
            "plan": (["config", "fingerprint"], ("--model", "unet", "--out", out / "plan.json")),
            "preprocess": (["config", "manifest", "fingerprint"], ("--model", "unet", "--code", "code", "--out", out)),
            "train": (["manifest", "index", "splits"], ("--fold", 0, "--code", "code", *training)),
            "predict": (["config", "manifest", "splits"], ("--fold", 0, "--model", model, "--code", "c", "--out", out)),
            "postprocess": (["config", "manifest", "predictions"], ("--code", "code", "--out", out)),
            "evaluate": (["config", "manifest", "predictions"], ("--out", out / "scores.parquet")),
            "compare": ([], (scores, "--out", out)),
        }
        self.commands = {
            stage: [stage, *(word for name in names for word in (f"--{name}", str(of[name]))), *map(str, rest)]
            for stage, (names, rest) in commands.items()
        }
        if not scores.exists():
            self.run("evaluate")
            (out / "scores.parquet").rename(scores)
            self.clear()

    def clear(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.out, ignore_errors=True)

    def run(self, stage: str, disk: FailingDisk | None = None) -> tuple[int, str]:
        """Exit status of a stage and what it said."""
        self._patch.setattr(sys, "argv", ["medseg", *self.commands[stage]])
        try:
            if disk is None:
                main()
            else:
                with failing(self._patch, disk):
                    main()
        except SystemExit as end:
            return int(end.code or 0), self._capsys.readouterr().err
        raise AssertionError("main ends with a status")

    def bits(self) -> dict[str, str]:
        """SHA-256 of all visible files that were written.

        Left out: the state of unfinished trainings, and what was recorded of code and machine beside the weights.
        """
        visible = [p for p in self.out.rglob("*") if p.is_file() and not p.name.startswith(".")]
        files = [p for p in visible if self.out / "state" not in p.parents and p.name != "model.json"]
        return {str(p.relative_to(self.out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


@pytest.fixture
def runner(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Runner]:
    monkeypatch.chdir(tmp_path)
    yield Runner(study, tmp_path, monkeypatch, capsys)


def every(last: int) -> Iterator[int]:
    """1, 2, 3, …"""
    yield from range(1, last + 1)


def some(last: int) -> Iterator[int]:
    """An early one, one in the middle, the last."""
    yield from sorted({2, last // 2, last})


STAGES = ("ingest", "fingerprint", "plan", "preprocess", "train", "predict", "postprocess", "evaluate", "compare")


@pytest.mark.parametrize(
    ("stage", "calls"),
    few([(stage, calls) for stage in STAGES for calls in (some, every)], lambda stage, calls: calls is some),
)
def test_a_disk_that_fails_at_any_call(stage: str, calls: Callable[[int], Iterator[int]], runner: Runner) -> None:
    undisturbed = []
    for _ in range(2):
        runner.clear()
        disk = FailingDisk(runner.out, sys.maxsize, errno.EIO)
        assert runner.run(stage, disk)[0] == 0
        undisturbed.append(runner.bits())
    # All but times.
    expected = dict(undisturbed[0].items() & undisturbed[1].items())
    assert expected
    for at in calls(len(disk.calls)):
        runner.clear()
        number = ERRORS[at % len(ERRORS)]
        failed = FailingDisk(runner.out, at, number)
        status, said = runner.run(stage, failed)
        assert failed.failed, f"no call {at}: {failed.calls}"
        assert status == 2, said
        *before, last = said.splitlines()
        assert last.startswith(("out", "this folder")), said
        assert SAID[number] in last, said
        assert not any(SAID[number] in line or line.startswith(" ") for line in before), said
        assert not [path for path in runner.out.rglob("*.tmp*") if path.is_file()], failed.calls
        assert runner.run(stage)[0] == 0
        found = runner.bits()
        assert {name: found.get(name) for name in expected} == expected, failed.calls[-3:]
        assert found.keys() == undisturbed[0].keys()
