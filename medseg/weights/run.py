"""The weights stage: one model's trained weights, on this machine before its training starts."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import CheckpointError, DataError
from medseg.files import read_json, sha256_file, write_json
from medseg.progress import say
from medseg.transfer import shown
from medseg.weights.fetch import fetch_weights


def run(address: str, sha256: str | None, cache: Path, out: Path) -> None:
    """Fetch what ``address`` names, unless it is a file or in ``cache`` already, and write the record ``out``.

    Args:
        address: a file, or an http(s) address.
        sha256: its checksum (hex); needed with an address.
        cache: folder for fetched files.
        out: the record: JSON with ``file`` and ``sha256``.

    Raises:
        CheckpointError: see ``fetch_weights``.
    """
    file = fetch_weights(address, sha256, cache)
    digest = sha256_file(file)
    write_json(out, {"weights": shown(address), "file": str(file), "sha256": digest})
    say(f"weights {out.stem}: {file}, SHA-256 {digest[:12]}…")


def read_record(path: Path) -> Path:
    """The file of weights that a record names, its bytes checked.

    Raises:
        CheckpointError: if the record is damaged, or the file is missing or has other bytes.
    """
    try:
        facts = read_json(path)
        file, sha256 = Path(facts["file"]), str(facts["sha256"])
    except (DataError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a record of weights ({error}); run `medseg weights` again") from None
    if not file.is_file():
        raise CheckpointError(f"{path}: its file {file} is missing; run `medseg weights` again")
    if sha256_file(file) != sha256:
        raise CheckpointError(f"{path}: its file {file} has other bytes; run `medseg weights` again")
    return file
