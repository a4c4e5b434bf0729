"""What of a study must come out equal, bit for bit, and what must not be left in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from medseg.records import DIGEST

# Folders and files whose content is time, or this machine's; folders of hidden names are as well.
APART = {"logs", "benchmarks", "tracking"}
TIMED = {"timing.json", "index.html", ".read"}
# Folders that belong to one training, or to the whole comparison: nothing else may lie in them.
OWNED = ("train", "predict", "postprocess", "compare")


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a study's configuration, data and code decide: all but times and logs."""
    (results,) = (p for p in (folder / "results").iterdir() if p.is_dir())
    tops = [p for p in results.iterdir() if p.name not in APART and not p.name.startswith(".")]
    files = [p for top in tops for p in [top, *top.rglob("*")]]
    files += (folder / "data").rglob("*")
    return {
        str(path.relative_to(folder)): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(files)
        if path.is_file() and path.name not in TIMED and not path.name.endswith(".lock")
    }


def _timeless(path: Path) -> bytes:
    """The bytes of a file, without what of it is time or the address of a tracker."""
    data = path.read_bytes()
    try:
        if path.name == "history.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            return json.dumps([[line["step"], line["metrics"]] for line in lines]).encode()
        if path.name == "config.json":
            value = json.loads(data)
            return json.dumps({k: v for k, v in value.items() if k not in {"tracking", DIGEST}}).encode()
    except (ValueError, KeyError, TypeError):
        return data
    return data


def different(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One line per file that is missing, differs, or lies where only others may."""
    lines = [
        f"{'differs' if name in found else 'missing'}: {name}"
        for name, digest in expected.items()
        if found.get(name) != digest
    ]
    folders = {str(Path(name).parent) for name in expected if set(Path(name).parts) & set(OWNED)}
    extra = [f"extra: {name}" for name in found if name not in expected and str(Path(name).parent) in folders]
    return lines + extra


def temporary(folder: Path) -> list[str]:
    """Files that killed writers left under the names that they have while they are written."""
    files = [p for name in ("results", "data") for p in (folder / name).rglob("*")]
    return [f"temporary: {p.relative_to(folder)}" for p in files if p.suffix == ".tmp" or ".tmp." in p.name]
