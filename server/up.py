"""``confide server up``: the coordinator as a service.

A SuperLink (TLS, registered departments only, durable state) and a warm worker that waits for the
next run; when it takes one, another spare is started.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from models.files import write_atomic
from server.errors import PortInUseError, ServerError
from server.federation import Governance
from server.membership import register
from server.pki import Pki, carried, issue
from server.place import Place, place
from server.superlink import TOKEN_FILE
from server.worker import BUSY
from strategies.environment import ENVIRONMENT
from strategies.home import home

logger = logging.getLogger("confide.server")

START_SECONDS = 60.0
RESTART_SECONDS = 2.0


@dataclass(kw_only=True)
class Coordinator:
    """SuperLink and workers; ``start``, ``watch`` until ``stop``.

    ``names`` are the host names and addresses that departments connect to. With ``governance``, where the
    federation is governed from this machine, it certifies them and knows who may connect.
    """

    host: str
    port: int
    names: Sequence[str]
    governance: Governance | None = None
    place: Place = field(default_factory=place)
    _superlink: subprocess.Popen[str] | None = None
    _workers: list[subprocess.Popen[str]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _pki: Pki | None = None

    def start(self) -> None:
        """Start everything and wait until departments can connect.

        Raises :class:`PortInUseError`, :class:`server.errors.PkiError` or :class:`ServerError`.
        """
        _refuse_taken(self.host, self.port)
        self._pki = self._certified()
        for file in (self.place.token, self.place.secret):
            write_atomic(file, secrets.token_hex(32).encode(), secret=True)
        write_atomic(self.place.address, self._address().encode())
        self._superlink = self._spawn(
            *("-m", "server.superlink", "--host", self.host, "--port", str(self.port)),
            *("--ssl-ca-certfile", str(self._pki.authority)),
            *("--ssl-certfile", str(self._pki.certificate), "--ssl-keyfile", str(self._pki.key)),
            *("--database", str(self.place.directory / "superlink.sqlite")),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self.place.secret)),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            log="superlink.log",
        )
        self._await_port()
        if self.governance is not None:
            for refused in register(self.governance, self.place.control()):
                logger.warning("%s; let its machine enrol anew", refused)
        self._add_worker()

    def watch(self) -> None:
        """Keep a spare worker waiting; returns after ``stop``. Raises if the SuperLink falls."""
        while not self._stopping.wait(0.2):
            if self._superlink is not None and self._superlink.poll() is not None:
                raise ServerError(
                    f"the SuperLink ended with code {self._superlink.returncode}; "
                    f"see {self.place.directory / 'superlink.log'}"
                )
            ended = [worker for worker in self._workers if worker.poll() is not None]
            for worker in ended:
                self._workers.remove(worker)
            if not any(getattr(worker, "spare", False) for worker in self._workers):
                if any(worker.returncode for worker in ended):
                    self._stopping.wait(RESTART_SECONDS)  # a worker that cannot start must not spin
                if not self._stopping.is_set():
                    self._add_worker()

    def leave(self) -> None:
        """Let ``watch`` return; safe in a signal handler."""
        self._stopping.set()

    def stop(self) -> None:
        """End every process that was started."""
        self.leave()
        processes = [*self._workers, *([self._superlink] if self._superlink else [])]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _certified(self) -> Pki:
        """A certificate by the federation's authority where that is here, else the one carried over."""
        folder, needed = self.place.directory / "pki", list(dict.fromkeys([*self.names, _reachable(self.host)]))
        if self.governance is None:
            return carried(folder, needed)
        usual = ("127.0.0.1", "localhost", socket.gethostname())
        return issue(folder, list(dict.fromkeys([*needed, *usual])), authority=self.governance.pki)

    def _add_worker(self) -> None:
        """Start a spare worker and follow its output."""
        if self._pki is None:
            raise ServerError("the coordinator was not started")
        worker = _Worker(
            [
                sys.executable,
                "-m",
                "server.worker",
                self._address(),
                str(self.place.secret),
                str(self._pki.authority),
            ],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._workers.append(worker)
        threading.Thread(target=self._follow, args=(worker,), daemon=True).start()

    def _follow(self, worker: _Worker) -> None:
        """Copy a worker's output to the log; notice when it is no longer a spare."""
        with (self.place.directory / "worker.log").open("a", encoding="utf-8") as log:
            for line in worker.stdout or ():
                if line.strip() == BUSY:
                    worker.spare = False
                log.write(line)
                log.flush()

    def _spawn(self, *arguments: str, log: str) -> subprocess.Popen[str]:
        """Start a Python process of ours with its output in a log file."""
        with (self.place.directory / log).open("a", encoding="utf-8") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def _address(self) -> str:
        """Where this machine's own processes reach the SuperLink."""
        host = _reachable(self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def _environment(self) -> dict[str, str]:
        """Flower's settings for a quiet, self-contained service."""
        return (
            dict(os.environ)
            | ENVIRONMENT
            | {
                "CONFIDE_HOME": str(home()),
                "FLWR_HOME": str(self.place.directory / "flower"),
                TOKEN_FILE: str(self.place.token),
                # Flower's older gRPC interfaces would stand beside the guarded one.
                "FLWR_INTERNAL_GRPC_CONTROL_API": "0",
                "FLWR_INTERNAL_GRPC_FLEET_API": "0",
            }
        )

    def _await_port(self) -> None:
        """Wait until the SuperLink listens."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._superlink is not None and self._superlink.poll() is not None:
                break
            try:
                with socket.create_connection((_reachable(self.host), self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise ServerError(f"the SuperLink did not start; see {self.place.directory / 'superlink.log'}")


class _Worker(subprocess.Popen[str]):
    """A worker process; ``spare`` until it takes a run."""

    spare = True


def _refuse_taken(host: str, port: int) -> None:
    """Raise :class:`PortInUseError` with the fix if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} on {host}: {error.strerror}; stop the other program or give --port"
            ) from None


def _reachable(host: str) -> str:
    """An address that reaches a wildcard listener."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
