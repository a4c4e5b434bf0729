"""Damage files, read them in a child process with bounded memory, and count what must never happen.

    python -m tests.fuzz.fuzz --number 10000 --formats .nii .png --seed 0

Every file is a function of (seed, suffix, number). A crash is a signal, a hang takes more than SECONDS for one file, a
foreign error is anything but FormatError, a nameless one does not begin with the file's name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.specimens import SPECIMENS

SECONDS = 5.0
MEMORY = 2 << 30
ROOT = Path(__file__).parents[2]


@dataclass
class Tally:
    """What became of the files of one format."""

    refused: int = 0
    accepted: int = 0
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.refused + self.accepted} files: {self.refused} refused, {self.accepted} read, {len(self.bad)} bad"
        )


def case(seed: int, suffix: str, number: int) -> dict[str, bytes]:
    """The damaged files of one number; the first is the one that is read."""
    rng = random.Random(f"{seed} {suffix} {number}")
    return mutated(rng, suffix, rng.choice(SPECIMENS[suffix]()))


def outcome(suffix: str, files: dict[str, bytes], folder: Path) -> str:
    """``refused``, ``accepted``, or what is wrong with the way it was refused, in memory or on disk."""
    path = folder / f"case{suffix}"
    if path.is_dir():
        shutil.rmtree(path)  # of another one, there may be other files in it
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    outcomes = [opened(path, in_memory) for in_memory in (True, False)]
    return next((word for word in outcomes if word not in ("refused", "accepted")), outcomes[0])


def opened(path: Path, in_memory: bool) -> str:
    """What became of one file, whose bytes were read beforehand, or stay on disk until they are used."""
    from medseg.formats.drawn import drawn, is_drawn
    from medseg.formats.errors import FormatError
    from medseg.formats.read import open_content, open_image, read_content
    from tests.dicom_contours import GRID

    try:
        source = open_image(path, read_content(path) if in_memory else open_content(path))
        assert source.geometry
    except FormatError as error:
        return "refused" if str(error).startswith(f"{path}: ") else f"nameless: {error}"
    except BaseException as error:  # noqa: BLE001  # the very thing that is counted
        return f"foreign {type(error).__name__}: {error}"

    def label() -> object:
        return drawn(source, GRID, {}).labels()

    for use in (source.image, label if is_drawn(source) else source.labels):
        try:
            use()
        except FormatError:
            continue
        except BaseException as error:  # noqa: BLE001
            return f"foreign {type(error).__name__} in {use.__name__}: {error}"
    return "accepted"


def child(seed: int, suffix: str, first: int, end: int) -> None:
    """Read files one by one and tell the parent of each, before and after."""
    with tempfile.TemporaryDirectory() as folder:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in range(first, end):
            files = case(seed, suffix, number)
            print(json.dumps([number, "begun"]), flush=True)
            print(json.dumps([number, outcome(suffix, files, Path(folder))]), flush=True)


def run(suffix: str, number: int, seed: int) -> Tally:
    """Read ``number`` damaged files; after a crash or hang the next child goes on behind it."""
    python = [sys.executable, "-W", "error", "-m", "tests.fuzz.fuzz", "--seed", str(seed)]
    tally, at = Tally(), 0
    while at < number:
        command = [*python, "--child", suffix, str(at), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            at, ended = watch(process, tally, at)
        if at < number and not ended:
            tally.bad.append(f"{suffix} {at}: exit {process.returncode}")
            at += 1
    return tally


def watch(process: subprocess.Popen[bytes], tally: Tally, at: int) -> tuple[int, bool]:
    """Follow a child to its end; returns the number it was at, and whether it was told why it ended."""
    assert process.stdout is not None
    rest, patience = b"", 120.0  # importing comes first
    stream = selectors.DefaultSelector()
    stream.register(process.stdout, selectors.EVENT_READ)
    while True:
        if not stream.select(patience):
            process.kill()
            tally.bad.append(f"number {at}: hang")
            return at + 1, True
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece:
            process.wait()
            return at, False
        *lines, rest = (rest + piece).split(b"\n")
        for told in lines:
            number, word = json.loads(told)
            if word == "begun":
                at, patience = number, SECONDS
                continue
            at = number + 1
            tally.refused += word == "refused"
            tally.accepted += word == "accepted"
            if word not in ("refused", "accepted"):
                tally.bad.append(f"number {number}: {word}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="damage files and count what must never happen")
    parser.add_argument("--number", type=int, default=10_000, help="files per format")
    parser.add_argument("--formats", nargs="*", default=None, help="suffixes; none: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, metavar=("SUFFIX", "FIRST", "END"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        suffix, first, end = options.child
        child(options.seed, suffix, int(first), int(end))
        return 0
    bad = 0
    for suffix in options.formats or SPECIMENS:
        tally = run(suffix, options.number, options.seed)
        bad += len(tally.bad)
        print(f"{suffix:9} {tally}", *tally.bad[:20], sep="\n    ", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
