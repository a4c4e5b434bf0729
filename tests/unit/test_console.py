"""The command line on any terminal: what it cannot print, outputs that are closed or full, Ctrl-C, wrong outputs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.explained import explain

MEDSEG = shlex.join([sys.executable, "-m", "medseg"])


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line of bash, with $MEDSEG; its outputs as bytes."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**os.environ, "MEDSEG": MEDSEG, **environment},
        capture_output=True,
        check=False,
    )


def no_words_of_python(text: bytes) -> bool:
    return not any(words in text for words in (b"Traceback", b"Exception ignored", b"Error:"))


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("$MEDSEG version > /dev/full", 2, b"/dev/stdout: no space left on this device; send the output elsewhere\n"),
        ("$MEDSEG models nonet 2> /dev/full", 2, b""),
        ("$MEDSEG version >&-", 0, b""),
        ("$MEDSEG models nonet 2>&-", 2, b""),
        ("$MEDSEG version <&- >&- 2>&-", 0, b""),
        ("$MEDSEG models 2>&1 >/dev/null | head -c 1", 0, b""),
    ],
)
def test_outputs_that_are_full_or_closed_end_quietly(command: str, status: int, said: bytes) -> None:
    done = shell(command)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize(("command", "stream"), [("version", "stdout"), ("--help", "stdout"), ("nonsense", "stderr")])
def test_an_output_whose_reader_is_gone_ends_quietly(command: str, stream: str) -> None:
    """As of `medseg leaderboard … | head`, which Python reports as an error of its own."""
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    done = subprocess.run([sys.executable, "-m", "medseg", command], check=False, **streams)
    os.close(writer)
    assert not done.stdout
    assert not done.stderr
    assert done.returncode == (141 if command == "version" else done.returncode)


def test_a_closed_output_is_given_to_no_file(tmp_path: Path) -> None:
    code = "from medseg.console import open_console; open_console(); f = open('x', 'wb'); print(f.fileno(), flush=True)"
    done = shell(f"cd {shlex.quote(str(tmp_path))}; {shlex.quote(sys.executable)} -c {shlex.quote(code)} >&- 2>&- <&-")
    assert done.returncode == 0
    assert (tmp_path / "x").read_bytes() == b""


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_that_has_ascii_alone_gets_plainer_signs(environment: dict[str, str]) -> None:
    code = (
        "from medseg.console import open_console; open_console()\n"
        "import sys; from medseg.progress import say\n"
        "print('\\u2588 \\u00b7 \\u2013 \\u00b5m gr\\u00f6\\u00dfe'); say('\\u2591 \\u809d')"
    )
    done = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", PYTHONCOERCECLOCALE="0", **environment)
    assert done.stdout == b"# - - um gr\\xf6\\xdfe\n"
    assert done.stderr == b". \\u809d\n"


def test_control_characters_are_printed_as_escapes_whoever_prints() -> None:
    code = (
        "from medseg.console import open_console; open_console()\n"
        "import sys, warnings; print('a\\x1b[2Jb\\rc\\x9b'); warnings.warn('\\x07')\n"
        "sys.stderr.write('\\u202e\\udc9b\\n')"
    )
    done = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")
    assert done.stdout == rb"a\x1b[2Jb\rc\x9b" + b"\n"
    assert rb"UserWarning: \x07" in done.stderr
    assert done.stderr.endswith(rb"\u202e\udc9b" + b"\n")


def test_an_argument_with_a_control_character_is_refused() -> None:
    done = shell(r"""$MEDSEG models $'a\nall is well\x1b[2J'""")
    assert done.returncode == 2
    assert done.stderr == (
        rb"'a\nall is well\x1b[2J': an argument with a control character; rename what is called so" + b"\n"
    )


def test_errors_keep_their_own_lines_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"experiment": "e", "a\\nall is well": 1, "\\u001b[2J": 2}')
    done = shell(f"$MEDSEG ingest --config {shlex.quote(str(tmp_path / 'c.json'))} --dataset d --check")
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert sum("unknown key" in line for line in lines) == 2
    assert not any(line.startswith("all is well") for line in lines)
    assert no_words_of_python(done.stderr)
    assert b"\x1b" not in done.stderr


SLOW_IMPORT = """
import builtins, sys, time
real = builtins.__import__
def slow(name, *rest, **options):
    if name == "medseg.cli.commands":
        print("ready", flush=True)
        time.sleep(60)
    return real(name, *rest, **options)
builtins.__import__ = slow
"""
SLOW_COMMAND = """
import sys, time
import medseg.cli.tables
def wait() -> None:
    print("ready", flush=True)
    time.sleep(60)
medseg.cli.tables.version = wait
"""


@pytest.mark.parametrize("moment", [SLOW_IMPORT, SLOW_COMMAND], ids=["while it starts", "in the command"])
def test_ctrl_c_is_one_line_and_exit_130(moment: str) -> None:
    code = f"{moment}\nimport medseg.cli; sys.argv[1:] = ['version']; medseg.cli.main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"stopped by Ctrl-C; run the same command again to resume\n")


def commands() -> list[tuple[str, ...]]:
    """All commands that have `--out`."""
    found: list[tuple[str, ...]] = []

    def look(group: Any, names: tuple[str, ...]) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                look(command, (*names, name))
            elif any("--out" in option.opts for option in command.params):
                found.append((*names, name))

    look(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("command", commands(), ids="-".join)
def test_every_output_of_the_wrong_kind_is_refused_before_the_work(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_text("kept")
    (tmp_path / "file").write_text("kept")

    def refused(out: str) -> bool:
        result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / out)])
        text = explain(result.exception) if result.exception is not None else None
        return text is not None and "is needed there" in text

    assert refused("file/x/y"), "a part of the path is a file"
    assert not refused("new/x")
    # One that writes a folder takes no file, one that writes a file no folder.
    assert refused("file") != refused("folder")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inner").read_text() == "kept"


def test_a_wrong_output_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = shell(f"cd {shlex.quote(str(tmp_path))}; $MEDSEG compare scores.parquet -o file")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "file: is a file, and a folder is needed there; move it or give another path, then run the same command again: "
        "it resumes\n"
    )


@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_where_an_error_of_the_system_comes_from(debug: bool, tmp_path: Path) -> None:
    done = shell(f"cd {shlex.quote(str(tmp_path))}; touch file; $MEDSEG compare x -o file {'--debug' * debug}")
    assert (b"Traceback" in done.stderr) == debug
    assert (done.returncode == 2) != debug


def test_an_end_with_a_text_prints_it_and_is_an_error() -> None:
    code = "import medseg.cli.commands as c; c.app = lambda: exit({}); from medseg.cli import main; main()"
    for end, status, text in (("'why'", 1, b"why\n"), ("3", 3, b""), ("None", 0, b""), ("0", 0, b"")):
        done = subprocess.run([sys.executable, "-c", code.format(end)], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (status, text)


def test_an_output_in_a_place_without_folders_is_one_line_and_exit_2() -> None:
    done = shell("$MEDSEG compare scores.parquet -o /proc/nope")
    assert done.returncode == 2
    assert done.stderr == b"/proc/nope: no folder can be made in /proc; choose another place\n"


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    code = (
        "import sys, medseg.cli.tables as t; from medseg.cli.commands import app; import medseg.cli as c\n"
        "import medseg.networks as n; n.NETWORKS = None; sys.argv[1:] = ['models']; c.main()"
    )
    done = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert b"AttributeError: 'NoneType' object has no attribute 'items'" in done.stderr
