"""Damage to what a study has left on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.workflow.torture.scene import Scene

# Kinds of outputs, each as likely as the others, whatever its number of files.
KINDS = (
    "*/ingest/*", "*/plan/*", "*/preprocess/*/index.json", "*/preprocess/*/*.case", "*/train/*/*/model.safetensors",
    "*/train/*/*/model.json", "*/train/*/*/history.jsonl", "*/train/*/*/timing.json", "*/predict/*/*/[!.]*",
    "*/predict/*/*/.*.json", "*/postprocess/*/*/[!.]*", "*/postprocess/*/*/.*.json", "*/evaluate/*/*", "compare/*",
    "report/index.html", "report/figures/*", "tracking/*.*", "config.json", ".state/*/*/*/*/*", ".state/*/*/*/*/*/*",
    ".run/*", ".run/made/**/*.json", "logs/**/*.log", "benchmarks/**/*.tsv", "../../data/*/*/*",
    "../../data/*/phantoms.json",
)  # fmt: skip


def _chosen(scene: Scene) -> Path | None:
    """A file of a kind that is drawn."""
    (results,) = (p for p in (scene.folder / "results").iterdir() if p.is_dir())
    found = []
    for kind in KINDS:
        files = [p for p in sorted(results.glob(kind)) if p.is_file() and not p.name.endswith(".lock")]
        found += [files] if files else []
    return scene.rng.choice(scene.rng.choice(found)) if found else None


def _on_a_file(words: str) -> Callable[[Callable[[Scene, Path], None]], Callable[[Scene], None]]:
    def of(change: Callable[[Scene, Path], None]) -> Callable[[Scene], None]:
        def damage(scene: Scene) -> None:
            if path := _chosen(scene):
                change(scene, path)
                scene.tell(f"{words}: {path.resolve().relative_to(scene.folder.resolve())}")

        return damage

    return of


@_on_a_file("deleted")
def delete(scene: Scene, path: Path) -> None:
    """Delete a file."""
    path.unlink()


@_on_a_file("folder deleted of")
def delete_folder(scene: Scene, path: Path) -> None:
    """Delete a file's folder with all that is in it."""
    shutil.rmtree(path.parent)


@_on_a_file("bit flipped in")
def flip(scene: Scene, path: Path) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    at = scene.rng.randrange(max(1, len(data)))
    if data:
        data[at] ^= 1 << scene.rng.randrange(8)
        path.write_bytes(data)


@_on_a_file("bit flipped, time kept, in")
def flip_silently(scene: Scene, path: Path) -> None:
    """Flip one bit as a disk does: size and times stay as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    if data:
        data[scene.rng.randrange(len(data))] ^= 1 << scene.rng.randrange(8)
        path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@_on_a_file("cut")
def cut(scene: Scene, path: Path) -> None:
    """Keep only a part of a file, maybe nothing."""
    kept = int(path.stat().st_size * scene.rng.choice((0, scene.rng.random())))
    with open(path, "r+b") as file:
        file.truncate(kept)
