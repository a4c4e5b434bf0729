"""Exporting: a model folder in, a folder for another program out, which is there whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from medseg.errors import ConfigError, DataError
from medseg.explained import make_folder
from medseg.export.card import NAMES, card_of
from medseg.export.card_text import card_text
from medseg.export.handover import Handover, kinds_of
from medseg.export.portable import write_portable
from medseg.export.study import Study
from medseg.export.table import EXPORTS
from medseg.files import SAFE_NAME, fsync_folder, write_json, write_text
from medseg.late import resolve
from medseg.train.checkpoint import read_description
from medseg.trained import read_facts


def export(model: Path, to: str, out: Path, *, name: str = "", licence: str = "", authors: Sequence[str] = ()) -> Path:
    """Write a model for another program.

    Args:
        model: model folder.
        to: row of ``EXPORTS``.
        out: folder that is made; it must not be there, or be empty.
        name: what the export is called; empty: after data set, model, fold and seed.
        licence: SPDX identifier of the weights' licence; empty: not stated.
        authors: who made the model.

    Returns:
        ``out``.

    Raises:
        ConfigError: for an unknown form, a name that is none, a module that is not installed.
        DataError: if ``out`` holds something, or the form cannot hold such a model.
        CheckpointError: if the model folder is damaged.
    """
    row = EXPORTS.get(to)
    if row is None:
        raise ConfigError(f"--to {to}: no such form; there are: {', '.join(EXPORTS)}")
    _require_modules(to)
    _require_free(out)
    made, _ = read_description(model)
    name = name or f"{made.dataset}-{made.plan.model}-fold{made.fold}-seed{made.seed}"[:64]
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(f"--name {name}: expected letters, digits, '.', '_' and '-', at most 64")
    for kind in kinds_of(made):
        if kind in row.cannot:
            raise DataError(f"{model}: --to {to} cannot hold {kind}: {row.cannot[kind]}")
    facts = read_facts(model)
    card = card_of(made, facts, name, licence, authors, Study.around(model, made))
    with tempfile.TemporaryDirectory(prefix="medseg-export-") as temporary:
        portable = Path(temporary)
        write_portable(facts, model, portable)
        checkpoint, _ = read_description(portable)
        with _appearing(out) as folder:
            resolve(row.write)(Handover(portable, checkpoint, name, card, licence, tuple(authors)), folder)
            write_json(folder / NAMES[0], card)
            write_text(folder / NAMES[1], card_text(card))
    return out


def _require_modules(to: str) -> None:
    """Raise ``ConfigError`` if a module that writing needs is not installed."""
    missing = [module for module in EXPORTS[to].needs if not _is_there(module)]
    if missing:
        raise ConfigError(f"--to {to}: needs {', '.join(missing)}; pip install 'medseg[export]'")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _require_free(out: Path) -> None:
    """Raise ``DataError`` if something would be overwritten."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if os.path.lexists(out):
        held = f"holds {sorted(p.name for p in out.iterdir())[:3]}" if out.is_dir() else "is a file"
        raise DataError(f"{out}: {held}, which is not overwritten; name a new folder, or remove this one")


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` to be filled, which gets that name when the block ends without an error."""
    parent = out.absolute().parent
    make_folder(parent)
    temporary = parent / f".{out.name}.{os.getpid()}-{os.urandom(3).hex()}.medseg.tmp"
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_dir():
                fsync_folder(path)
            else:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        fsync_folder(temporary)
        # Over an empty folder too; over anything else it fails.
        os.rename(temporary, out)
        fsync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
