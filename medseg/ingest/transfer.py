"""Getting one file over HTTP: streamed to disk, resumed where it broke off, tried again where that can help."""

from __future__ import annotations

import http.client
import math
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from medseg import __version__
from medseg.errors import DataError
from medseg.files import read_json, write_json
from medseg.progress import Progress, say

CHUNK = 1 << 20
MIB = 1 << 20
TIMEOUT_S = 60.0
# Pauses between attempts that brought nothing; an attempt that brought data starts over with the first.
PAUSES_S = (1.0, 4.0, 16.0, 60.0)
# Answers after which trying again can help: timeout, too many requests, trouble of the server.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
RANGE_NOT_SATISFIABLE = 416


class _Retry(Exception):
    """An attempt failed in a way that another may not."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the server said about the file whose beginning is on disk.

    Attributes:
        url: where it came from.
        length: bytes of the whole, or None if the server does not say.
        validator: strong ETag or date of last change; empty: the server names neither.
    """

    url: str
    length: int | None
    validator: str


class _SaferRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects within HTTP(S), never from https to http, never to files or other schemes."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            fp.close()
            raise DataError(f"{req.full_url}: redirects from {old} to {newurl}; refused, name a direct address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def transfer(url: str, part: Path, label: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Bring a file to ``part``, going on with what is there of it.

    Beside ``part``, ``NAME.state.json`` remembers the length and version that the server named; a partial file is gone
    on with only while these stay, otherwise it is fetched anew.

    Args:
        url: http or https.
        part: where it goes; whole when this returns (as far as the server tells the truth: check its digest).
        label: for the progress bar.
        pause: how to wait between attempts.

    Raises:
        DataError: naming the address, what happened, and what to do; what is usable of the file stays.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            return _attempt(url, part, label)
        except _Retry as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures > len(PAUSES_S):
                kept = f"; {_size(part)} bytes are kept, run the same command again to go on" if _size(part) else ""
                raise DataError(f"{url}: {error} ({failures} attempts){kept}") from None
            say(f"{label}: {error}; trying again")
            pause(PAUSES_S[max(failures - 1, 0)])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.state.json")


def _known(url: str, part: Path) -> _State | None:
    """What is remembered about the partial file; None if it cannot be gone on with."""
    if not part.exists() or not _state_file(part).exists():
        return None
    try:
        state = _State(**read_json(_state_file(part)))
    except (DataError, TypeError):
        return None
    return state if state.url == url and (state.validator or state.length) else None


def _attempt(url: str, part: Path, label: str) -> None:
    """One request, for all of the file or for what is missing of it."""
    known = _known(url, part)
    have = _size(part) if known else 0
    if known and have == known.length:
        return
    headers = {"User-Agent": f"medseg/{__version__}", "Accept-Encoding": "identity"}
    if known and have:
        headers["Range"] = f"bytes={have}-"
        if known.validator:
            headers["If-Range"] = known.validator
    opener = urllib.request.build_opener(_SaferRedirects)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            start = have if have and response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            state = _State(url, _length(response.headers, start, known), _validator(response.headers))
            if start and (state.length is None or state.length != (known.length if known else None)):
                part.unlink()
                sent = response.headers.get("Content-Range", "")
                raise _Retry(f"asked for bytes {start} to the end of {known and known.length}, offered '{sent}'")
            _receive(response, part, start, state, label)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and have:
            part.unlink()
            raise _Retry("the file on the server is shorter than what was fetched of it") from None
        if error.code in TRANSIENT:
            raise _Retry(f"the server answers {error.code} {error.reason}") from None
        raise DataError(f"{url}: the server answers {error.code} {error.reason}; check the address") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _Retry(f"the connection failed ({str(reason) or type(error).__name__})") from None


def _length(headers: Message, start: int, known: _State | None) -> int | None:
    """Bytes of the whole file as the server tells; None if it does not, or offers another part than from ``start``."""
    length = headers.get("Content-Length", "")
    if not start:
        return int(length) if length.isdigit() else None
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    if told is None or int(told[1]) != start:
        return None
    return int(told[2]) if told[2] != "*" else known.length if known else None


def _validator(headers: Message) -> str:
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _receive(response: Any, part: Path, start: int, state: _State, label: str) -> None:
    """Append what comes to the file, from ``start`` on; the state is written first, so that it never lags behind."""
    missing = (state.length or 0) - start
    if missing > shutil.disk_usage(part.parent).free:
        free = shutil.disk_usage(part.parent).free
        raise DataError(f"{state.url}: {missing} bytes to fetch, {free} are free in {part.parent}; make room")
    if not start:
        part.unlink(missing_ok=True)
    write_json(_state_file(part), {"url": state.url, "length": state.length, "validator": state.validator})
    progress = Progress(f"{label} (MiB)", math.ceil((state.length or 0) / MIB), start=start // MIB)
    have = start
    with open(part, "ab") as file:
        while chunk := response.read(CHUNK):
            have += len(chunk)
            if state.length is not None and have > state.length:
                raise _Retry(f"the server sent more than the {state.length} bytes it promised")
            try:
                file.write(chunk)
            except OSError as error:
                raise DataError(f"{part}: cannot be written ({error.strerror}); make room and try again") from None
            if state.length and have < state.length:
                progress.update(have // MIB)
    if state.length is None:
        # Nobody said how long it is: the end of the connection is the end of the file.
        write_json(_state_file(part), {"url": state.url, "length": have, "validator": state.validator})
    elif have < state.length:
        raise _Retry(f"the connection ended after {have} of {state.length} bytes")
    progress.update(progress.total)
