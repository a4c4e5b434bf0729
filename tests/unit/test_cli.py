"""The command line: user errors are one text, exit code 2, no traceback; everything the design names is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medseg.cli import main
from medseg.ingest.phantoms import generate

COMMANDS = (
    "models",
    "ingest",
    "plan",
    "preprocess",
    "train",
    "predict",
    "postprocess",
    "evaluate",
    "compare",
    "test",
    "report",
)


def medseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medseg", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``here(*arguments)``: exit status and words of a command that is run in this process, which has torch already."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["medseg", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), "".join(capfd.readouterr())

    return run


def test_help_names_every_command() -> None:
    shown = medseg("--help").stdout
    assert all(f"\n  {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("debug", [False, True])
def test_user_error_is_a_message_and_exit_code_2(tmp_path: Path, debug: bool) -> None:
    missing = str(tmp_path / "no.yaml")
    done = medseg("ingest", "--config", missing, "--dataset", "x", "--check", *(["--debug"] if debug else []))
    assert f"{missing}: no such configuration file" in done.stdout
    assert ("Traceback" in done.stdout) == debug
    assert (done.returncode == 2) != debug


def test_unknown_data_set_is_told_what_there_is(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "experiment: e\ndatasets: {cells: {layout: pairs, path: cells}}\n"
        "models: {unet: {network: unet}}\nbudget: {steps: 1}\n"
    )
    done = medseg("ingest", "--config", str(config), "--dataset", "cell", "--check")
    assert done.returncode == 2
    assert "cells" in done.stdout
    assert "Traceback" not in done.stdout


def test_plan_of_unknown_model_is_told_what_there_is(here: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "experiment: e\ndatasets: {cells: {layout: pairs, path: cells}}\n"
        "models: {unet: {network: unet}}\nbudget: {steps: 1}\n"
    )
    code, said = here("plan", "--config", str(config), "--model", "unett", "--fingerprint", "f.json", "--out", "p.json")
    assert code == 2
    assert "unet" in said.replace("unett", "")
    assert "Traceback" not in said


def test_plan_explains_itself_with_and_without_writing(
    here: Callable[..., tuple[int, str]], study: Any, tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "experiment: e\ndatasets: {flat: {layout: pairs, path: flat}}\n"
        "models: {unet: {network: unet}}\nbudget: {steps: 1}\ndevice: cpu\n"
    )
    given = ("--config", str(config), "--model", "unet", "--fingerprint", str(study.fingerprint("flat")))
    code, shown = here("plan", *given, "--explain")
    assert code == 0
    assert "a picture (unit px)" in shown
    assert "median of 4 cases" in shown
    assert "GB for a training step" in shown
    out = tmp_path / "plan.json"
    assert here("plan", *given, "--out", str(out))[0] == 0
    code, again = here("plan", "--explain", "--plan", str(out))
    assert code == 0
    assert again.strip() in shown
    assert here("plan", *given)[0] == 2, "neither a place to write to nor --explain"


@pytest.mark.parametrize("options", [(), ("--model", "unet", "--grid", "default")])
def test_preprocess_takes_a_model_or_a_grid(
    options: tuple[str, ...], here: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    files = ("--config", "c.yaml", "--manifest", "m.tsv", "--fingerprint", "f.json", "--out", str(tmp_path))
    code, said = here("preprocess", *files, *options)
    assert code == 2
    assert "give either --model or --grid" in " ".join(said.replace("│", " ").split())


def test_networks_and_their_options_can_be_looked_up() -> None:
    from medseg.networks import NETWORKS

    table = medseg("models").stdout.splitlines()
    assert [line.split()[0] for line in table] == list(NETWORKS)
    shown = medseg("models", "unet").stdout
    assert "deep_supervision (default false): " in shown
    unknown = medseg("models", "nonet")
    assert unknown.returncode == 2
    assert "no network 'nonet'; there are: unet, " in unknown.stdout


def test_a_check_needs_no_budget(tmp_path: Path) -> None:
    """Nothing is trained, so nobody is asked how long; a stage that writes for later ones asks."""
    generate("cells", 4, 0, tmp_path / "cells")
    config = tmp_path / "c.yaml"
    labels = "{path: cells, labels: {cell: 1}, instances: true, subject: case}"
    config.write_text(f"data_root: {tmp_path}\ndatasets:\n  cells: {labels}\nfolds: {{count: 2}}\n")
    done = medseg("ingest", "--config", str(config), "--dataset", "cells", "--check")
    assert done.returncode == 0, done.stdout
    assert "4 cases of 4 subjects" in done.stdout
    done = medseg("ingest", "--config", str(config), "--dataset", "cells", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "budget" in done.stdout
