"""The server: which connections it takes, how it begins, and how it ends."""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError
from medseg.predict.batch import How
from medseg.progress import say
from medseg.serve.about import about_models
from medseg.serve.folder import private_folder
from medseg.serve.http import Handler
from medseg.serve.request import PARAMETERS
from medseg.serve.service import Limits, Service, place_of

# Connections at once; each has a thread, which sleeps while its job waits.
CONNECTIONS = 64
# Seconds that answers get which are under way when the service ends.
ENDING_S = 5.0


class Server(ThreadingHTTPServer):
    """Takes connections for a service.

    Args:
        host, port: where; port 0 is any that is free.
        service: predicts.

    Attributes:
        host, port: where it listens.
        is_local: whether only this machine can reach it.
        about: what `/model` says.
        service: see above.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, host: str, port: int, service: Service) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.host, self.port = host, self.server_address[1]
        self.is_local = is_loopback(host)
        self.service = service
        self.about = about_models(service.trainings, list(PARAMETERS))
        self._free, self._open = CONNECTIONS, threading.Condition()

    @property
    def address(self) -> str:
        """The beginning of all addresses."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def server_bind(self) -> None:
        """Bind, without asking the name server who this is, as the library would."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; beyond ``CONNECTIONS`` the connection is closed."""
        with self._open:
            if not self._free:
                self.shutdown_request(request)
                return
            self._free -= 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open:
                self._free += 1
                self._open.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing of what was sent: a connection that broke is the client's."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            say(f"serve: a mistake of ours: {place_of(error)}")

    def await_answers(self) -> None:
        """Wait until what is under way is answered, for a while."""
        with self._open:
            self._open.wait_for(lambda: self._free == CONNECTIONS, ENDING_S)


def serve(
    models: Sequence[Path],
    how: How,
    begun: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    reachable: bool = False,
) -> None:
    """Predict what is sent, until SIGTERM or Ctrl-C.

    Args:
        models: model folders; of several the mean counts.
        how: device, threads, mirror images, memory; what requests say is added to it.
        begun: called with the address when the model is loaded.
        host, port: where to listen.
        limits: on uploads and waiting jobs.
        reachable: other machines may reach the service.

    Raises:
        ConfigError: if ``host`` is not this machine alone and ``reachable`` is not said.
        OSError: if the port is taken.
    """
    if not is_loopback(host) and not reachable:
        raise ConfigError(
            f"--host {host}: other machines could send images and read results, and nobody is asked who he is; leave "
            "it out and put a reverse proxy with TLS and authentication before 127.0.0.1, or say --reachable"
        )
    with private_folder() as folder, _ending() as ending:
        service = Service(models, how, folder, limits or Limits())
        try:
            with Server(host, port, service) as server:
                service.start()
                thread = threading.Thread(target=server.serve_forever, name="medseg serve http")
                thread.start()
                begun(server.address)
                if not server.is_local:
                    say("serve: WARNING: other machines can reach it; it has no authentication and no encryption")
                ending.wait()
                say("serve: ends; predictions are cancelled")
                server.shutdown()
                thread.join()
                service.close()
                server.await_answers()
        finally:
            service.close()


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set."""
    ending = threading.Event()
    both = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: ending.set()) for number in both]
    try:
        yield ending
    finally:
        for number, handler in zip(both, before, strict=True):
            signal.signal(number, handler)
