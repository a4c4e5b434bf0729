"""How a service answers: JSON, files, and refusals that the client can read; nothing that was sent is logged."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO
from urllib.parse import quote

from medseg.serve.request import RequestError
from medseg.text import escaped

# After an answer to a request whose body was not read: seconds for which it is read for nothing. Without that, the
# connection would be reset, and the client would not see the answer.
LINGER_S = 10.0
# Remarks are headers of the answer that holds a label map: how many, and how long each may be.
NOTE, MAX_NOTES, MAX_NOTE = "Medseg-Note", 20, 1000
# Not of HTTP, as nginx writes it: the client has closed its connection.
CLIENT_GONE = 499


class Answers(BaseHTTPRequestHandler):
    """Answers one request; the connection is closed then.

    Attributes:
        unread: bytes of the body that were announced and not read.
        asks_first: whether the client waits for a word before it sends the body.
        begun: whether an answer has begun, so that nothing else can be said.
    """

    protocol_version = "HTTP/1.1"
    # Seconds for which a client may be silent.
    timeout = 60.0
    unread = 0
    asks_first = begun = False

    def handle_expect_100(self) -> bool:
        """Let the client send its file when it is known that it is wanted (`Expect: 100-continue`)."""
        self.asks_first = True
        return True

    def invite(self) -> None:
        """Have a client that waits send its file."""
        if self.asks_first:
            self.send_response_only(100)
            self.end_headers()

    def version_string(self) -> str:
        """What answers say of the program: its name alone."""
        return "medseg"

    def log_message(self, *_: Any) -> None:
        """Nothing: addresses hold the names of images."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the library refuses itself: requests that are none."""
        self.close_connection = True
        self.request_version = self.protocol_version
        self.send_json(code, {"errors": [f"no request that is understood here ({HTTPStatus(code).phrase})"]})

    def send_json(self, status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> int:
        """Send a value; the status."""
        body = json.dumps(value, indent=1).encode() + b"\n"
        self._send_head(status, "application/json", len(body), (headers or {}).items())
        self.wfile.write(body)
        return status

    def send_file(self, file: BinaryIO, name: str, notes: Iterable[str]) -> int:
        """Send an open file under a name, with remarks; the status."""
        headers = [("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}")]
        headers += [(NOTE, _ascii(note)[:MAX_NOTE]) for note in notes][:MAX_NOTES]
        self._send_head(200, "application/octet-stream", os.fstat(file.fileno()).st_size, headers)
        shutil.copyfileobj(file, self.wfile)
        return 200

    def refuse(self, error: RequestError) -> int:
        """Answer that a request is not done; the client can read it, though it may not have ended sending."""
        try:
            self.send_json(error.status, {"errors": list(error.lines)}, error.headers)
            self._linger()
        except (ConnectionError, TimeoutError):
            return CLIENT_GONE
        return error.status

    def _linger(self) -> None:
        """Read what the client still sends, for nothing."""
        left, until = self.unread, time.monotonic() + LINGER_S
        if left <= 0 or self.asks_first:
            return
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1.0)
        while left > 0 and time.monotonic() < until and (data := self.connection.recv(1 << 20)):
            left -= len(data)

    def _send_head(self, status: int, kind: str, size: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, text in (
            ("Content-Type", kind),
            ("Content-Length", str(size)),
            *headers,
            ("Connection", "close"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, text)
        self.end_headers()
        self.begun = True


def has_left(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _ascii(text: str) -> str:
    """A text as it may stand in a header."""
    return escaped(text).encode("ascii", "backslashreplace").decode()
