"""Files of trained weights, from a path or an address; checked by their SHA-256, never opened here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from medseg.errors import BusyError, CheckpointError, DataError
from medseg.files import sha256_file, write_with, writer_lock
from medseg.networks import WEIGHT_SUFFIXES
from medseg.transfer import fetch, forget, sha256_error, shown

WAIT_S = 1.0


def fetch_weights(address: str, sha256: str | None, cache: Path, pause: Callable[[float], None] = time.sleep) -> Path:
    """The file of weights at a path or an http(s) address, fetched if need be.

    Args:
        address: a file, or where to fetch one.
        sha256: its checksum (hex); must be given with an address, may be with a file.
        cache: folder for what is fetched; a file that is there already is not fetched again, an interrupted transfer is
            resumed, and one that another process has begun is waited for.
        pause: how to wait between attempts.

    Returns:
        A file whose bytes have the checksum, where one is given.

    Raises:
        CheckpointError: without a checksum for an address, if fetching fails, or if the bytes have another checksum
            (then nothing is kept).
    """
    try:
        url = urlsplit(address)
    except ValueError:
        raise CheckpointError(f"{shown(address)}: no valid address; check options.weights") from None
    if not url.scheme:
        path = Path(address)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; check options.weights")
        if sha256 is not None and (found := sha256_file(path)) != sha256:
            raise CheckpointError(f"{path}: SHA-256 is {found}, expected {sha256}; get the file again")
        return path
    if url.scheme not in ("http", "https"):
        raise CheckpointError(f"{shown(address)}: weights come from a file or an http(s) address")
    if sha256 is None:
        raise CheckpointError(f"{shown(address)}: weights from an address need their checksum; give options.sha256")
    suffix = Path(url.path).suffix
    if suffix not in WEIGHT_SUFFIXES:
        raise CheckpointError(f"{shown(address)}: weights must be a file of {' or '.join(WEIGHT_SUFFIXES)}")
    path = cache / f"{sha256}{suffix}"
    while not _is_there(path, sha256):
        try:
            with writer_lock(cache):
                if not _is_there(path, sha256):
                    _fetch_to(path, address, sha256, pause)
        except BusyError:
            # Processes that train together need the same file together: one fetches it, the others wait.
            pause(WAIT_S)
    return path


def _is_there(path: Path, sha256: str) -> bool:
    return path.exists() and sha256_file(path) == sha256


def _fetch_to(path: Path, address: str, sha256: str, pause: Callable[[float], None]) -> None:
    """Bring weights to ``path``, which only comes into being with the right checksum."""
    part = path.with_name(f"{path.name}.part")
    try:
        fetch(address, part, "weights of the encoder", lambda whole: sha256_error(whole, sha256), pause)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    write_with(path, lambda temporary: os.replace(part, temporary))
    forget(part)
