"""``python -m tests.workflow.torture``: N episodes, a line of JSON for each, and a table of all."""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.workflow.torture.faults import FAULTS
from tests.workflow.torture.lab import Lab
from tests.workflow.torture.scene import Scene

_printing = threading.Lock()


def fault_of(number: int, seed: int, names: list[str]) -> str:
    """The fault of an episode: all faults come round once before any comes again, in an order that the seed draws."""
    turn, place = divmod(number, len(names))
    order = list(names)
    random.Random(f"{seed} {turn}").shuffle(order)
    return order[place]


def episode(lab: Lab, scratch: Path, seed: int, number: int, fault: str, *, keep: bool = False) -> dict[str, Any]:
    """Play one episode.

    Args:
        lab: undisturbed studies.
        scratch: where the rough study may lie.
        seed, number, fault: decide everything that is drawn.
        keep: leave the study of an episode with problems.

    Returns:
        The line of the log.
    """
    begun = time.monotonic()
    scene = Scene(lab, scratch / f"episode-{number}", random.Random(f"{seed} {number} {fault}"))
    try:
        FAULTS[fault](scene)
    except Exception as error:  # noqa: BLE001 (recorded as the episode's problem; the others go on)
        scene.problems.append(f"the harness itself: {error!r}")
    scene.close(keep=keep and bool(scene.problems))
    return {
        "number": number,
        "fault": fault,
        "outcome": "failed" if scene.problems else "equal",
        "seconds": round(time.monotonic() - begun, 1),
        "missed": scene.missed,
        "problems": scene.problems,
        "story": scene.story,
        "replay": f"python -m tests.workflow.torture --seed {seed} --only {number} --fault {shlex.quote(fault)}",
    }


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """What became of all episodes, by fault."""
    rows = [f"{'fault':<36}{'episodes':>9}{'equal':>7}{'failed':>7}{'missed':>7}{'seconds':>9}"]
    lines = list(lines)
    for fault in [*sorted({line["fault"] for line in lines}), None]:
        mine = [line for line in lines if fault in (line["fault"], None)]
        equal = sum(line["outcome"] == "equal" for line in mine)
        missed, seconds = (sum(line[key] for line in mine) for key in ("missed", "seconds"))
        rows.append(
            f"{fault or 'all':<36}{len(mine):>9}{equal:>7}{len(mine) - equal:>7}{missed:>7}{seconds / len(mine):>9.0f}"
        )
    return "\n".join(rows)


def main() -> None:
    """Play the episodes that the command line asks for; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.workflow.torture", description=__doc__)
    parser.add_argument("--number", type=int, default=10, help="episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, action="append", help="play this episode alone (may be repeated)")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="only this fault (may be repeated)")
    parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="episodes at a time")
    parser.add_argument("--patience", type=float, default=1.0, help="times longer than on a quiet machine to wait")
    parser.add_argument("--scratch", type=Path, help="folder that keeps undisturbed studies for the next time")
    parser.add_argument("--log", type=Path, help="file that gets a line of JSON per episode")
    parser.add_argument("--keep", action="store_true", help="leave the studies of episodes that failed, in --scratch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medseg-torture-") as temporary:
        scratch = (options.scratch or Path(temporary)).resolve()
        lab = Lab(scratch, patience=options.patience)
        begun = time.monotonic()
        lab.climb()
        print(f"undisturbed studies: {time.monotonic() - begun:.0f} s", flush=True)
        names = options.fault or list(FAULTS)

        def play(number: int) -> dict[str, Any]:
            fault = fault_of(number, options.seed, names)
            line = episode(lab, scratch / "rough", options.seed, number, fault, keep=options.keep)
            with _printing:
                report(line, options.log)
            return line

        with ThreadPoolExecutor(options.beside) as pool:
            lines = list(pool.map(play, options.only or range(options.number)))
    print(table(lines))
    print(f"{time.monotonic() - begun:.0f} s in all")
    sys.exit(any(line["problems"] for line in lines))


def report(line: Mapping[str, Any], log: Path | None) -> None:
    """Print an episode, and keep it."""
    print(f"{line['number']:>4} {line['fault']:<36}{line['outcome']:<8}{line['seconds']:>6.0f} s", flush=True)
    for problem in line["problems"]:
        print(f"       {problem}")
    if line["problems"]:
        print("       " + "\n       ".join(line["story"]) + f"\n       {line['replay']}", flush=True)
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
