"""What a finished training leaves beside its weights: ``timing.json`` and ``history.jsonl``.

Both hold times, which differ from one attempt to the next, so ``model.json`` has no digest of them: equal trainings
have equal model files. ``timing.json`` has the digest of the history, and names the training that both are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.errors import DataError
from medseg.files import sha256_bytes, write_bytes
from medseg.records import read_record, write_record
from medseg.results.folders import ModelFolder
from medseg.train.journal import Record, parse_record

MAKER = "medseg train"


def write_history(files: ModelFolder, journal: bytes, fingerprint: str, timing: Mapping[str, Any]) -> None:
    """Write ``history.jsonl`` and ``timing.json``.

    Args:
        files: the model folder.
        journal: of the whole training.
        fingerprint: of the training.
        timing: seconds, steps, attempts and the like.
    """
    write_bytes(files.history, journal)
    write_record(files.timing, {**timing, "fingerprint": fingerprint, "history_sha256": sha256_bytes(journal)})


def read_timing(files: ModelFolder, fingerprint: str) -> dict[str, Any]:
    """``timing.json`` of a training.

    Args:
        files: the model folder.
        fingerprint: that its ``model.json`` has.

    Raises:
        DataError: if it is missing, damaged, or of another training.
    """
    timing = read_record(files.timing, MAKER)
    if timing.get("fingerprint") != fingerprint:
        raise DataError(
            f"{files.timing}: of another training than {files.description.name} beside it; run `{MAKER}` again"
        )
    return timing


def read_history(files: ModelFolder, fingerprint: str) -> list[Record]:
    """The records of ``history.jsonl`` in the order of its lines; arguments as for ``read_timing``.

    Raises:
        DataError: if it is missing, damaged, or of another training.
    """
    expected = read_timing(files, fingerprint).get("history_sha256")
    path = files.history
    try:
        journal = path.read_bytes()
        if sha256_bytes(journal) != expected:
            raise DataError(
                f"{path}: damaged, or not a training journal of the attempt that {files.timing.name} beside it is of "
                f"(SHA-256 differs); run `{MAKER}` again"
            )
        return [parse_record(line) for line in journal.splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `{MAKER}` first") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a training journal ({error}); run `{MAKER}` again") from error
