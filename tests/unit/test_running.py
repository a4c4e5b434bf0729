"""`medseg run` and `medseg demo` become `snakemake` on the workflow that comes with the package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from medseg import as_module, takeover
from medseg.cli import main, running
from medseg.errors import MedsegError
from medseg.machine import processors

ROOT = Path(__file__).resolve().parents[2]


class BecomeError(Exception):
    """Stands for the end of this process' program."""


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """In an empty folder; the command line that the process would become."""
    command: list[str] = []

    def execv(program: str, arguments: list[str]) -> None:
        assert program == sys.executable == arguments[0]
        command.extend(arguments[1:])
        raise BecomeError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", execv)
    return command


def started(become: list[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """What a command line of ours becomes, without what all begin with and without the profile."""
    monkeypatch.setattr(sys, "argv", ["medseg", *arguments])
    with pytest.raises(BecomeError):
        main()
    assert become[:4] == ["-P", "-m", "snakemake", "--configfile"]
    assert become[5:7] == ["--snakefile", str(ROOT / "Snakefile")]
    assert become[7:9] == ["--workflow-profile", str(ROOT / "profiles/default")]
    return [become[4], *become[9:]]


@pytest.mark.parametrize(
    ("options", "cores"),
    [
        ([], True),
        (["-n"], True),
        (["--config", "budget={steps: 8}", "experiment=x"], True),
        (["results/x/report/index.html"], True),
        (["--help"], True),
        (["--debug"], True),
        (["--cores", "1"], False),
        (["--cores=1"], False),
        (["--core", "1"], False),
        (["-c1"], False),
        (["-j", "4"], False),
        (["--jobs", "4"], False),
        (["--workflow-profile", "slurm"], False),
        (["--executor", "slurm", "--jobs", "9"], False),
        (["--", "target"], True),
    ],
)
def test_options_are_handed_on_and_cores_are_all_unless_said(
    options: list[str], cores: bool, become: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my.yaml").write_text("experiment: x\n")
    added = ["--cores", str(processors())] if cores else []
    assert started(become, monkeypatch, "run", "my.yaml", *options) == ["my.yaml", *added, *options]


def test_a_profile_of_the_users_own_folder_comes_before_ours(become: list[str]) -> None:
    Path("profiles/default").mkdir(parents=True)
    assert "--workflow-profile" not in running.snakemake_command(Path("my.yaml"), [])


def test_the_demonstration_leaves_its_configuration_and_keeps_one_that_is_there(
    become: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started(become, monkeypatch, "demo", "-n")[0] == "demo.yaml"
    assert Path("demo.yaml").read_bytes() == (ROOT / "config/config.yaml").read_bytes()
    Path("demo.yaml").write_text("experiment: changed\n")
    become.clear()
    started(become, monkeypatch, "demo")
    assert Path("demo.yaml").read_text() == "experiment: changed\n"


@pytest.mark.parametrize(("argument", "words"), [("no.yaml", "medseg new"), ("-n", "medseg run my.yaml -n")])
def test_a_configuration_that_is_not_there_is_a_users_error(
    argument: str, words: str, become: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["medseg", "run", argument])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not become


def test_an_installed_package_has_its_workflow_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "medseg"
    (package / "_workflow").mkdir(parents=True)
    monkeypatch.setattr(running, "PACKAGE", package)
    with pytest.raises(MedsegError, match="without its workflow"):
        running.workflow_folder()
    (package / "_workflow/Snakefile").touch()
    assert running.workflow_folder() == package / "_workflow"


def test_who_holds_a_folder_is_named_by_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/bin/snakemake", "/lib/snakemake/__main__.py"):
        monkeypatch.setattr(sys, "argv", [program, "--cores", "2"])
        assert takeover._command() == "snakemake --cores 2"


CONFIG: dict[str, Any] = {"experiment": "x", "datasets": {"d": {"path": "d"}}, "budget": {"steps": 100, "memory_gb": 2}}


def test_a_module_has_the_configuration_that_is_handed_to_it() -> None:
    assert as_module.handed_config(CONFIG, {}).budget.steps == 100
    # Snakemake merges what the command line says, whose inner numbers it leaves as text.
    merged = {**CONFIG, "budget": {"steps": "8", "memory_gb": 2}, "verify": True}
    config = as_module.handed_config(merged, {"budget": {"steps": "8"}, "verify": True})
    assert (config.budget.steps, config.budget.memory_gb) == (8, 2)
    # A Snakefile that hands on a part of its own.
    assert as_module.handed_config(CONFIG, {"samples": "a.tsv"}).experiment == "x"


def test_a_bad_configuration_of_a_module_is_a_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        as_module.handed_config({**CONFIG, "modells": {}}, {})
    assert ended.value.code == 2
    assert "modells" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["*", "seg_*", "*_of_cells", "a_*_b"])
def test_rules_that_are_renamed_are_known(pattern: str) -> None:
    own = as_module.own_names(lambda name: pattern.replace("*", name))
    assert own(pattern.replace("*", "predict_shard")) == "predict_shard"


def test_paths_of_a_module_stay_where_our_commands_look() -> None:
    as_module.require_plain_paths(lambda path: path)
    with pytest.raises(SystemExit):
        as_module.require_plain_paths(lambda path: f"seg/{path}")


def test_handlers_of_a_module_follow_those_of_the_main_file() -> None:
    class Workflow:
        calls: ClassVar[list[str]] = []

        def _onstart(self, log: str) -> None:
            self.calls.append(f"theirs {log}")

        _onsuccess = _onerror = _onstart

    workflow = Workflow()
    as_module.hand_on(workflow, *(lambda log, n=name: Workflow.calls.append(f"{n} {log}") for name in "abc"))
    workflow._onerror("file")
    assert Workflow.calls == ["theirs file", "c file"]
    with pytest.raises(AttributeError):
        as_module.hand_on(object(), print, print, print)
