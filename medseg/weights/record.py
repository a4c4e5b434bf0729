"""The record of a model's trained weights, which the weights stage writes and training reads."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import CheckpointError, DataError
from medseg.files import digest_of, sha256_file
from medseg.records import as_written, read_record, write_record

MAKER = "medseg weights"


def write_weights_record(path: Path, address: str, sha256: str | None, file: Path) -> str:
    """Record which file ``address`` is on this machine; return the SHA-256 of its bytes.

    Args:
        path: of the record.
        address, sha256: as in the options of the network.
        file: that is on this machine.
    """
    found = sha256_file(file)
    write_record(path, {"options": _key(address, sha256), "file": str(file), "sha256": found})
    return found


def read_weights_record(path: Path, address: str, sha256: str | None) -> Path:
    """The file of weights that a record names, for the same ``address`` and ``sha256``.

    Raises:
        CheckpointError: if the record is damaged or was made for other options, or the file is missing or has other
            bytes.
    """
    try:
        facts = read_record(path, MAKER)
        with as_written(path, MAKER):
            key, file, found = str(facts["options"]), Path(facts["file"]), str(facts["sha256"])
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if key != _key(address, sha256):
        raise CheckpointError(
            f"{path}: made for another options.weights or options.sha256 than the plan's; if the configuration has "
            "changed since the plan was made, run `medseg plan` again, else `medseg weights`"
        )
    if not file.is_file():
        raise CheckpointError(f"{path}: its file {file} is missing; run `medseg weights` again")
    if sha256_file(file) != found:
        raise CheckpointError(f"{path}: the bytes of its file {file} have changed; run `medseg weights` again")
    return file


def _key(address: str, sha256: str | None) -> str:
    """Digest of what was asked for; an address may hold a secret, which is not written down."""
    return digest_of([address, sha256])
