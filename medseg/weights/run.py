"""The weights stage: one model's trained weights, on this machine before its training starts."""

from __future__ import annotations

from pathlib import Path

from medseg.files import writer_lock
from medseg.outputs import listing, note
from medseg.progress import say
from medseg.weights.fetch import fetch_weights
from medseg.weights.record import write_weights_record


def run(address: str, sha256: str | None, cache: Path, out: Path) -> None:
    """Fetch what ``address`` names, unless it is a file or in ``cache`` already, and write the record ``out``.

    Args:
        address: a file, or an http(s) address.
        sha256: its checksum (hex); needed with an address.
        cache: folder for fetched files.
        out: the record (``weights.record``).

    Raises:
        CheckpointError: see ``fetch_weights``.
    """
    # One file may be the weights of several models, whose records are written side by side: each has its own lock, and
    # lists the file, so that its loss is noticed. A file of the user's is in no list.
    with writer_lock(out.parent, f".{out.name}.lock"), listing(out, out.parent):
        file = fetch_weights(address, sha256, cache)
        note(file)
        digest = write_weights_record(out, address, sha256, file)
    say(f"weights {out.stem}: {file}, SHA-256 {digest[:12]}…")
