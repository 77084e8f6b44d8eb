"""A model server as a process: bind, load, answer, follow the alias, and finish what is in hand when told to stop.

One process serves one model with a few threads; for more traffic, or to outlive a machine, run more of them.
"""

from __future__ import annotations

import errno
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from server.errors import PortInUseError, ServingError
from server.serving.active import ActiveModel, Swapper
from server.serving.app import App
from server.serving.drift import DriftSettings
from server.serving.limits import MOST_HEADER_BYTES, Limits
from server.serving.monitor import Monitor
from server.serving.rollback import RollbackRule
from strategies.console import output

if TYPE_CHECKING:
    from server.publishing.registry import Registry

logger = logging.getLogger("confide.serving")

JUDGE_SECONDS: Final = 2.0
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def serve(
    registry: Registry,
    name: str,
    spec: str = "@champion",
    *,
    variant: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    limits: Limits | None = None,
    drift: DriftSettings | None = None,
    poll_seconds: float = 10.0,
    rollback_rule: RollbackRule | None = None,
    cache: Path | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a registered model until SIGTERM or SIGINT, then finish the requests in hand and return.

    Args:
        registry: where the model is; it holds the keys that its bundles must be signed with.
        name, spec: the model, and "@alias" to follow or a version's number to stay with.
        variant: which of a bundle's files; None takes the bundle's default.
        host, port: where to listen; port 0 takes a free one.
        token: what callers must show; without one anybody who can connect may ask.
        certificate: certificate chain and private key, PEM files, for HTTPS.
        limits: on requests.
        drift: when windows of the traffic are judged.
        poll_seconds: between two looks at the alias.
        rollback_rule: when a version that the alias was moved to is taken back; None never does.
        cache: a folder to keep downloaded bundles in; None uses one that is gone afterwards.
        announce: is given one line when the model is ready; None prints it.

    Raises:
        PortInUseError: another program listens there.
        ServingError: the address, the certificate, a setting or the variant cannot be used.
        RegistryError, BundleError: the first version cannot be had or verified.
    """
    limits, monitor = limits or Limits(), Monitor()
    if not 0.05 <= poll_seconds <= 86_400:
        raise ServingError(f"poll_seconds = {poll_seconds}: give 0.05 to 86400 seconds")
    with tempfile.TemporaryDirectory(prefix="confide-serving-") as scratch:
        swapper = Swapper(
            registry,
            name,
            spec,
            cache=cache or Path(scratch),
            watcher=monitor,
            variant=variant,
            limits=limits,
            drift=drift,
            poll_seconds=poll_seconds,
            rule=rollback_rule,
            roll_back=lambda alias: _roll_back(registry, name, alias),
        )
        app = App(swapper, monitor, limits=limits, token=token)
        if token is None and host not in _LOOPBACK:
            logger.warning("%s: anybody who can connect may ask; give a token", host)
        with bound(host, port) as listener:
            scheme = "http" if certificate is None else "https"
            shown = f"[{host}]" if ":" in host else host
            address = f"{scheme}://{shown}:{listener.getsockname()[1]}"
            tell = announce or (lambda line: output.print(line, soft_wrap=True, markup=False))
            server = Server(app, limits, certificate)
            first = First(server, swapper, lambda model: tell(f"{_shown(model)} answers at {address}"))
            judge = threading.Thread(target=_judge, args=(server, swapper, monitor), daemon=True)
            first.start()
            judge.start()
            try:
                server.run(sockets=[listener])
            finally:
                server.should_exit = True
                swapper.stop()
                app.workers.stop()
    if first.error is not None:
        raise first.error


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, not yet listening.

    Raises:
        PortInUseError: another program listens there.
        ServingError: there is no such address, or it may not be used.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        kind = PortInUseError if getattr(error, "errno", None) == errno.EADDRINUSE else ServingError
        raise kind(
            f"port {port} on {host}: {reason}; stop the other program, or give another --host or --port"
        ) from None
    return listener


class First(threading.Thread):
    """Loads the first version while the server says that it is not ready; ends the server if that fails."""

    def __init__(self, server: Server, swapper: Swapper, ready: Callable[[ActiveModel], None]) -> None:
        super().__init__(name="confide-first", daemon=True)
        self.error: Exception | None = None
        self._server, self._swapper, self._ready = server, swapper, ready

    def run(self) -> None:
        """Load, announce, follow."""
        try:
            model = self._swapper.load()
            while not self._server.started and not self._server.should_exit:
                time.sleep(0.01)
            if not self._server.should_exit:
                self._ready(model)
                self._swapper.start()
        except Exception as error:  # noqa: BLE001  # raised again where the server was started
            self.error = error
            self._server.should_exit = True


class Server(uvicorn.Server):
    """uvicorn, which in addition ends with code 0 when told to, and hangs up on who only keeps a connection.

    h11 rather than httptools: it bounds the head of a request.
    """

    def __init__(self, app: App, limits: Limits, certificate: tuple[Path, Path] | None) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # its other messages are of callers' doing, or quote them
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
            ssl_certfile=None if certificate is None else str(certificate[0]),
            ssl_keyfile=None if certificate is None else str(certificate[1]),
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            problem = f"certificate {certificate}: {error.strerror or error}"
            raise ServingError(f"{problem}; give readable PEM files") from None
        super().__init__(config)
        self._app, self._limits = app, limits
        self._seen: dict[Any, tuple[tuple[object, int], float]] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, leave at the second; unlike uvicorn, do not die of it afterwards."""
        self.force_exit = self.should_exit
        self.should_exit = self._app.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections every tenth of a second."""
        self._hang_up(time.monotonic())
        return await super().on_tick(counter)

    def _hang_up(self, now: float) -> None:
        """Cut connections that have been between requests too long, and the longest of them if there are too many.

        uvicorn bounds the time between requests only until the next one's first byte. A connection in which
        nothing moves (no new request, no byte of an answer taken) is between requests, whatever it sends.
        """
        seen = {}
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)  # the protocol before the first request has none
            if cycle is not None and not cycle.response_complete:
                continue
            state = (cycle, connection.transport.get_write_buffer_size())
            before = self._seen.get(connection)
            seen[connection] = before if before is not None and before[0] == state else (state, now)
        self._seen = seen
        oldest_first = sorted(seen, key=lambda connection: seen[connection][1])
        surplus = max(len(self.server_state.connections) - self._limits.connections, 0)
        for place, connection in enumerate(oldest_first):
            if place < surplus or now - seen[connection][1] > self._limits.header_seconds:
                connection.transport.abort()


def _roll_back(registry: Registry, name: str, alias: str) -> None:
    """Move an alias back to the version before."""
    from server.publishing.promotion import rollback  # noqa: PLC0415  (few servers ever do)

    rollback(registry, name, alias=alias)


def _judge(server: Server, swapper: Swapper, monitor: Monitor) -> None:
    """Judge full windows of traffic until the server ends."""
    while not server.should_exit:
        time.sleep(JUDGE_SECONDS)
        model = swapper.active
        try:
            if model is not None:
                monitor.judge(model)
        except Exception as error:  # noqa: BLE001  # a window that cannot be judged must not end the watch
            logger.error("drift cannot be judged: %s", type(error).__name__)


def _shown(model: ActiveModel) -> str:
    """A version, for people."""
    return f"{model.name} {model.version} ({model.variant})"
