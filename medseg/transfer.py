"""Getting one file over HTTP: streamed to disk, resumed where it broke off, tried again where that helps, checked.

Addresses are printed without user, password and query: those can be secrets.
"""

from __future__ import annotations

import http.client
import math
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from medseg import __version__
from medseg.buckets import signed
from medseg.errors import DataError, MedsegError
from medseg.files import sha256_bytes, sha256_file
from medseg.progress import Progress, say
from medseg.records import read_record, write_record

CHUNK = MIB = 1 << 20
TIMEOUT_S = 60.0
# Pauses between attempts that received nothing; an attempt that received data starts over with the first.
PAUSES_S = (1.0, 4.0, 16.0, 60.0)
# Answers after which trying again can help: timeout, too many requests, trouble of the server.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
RANGE_NOT_SATISFIABLE = 416
# What has more digits is no length of a file.
_LENGTH = "[0-9]{1,30}"


class _Retry(Exception):
    """An attempt failed in a way that another may not."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the server reported about the file whose beginning is on disk.

    Attributes:
        address: SHA-256 of where it came from; the address itself can hold a secret.
        length: bytes of the whole, or None if the server does not report it.
        validator: strong ETag or date of last change; empty: the server names neither.
    """

    address: str
    length: int | None
    validator: str


class _SaferRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects within HTTP(S), never from https to http, never to files or other schemes."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old, new.scheme) == ("https", "http") or "@" in new.netloc:
            raise DataError(
                f"{shown(req.full_url)}: redirects from {old} to {shown(newurl)}; refused, name a direct address"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            # A refusal, or a target that is no address: the library leaves the connection open.
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def shown(url: str) -> str:
    """An address as it may be printed: without user, password, query and fragment, any of which can be a secret."""
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", re.split("[?#]", url, maxsplit=1)[0])


def fetch(
    url: str, part: Path, label: str, wrong: Callable[[Path], str], pause: Callable[[float], None] = time.sleep
) -> None:
    """Bring a file to ``part`` as ``transfer`` does, and hold it to what is known of it; another file is not kept.

    Args:
        url, part, label, pause: as for ``transfer``.
        wrong: how the file differs from what is expected (``sha256_error``); an empty text if it does not.

    Raises:
        DataError: naming the address, what happened, and what to do.
    """
    say(f"{label}: {shown(url)}")
    resumed = part.exists()
    transfer(url, part, label, pause)
    error = wrong(part)
    if error and resumed:
        # The beginning may have been of an older version of the file.
        say(f"{label}: {error}; fetching all of it again")
        forget(part)
        transfer(url, part, label, pause)
        error = wrong(part)
    if error:
        kind = _kind(part)
        forget(part)
        raise DataError(
            f"{shown(url)}: {error}{kind}; {part} is not kept. Is the address right, or was the file replaced there?"
        )


def sha256_error(path: Path, expected: str) -> str:
    """How a file differs from the one with SHA-256 ``expected`` (hex), or an empty text."""
    found = sha256_file(path)
    return "" if found == expected else f"{path.stat().st_size} bytes with SHA-256 {found}, expected {expected}"


def forget(part: Path) -> None:
    """Remove a file that was transferred, or a part of one, and what is remembered about it."""
    for path in (part, _state_file(part)):
        path.unlink(missing_ok=True)


def transfer(url: str, part: Path, label: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Bring a file to ``part``; what is there of it is kept, and the transfer resumes after it.

    Beside ``part``, ``NAME.state.json`` keeps the length and version that the server named. The transfer of a partial
    file resumes only while these stay the same; otherwise it starts again. Only one process at a time may do this
    (``medseg.files.writer_lock``).

    Args:
        url: http or https, without user and password; or ``s3://BUCKET/NAME``.
        part: the file to write; whole when this returns (as far as the server reports sizes truly: check its digest).
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
            have = _size(part)
            failures = 0 if have > before else failures + 1
            if failures > len(PAUSES_S):
                kept = f"{have} bytes are kept in {part}, run the same command again to resume"
                fix = kept if have else "check the address, or try again later"
                raise DataError(f"{shown(url)}: {error} ({failures} attempts); {fix}") from None
            say(f"{label}: {error}; trying again")
            pause(PAUSES_S[max(failures - 1, 0)])


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.state.json")


def _known(url: str, part: Path) -> _State | None:
    """What is remembered about the partial file; None if the transfer cannot be resumed."""
    if not part.exists() or not _state_file(part).exists():
        return None
    try:
        state = _State(**read_record(_state_file(part), ""))
    except (DataError, TypeError):
        # Damaged, or of another version: the transfer begins anew.
        return None
    return state if state.address == _digest(url) and (state.validator or state.length) else None


def _digest(url: str) -> str:
    return sha256_bytes(url.encode())


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
    try:
        with _open(signed(url), headers) as response:
            start = have if have and response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            state = _State(_digest(url), _length(response.headers, start, known), _validator(response.headers))
            if start and (state.length is None or state.length != (known.length if known else None)):
                part.unlink()
                sent = response.headers.get("Content-Range", "")
                raise _Retry(f"asked for bytes {start} to the end of {known and known.length}, offered '{sent}'")
            _check_room(url, part, (state.length or 0) - start)
            _receive(response, part, start, state, label)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and have:
            part.unlink()
            raise _Retry("the file on the server is shorter than what was fetched of it") from None
        if error.code in TRANSIENT:
            raise _Retry(_answer(error)) from None
        raise DataError(f"{shown(url)}: {_answer(error)}; check the address") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise DataError(f"{part}: cannot be written ({error.strerror}); check path and permissions") from None
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _Retry(f"the connection failed ({str(reason) or type(error).__name__})") from None


def _open(url: str, headers: dict[str, str]) -> Any:
    """The server's answer, if this is an address to ask."""
    try:
        address = urlsplit(url)
        if address.scheme not in ("http", "https"):
            raise DataError(f"{shown(url)}: expected an http(s) address, or s3://BUCKET/NAME")
        if "@" in address.netloc:
            fix = "give an address that needs none, or get the file by hand"
            raise DataError(f"{shown(url)}: the address names a user, and nothing here logs in; {fix}")
        opener = urllib.request.build_opener(_SaferRedirects)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except MedsegError:
        raise
    except (ValueError, http.client.InvalidURL):
        # The library's own words repeat the address, secrets and all.
        fix = "fix it (a space is written %20)"
        raise DataError(f"{shown(url)}: this, or where it redirects to, is no valid address; {fix}") from None


def _answer(error: urllib.error.HTTPError) -> str:
    """What the server answered; its own words are left out, since they may repeat an address."""
    target = error.headers.get("Location", "")
    elsewhere = f", redirecting to {shown(target)}" if target else ""
    return f"the server answers {error.code} {http.client.responses.get(error.code, '')}".rstrip() + elsewhere


def _length(headers: Message, start: int, known: _State | None) -> int | None:
    """Bytes of the whole file by the server's answer; None if it has none, or is another part than from ``start``."""
    length = headers.get("Content-Length", "")
    if not start:
        return int(length) if re.fullmatch(_LENGTH, length) else None
    answer = re.fullmatch(rf"bytes ({_LENGTH})-{_LENGTH}/({_LENGTH}|\*)", headers.get("Content-Range", ""))
    if answer is None or int(answer[1]) != start:
        return None
    return int(answer[2]) if answer[2] != "*" else known.length if known else None


def _validator(headers: Message) -> str:
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _check_room(url: str, part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise DataError(f"{shown(url)}: {missing} bytes to fetch, {free} are free in {part.parent}; make room")


def _receive(response: Any, part: Path, start: int, state: _State, label: str) -> None:
    """Append what comes to the file, from ``start`` on; the state is written first, so that it never lags behind."""
    if not start:
        part.unlink(missing_ok=True)
    write_record(_state_file(part), asdict(state))
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
        # Its length is unknown: the end of the connection is the end of the file.
        write_record(_state_file(part), {**asdict(state), "length": have})
    elif have < state.length:
        raise _Retry(f"the connection ended after {have} of {state.length} bytes")
    progress.update(progress.total)


def _kind(part: Path) -> str:
    """What a wrong file looks like, if that is easily recognised."""
    with open(part, "rb") as file:
        start = file.read(512).lstrip().lower()
    return ", the server sent a web page" if start.startswith((b"<!doctype html", b"<html")) else ""
