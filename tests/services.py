"""A service of a model on this machine's loopback, and requests to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medseg.predict.batch import How
from medseg.serve.folder import private_folder
from medseg.serve.server import Server
from medseg.serve.service import Limits, Service


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errors(self) -> str:
        return "\n".join(self.json["errors"])


@dataclass(frozen=True)
class Running:
    """A service that runs in this process."""

    server: Server
    folder: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; dashes of headers are underscores here."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())

    def send(self, file: Path, query: str = "", *, to: str = "/predict", name: str = "") -> Answer:
        """The bytes of a file, under its name."""
        return self.ask("POST", f"{to}?name={quote(name or file.name)}{query}", file.read_bytes())

    @property
    def left(self) -> list[str]:
        """What lies in the service's folder."""
        return sorted(path.name for path in self.folder.iterdir() if path.suffix != ".lock")


@contextmanager
def serving(model: Path, limits: Limits | None = None, how: How | None = None) -> Iterator[Running]:
    with private_folder() as folder:
        service = Service([model], how or How(), folder, limits or Limits())
        try:
            with Server("127.0.0.1", 0, service) as server:
                service.start()
                thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
                thread.start()
                try:
                    yield Running(server, folder)
                finally:
                    server.shutdown()
                    thread.join()
                    service.close()
                    server.await_answers()
        finally:
            service.close()
