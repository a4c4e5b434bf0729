"""What a service does, by method and address."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from medseg import __version__
from medseg.errors import ConfigError
from medseg.explained import explain
from medseg.formats.table import class_map
from medseg.progress import say
from medseg.serve.answers import CLIENT_GONE, Answers, has_left
from medseg.serve.job import Job, State
from medseg.serve.request import PARAMETERS, Gone, RequestError, announced, read_length, read_query, receive
from medseg.serve.service import FullError, Service, place_of, with_options

# Seconds between two looks whether a client that waits is still there.
POLL_S = 0.1
# An option of `medseg predict` that is a parameter here, and its value.
_OPTION = re.compile(rf"--({'|'.join(PARAMETERS)})\b(?: ([A-Za-z0-9.-]+))?")
# Stands for the id of a job in a route.
ID = "ID"


class Front(Protocol):
    """What a handler knows of the server that it belongs to.

    Attributes:
        service: predicts.
        about: what `/model` says.
        host, port: where it listens.
        is_local: whether only this machine can reach it.
    """

    service: Service
    about: Mapping[str, Any]
    host: str
    port: int
    is_local: bool


class Handler(Answers):
    """Answers one request by the table of routes."""

    def do_GET(self) -> None:
        """See the table of routes."""
        self._answer()

    def do_POST(self) -> None:
        """See the table of routes."""
        self._answer()

    def do_DELETE(self) -> None:
        """See the table of routes."""
        self._answer()

    @property
    def _front(self) -> Front:
        return cast(Front, self.server)

    def _answer(self) -> None:
        """Find the route, answer, and say that in the log, without anything that a client chose."""
        self.close_connection, self._asked, begun = True, self.command, time.monotonic()
        self.unread = announced(self.headers)
        try:
            status = self._routed()
        except RequestError as error:
            status = self.refuse(error)
        except (Gone, ConnectionError, TimeoutError):
            status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 (one request must not end the service)
            text = explain(error)
            if text is None:
                say(f"serve: a mistake of ours: {place_of(error)}")
            known = RequestError(507, text or "") if text else RequestError(500, "a mistake in medseg; see its log")
            # In the middle of an answer nothing else can be said.
            status = known.status if self.begun else self.refuse(known)
        say(f"serve: {self._asked} {status} {time.monotonic() - begun:.1f} s")

    def _routed(self) -> int:
        """Answer by the table of routes; the status."""
        _require_own(self.headers, self._front)
        try:
            address = urlsplit(self.path)
        except ValueError:
            raise RequestError(400, "the address is not readable") from None
        parts = address.path.strip("/").split("/")
        word = parts[1] if parts[0] == "jobs" and len(parts) > 1 else ""
        route = "/" + "/".join([parts[0], ID, *parts[2:]] if word else parts)
        known = [method for method, path in ROUTES if path == route]
        if not known:
            there = ", ".join(f"{method} {path}" for method, path in ROUTES)
            raise RequestError(404, f"nothing has this address; there are {there}")
        self._asked = f"{self.command} {route}"
        if self.command not in known:
            allowed = ", ".join(known)
            raise RequestError(405, f"{route} takes {allowed}", headers={"Allow": allowed})
        answer = ROUTES[self.command, route]
        return answer(self, self._job(word)) if word else answer(self, address.query)

    def _job(self, word: str) -> Job:
        job = self._front.service.job(word)
        if job is None:
            raise RequestError(404, "no such job; it was deleted, or its label map was kept long enough")
        return job

    # What the routes do

    def health(self, _: str) -> int:
        """Say that the service is there, and how many jobs it has."""
        return self.send_json(200, {"status": "ok", "version": __version__, "jobs": self._front.service.counts})

    def model(self, _: str) -> int:
        """Say what the model is, and what may be sent to it."""
        return self.send_json(200, self._front.about)

    def predict(self, query: str) -> int:
        """Receive, predict and send back, as long as the client is there."""
        service = self._front.service
        job = self._received(query)
        try:
            service.submit(job)
            while not job.ended.wait(POLL_S):
                if has_left(self.connection):
                    raise Gone
            return self.labels(job)
        finally:
            service.drop(job)

    def create(self, query: str) -> int:
        """Receive an image and say how to ask for its job."""
        job = self._received(query)
        self._front.service.submit(job)
        return self.send_json(202, self._facts(job), {"Location": f"/jobs/{job.id}"})

    def show(self, job: Job) -> int:
        """Say how far a job is."""
        return self.send_json(200, self._facts(job))

    def labels(self, job: Job) -> int:
        """Send the label map of a job."""
        return self._send_result(job, job.labels, job.label_name)

    def classes(self, job: Job) -> int:
        """Send the class of each voxel of a job, where objects have several."""
        return self._send_result(job, job.classes, class_map(Path(job.label_name)).name)

    def delete(self, job: Job) -> int:
        """Cancel a job, or forget it."""
        self._front.service.drop(job)
        return self.send_json(200, {"id": job.id, "state": str(job.state)})

    # Parts of them

    def _received(self, query: str) -> Job:
        """A job whose image has come; everything else is asked before the first byte of it."""
        service = self._front.service
        name, options = read_query(query)
        length = read_length(self.headers, service.limits.upload_bytes)
        try:
            job = service.reserve(name, with_options(options))
        except FullError as full:
            wait = str(full.wait_s)
            raise RequestError(
                503, f"the queue is full; try again in {wait} s", headers={"Retry-After": wait}
            ) from None
        except ConfigError as error:
            raise RequestError(400, *_as_parameters(str(error)).splitlines()) from None
        try:
            self.invite()
            receive(cast(BinaryIO, self.rfile), length, job.image)
        except BaseException:
            service.drop(job)
            raise
        self.unread = 0
        return job

    def _facts(self, job: Job) -> dict[str, Any]:
        """What is said of a job."""
        found = {"id": job.id, "state": str(job.state), "progress": round(job.progress, 4)}
        before = self._front.service.before(job)
        return {**found, "before": before, "notes": job.notes, "errors": [_as_parameters(line) for line in job.errors]}

    def _send_result(self, job: Job, path: Path, name: str) -> int:
        """Send a file of a job that is done."""
        if job.state is State.FAILED:
            raise RequestError(job.status, *map(_as_parameters, job.errors))
        if job.state is State.CANCELLED:
            raise RequestError(503, "the service ends", headers={"Retry-After": "60"})
        if job.state is not State.DONE:
            raise RequestError(409, f"the job is {job.state}; ask for /jobs/{ID} until it is {State.DONE}")
        try:
            file = open(path, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            raise RequestError(404, "there is no such map: objects of this model have one class") from None
        with file:
            return self.send_file(file, name, job.notes)


ROUTES: Mapping[tuple[str, str], Callable[[Handler, Any], int]] = {
    ("GET", "/health"): Handler.health,
    ("GET", "/model"): Handler.model,
    ("POST", "/predict"): Handler.predict,
    ("POST", "/jobs"): Handler.create,
    ("GET", f"/jobs/{ID}"): Handler.show,
    ("GET", f"/jobs/{ID}/labels"): Handler.labels,
    ("GET", f"/jobs/{ID}/classes"): Handler.classes,
    ("DELETE", f"/jobs/{ID}"): Handler.delete,
}


def _require_own(headers: Message, server: Front) -> None:
    """Raise ``RequestError`` for requests that a web page makes in somebody's browser, on a service for this machine.

    A page can send to 127.0.0.1 (its origin is said then), or call itself by a name that leads there (DNS rebinding).
    """
    if not server.is_local:
        return
    try:
        host = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
    except ValueError:
        host = ""
    if host not in ("localhost", "127.0.0.1", "::1", server.host):
        raise RequestError(421, f"this service is for this machine; call it http://127.0.0.1:{server.port}")
    if headers.get("Origin"):
        raise RequestError(403, "a web page sent this; send it from a program, or through a proxy that removes Origin")


def _as_parameters(text: str) -> str:
    """Advice that names options of `medseg predict`, as parts of an address where they are that here."""
    return _OPTION.sub(lambda found: f"{found[1]}={found[2]}" if found[2] else found[1], text)
