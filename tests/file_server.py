"""A server on this machine that does everything a file server can do wrong; conftest runs it as ``server``."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

Reply = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Hands every request to the next reply of a list; the last one stays."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(self.path)
        self.server.requests.append(dict(self.headers))
        replies = self.server.replies
        (replies.pop(0) if len(replies) > 1 else replies[0])(self)

    def log_message(self, *_: Any) -> None:
        pass

    def start(self) -> int:
        """First byte of the range that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(asked[1]) if asked else 0

    def head(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    """Answers by ``replies`` whatever is asked, and keeps what was: paths in ``asked``, headers in ``requests``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.asked: list[str] = []
        self.requests: list[dict[str, str]] = []

    def handle_error(self, *_: Any) -> None:
        pass

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    @property
    def url(self) -> str:
        return self.address("data.zip")


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def send(data: bytes, upto: int | None = None, *, etag: str = '"v1"', ranges: bool = True, claim: int = 0) -> Reply:
    """A well-behaved reply; breaks off at byte ``upto``, names no version, ignores ranges, or claims another length."""

    def reply(request: Handler) -> None:
        start = request.start() if ranges else 0
        if start and request.headers.get("If-Range", etag) != etag:
            start = 0
        headers = {"Content_Length": str((claim or len(data)) - start)}
        headers |= {"ETag": etag} if etag else {}
        if start >= len(data) > 0:
            request.head(416, Content_Range=f"bytes */{len(data)}", Content_Length="0")
            return
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.head(206 if start else 200, **headers)
        request.wfile.write(data[start:upto])

    return reply


def send_all(data: bytes, **headers: str) -> Reply:
    """The whole file under headers of your choice; without a length the connection's end is the file's."""

    def reply(request: Handler) -> None:
        request.head(200, **headers)
        request.wfile.write(data)

    return reply


def status(code: int) -> Reply:
    return lambda request: request.head(code, Content_Length="0")


def redirect(target: str) -> Reply:
    return lambda request: request.head(302, Location=target, Content_Length="0")


def hang_up(request: Handler) -> None:
    """Close the connection with a reset, before any answer."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
