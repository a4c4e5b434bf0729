"""Examples of the docs are true: configurations are accepted, command lines are commands with these options.

Every block of YAML in the pages is read, strictly, as a configuration or as that part of one which its keys are;
networks are built with what is frozen of them. Every line of a block that calls one of our programs is parsed by that
program, and so is `medseg ...` between backticks as far as it is written out. What only illustrates is listed here.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import snakemake.cli
import typer.main

from medseg.cli.commands import app
from medseg.config import Config, DatasetConfig, ModelConfig
from medseg.places import check_places
from medseg.settings import read_settings
from tests.plans import tiny_plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md", "benchmarks/README.md")]
# The notebook tells of experiments with what there was at their time.
PAGES += sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "notebook.md")
FENCED = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`((?:medseg|snakemake) [^`\n]+)`")

# In a block of YAML: text that stands for what the reader has -> what is read in its place.
STANDS_FOR = {"9f86…": "9f86" * 16}
# Beginnings of command lines that no program would take: they name a family of commands, or leave out what differs.
ILLUSTRATIVE = ("medseg <stage>", "medseg …", "medseg ...", "medseg.")
# Programs of the reader's machine or of other pages, in blocks of commands.
OTHERS = ("pip", "conda", "python", "make", "git", "snakedeploy", "docker", "torchrun", "cd", "for", "unzip")
OTHERS += ("tmux", "apptainer", ".", "curl")


def blocks(kind: str) -> list[Any]:
    """All blocks of a kind, each named by its page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in FENCED.finditer(text):
            if block["kind"] == kind:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(textwrap.dedent(block["text"]), id=f"{page.name}:{line}"))
    return found


def placed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration around a part of one: sections, data sets, models, or keys of one of these."""
    keys = value.keys()
    if keys <= Config.model_fields.keys():
        whole = dict(value)
    elif keys <= DatasetConfig.model_fields.keys():
        whole = {"datasets": {"d": dict(value)}}
    elif keys <= ModelConfig.model_fields.keys():
        whole = {"models": {"base": {"network": "unet"}, "m": {"network": "unet", "start": "base", **value}}}
    elif all(inner.keys() <= DatasetConfig.model_fields.keys() for inner in value.values()):
        whole = {"datasets": dict(value)}
    else:
        whole = {"models": dict(value)}
    datasets = whole.get("datasets") or {"d": {}}
    whole["datasets"] = {name: {"path": name, **section} for name, section in datasets.items()}
    return {"budget": {"steps": 1}, **whole}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_a_configuration(text: str, tmp_path: Path) -> None:
    for shown, meant in STANDS_FOR.items():
        text = text.replace(shown, meant)
    file = tmp_path / "example.yaml"
    file.write_text(text)
    config = Config.model_validate(placed(read_settings(file)))
    check_places(config)
    for model in config.models.values():
        if model.freeze:
            from medseg.engine.build import build_network

            plan = tiny_plan(model.network, options=model.network_options, freeze=tuple(model.freeze))
            assert any(not parameter.requires_grad for parameter in build_network(plan).parameters())


def commands() -> list[Any]:
    """Lines of blocks that call a program, continued ones joined, without prompts."""
    found = []
    for kind in ("", "bash", "console", "sh"):
        for block in blocks(kind):
            lines = block.values[0].replace("\\\n", " ").splitlines()
            found += [
                pytest.param(line.strip(), id=f"{block.id}+{number}")
                for number, line in enumerate(lines, start=1)
                if line.strip().startswith(("medseg ", "snakemake "))
            ]
    return found


def words(line: str) -> list[str]:
    """The words of a command line; what is optional in it, [--so], is given; three dots are nothing."""
    plain = re.sub(r"\[(--?\w[^\]]*)\]", r"\1", line)
    return [word for word in shlex.split(plain, comments=True) if word not in ("...", "…")]


def ours(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that the arguments name, and those that are left for it."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments and arguments[0] in command.commands, f"no command {' '.join(arguments[:1])}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@pytest.mark.parametrize("line", commands())
def test_a_command_line_is_taken_by_its_program(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths need not be there, and no profile is found.
    monkeypatch.chdir(tmp_path)
    program, *arguments = words(line.replace("NAME", "name"))
    arguments = ["2" if word == "N" else word for word in arguments]
    if program == "snakemake":
        snakemake.cli.parse_args([word for word in arguments if not word.startswith("profiles/")])
    else:
        command, left = ours(arguments)
        command.make_context(command.name, left)


def quoted() -> Iterator[Any]:
    """Commands between backticks in the text of pages, blocks left out."""
    for page in PAGES:
        text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), page.read_text())
        for found in QUOTED.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield pytest.param(found[1], id=f"{page.name}:{line}:{found[1][:30]}")


@pytest.mark.parametrize("text", quoted())
def test_a_command_in_the_text_has_these_options(text: str) -> None:
    if text.startswith(ILLUSTRATIVE):
        return
    program, *arguments = words(text)
    given = {word.partition("=")[0] for word in arguments if word.startswith("-") and len(word) > 1}
    if text == "medseg --help":
        return
    if program == "snakemake":
        known = set(snakemake.cli.get_argument_parser()._option_string_actions)
    else:
        command, _ = ours(arguments)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if command.name in ("run", "demo"):
            known |= set(snakemake.cli.get_argument_parser()._option_string_actions)
    assert given <= known | {"--debug", "--help"}, f"{text}: no options {sorted(given - known)}"


@pytest.mark.parametrize("text", [*blocks(""), *blocks("bash")])
def test_blocks_of_commands_hold_no_programs_that_nobody_looked_at(text: str) -> None:
    first = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith((" ", "#"))]
    programs = [word for word in first if re.fullmatch(r"[a-z]+", word)]
    if any(word in (*OTHERS, "medseg", "snakemake") for word in programs):
        strange = set(programs) - {*OTHERS, "medseg", "snakemake"}
        assert not strange, strange
