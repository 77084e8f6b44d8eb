"""``confide client run``: the service on a department's machine.

It watches one working process (:mod:`client.node`): starts it, keeps its log, starts it again when
it falls over, and gives up with a clear word where trying again cannot help. While the server is
away the working process keeps trying.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from client.config import ClientSettings, directory
from client.errors import ConfigError, NotTrustedError
from client.log import take
from models.files import write_atomic
from strategies.environment import ENVIRONMENT

logger = logging.getLogger("confide.client")

CONNECT_SECONDS = 5.0
RESTART_SECONDS = 3.0
WATCH_SECONDS = 0.2
ALREADY_RUNNING = 3  # the working process leaves with this when another holds the lock
# What Flower prints when the SuperLink does not know this machine's key, and when it does.
NOT_ADMITTED = ("Failed to initialize the connection",)
CONNECTED = "SuperNode ID"
# After a crash the coordinator takes this machine for connected until its heartbeat is missed, and refuses it again.
REFUSED_SECONDS = 240.0


def check_connection(settings: ClientSettings) -> None:
    """Refuse what can only fail later: a bad certificate, another host's, a missing key.

    A coordinator that is merely away is no error: the service waits for it. Raises
    :class:`ConfigError` and :class:`NotTrustedError`.
    """
    certificate, key = Path(settings.root_certificate), Path(settings.private_key)
    for field, file in (("root_certificate", certificate), ("private_key", key)):
        if not file.is_file():
            raise ConfigError(f"{field} = {file}: no such file; copy it there or correct client.toml")
    try:
        authorities = x509.load_pem_x509_certificates(certificate.read_bytes())
    except ValueError:
        raise ConfigError(
            f"root_certificate = {certificate}: not a PEM certificate; ask the platform team for ca.pem"
        ) from None
    for authority in authorities:
        if authority.not_valid_after_utc < datetime.now(UTC):
            raise NotTrustedError(
                f"root_certificate = {certificate}: expired on {authority.not_valid_after_utc:%Y-%m-%d}; "
                "ask the platform team for the new one"
            )
    host, _, port = settings.server.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise NotTrustedError(
            f"server = {settings.server}: its certificate is refused ({error.verify_message}); "
            "check the server's name in client.toml and that root_certificate is this coordinator's"
        ) from None
    except ssl.SSLError as error:
        raise NotTrustedError(f"server = {settings.server}: no TLS there ({error.reason}); check the port") from None
    except socket.gaierror:
        raise ConfigError(f"server = {settings.server}: unknown host name; correct it in client.toml") from None
    except OSError as error:
        logger.warning("server %s is not reachable yet (%s); will keep trying", settings.server, error.strerror)


class Service:
    """Watches the working process; ``work`` until ``stop``."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._said: list[str] = []
        self._secret = directory() / "runtime.secret"
        self._admitted = directory() / "admitted"  # exists once this machine has been connected
        self._refused_since: float | None = None

    def stop(self) -> None:
        """Let ``work`` return; safe in a signal handler."""
        self._stopping.set()

    def work(self) -> None:
        """Keep the working process alive until stopped; raises :class:`NotTrustedError`."""
        write_atomic(self._secret, secrets.token_hex(32).encode(), secret=True)
        while not self._stopping.is_set():
            process = self._launch()
            try:
                while process.poll() is None and not self._stopping.is_set():
                    self._stopping.wait(WATCH_SECONDS)
            finally:
                _end(process)
            if self._stopping.is_set():
                return
            self._explain(process.returncode)
            self._stopping.wait(RESTART_SECONDS)

    def _explain(self, code: int) -> None:
        """Give up if this machine is not admitted; otherwise say that it starts again."""
        if code == ALREADY_RUNNING:
            raise ConfigError(f'{directory()}: another "confide client run" answers for this machine; stop it first')
        reason = next((line for line in self._said if any(mark in line for mark in NOT_ADMITTED)), None)
        if reason is None:
            logger.warning("the working process ended with code %s; starting it again", code)
            return
        since = self._refused_since = self._refused_since or time.monotonic()
        if not self._admitted.exists() or time.monotonic() - since > REFUSED_SECONDS:
            raise NotTrustedError(
                f"server = {self._settings.server}: does not admit this machine's key; ask the platform team to run "
                f'"confide federation admit" with {directory() / "enrolment-request.json"}'
            )
        logger.warning("refused by %s, which may take an earlier process for connected", self._settings.server)

    def _launch(self) -> subprocess.Popen[str]:
        """Start the working process and follow its output."""
        port = str(_free_port())  # a fresh one each time: somebody else may have taken the last
        command = [
            *(sys.executable, "-m", "client.node", str(self._secret), port),
            *("--superlink", self._settings.server),
            *("--root-certificates", self._settings.root_certificate),
            *("--auth-supernode-private-key", self._settings.private_key),
            *("--isolation", "process", "--host", "127.0.0.1", "--port", port),
            *("--superexec-auth-secret-file", str(self._secret)),
        ]
        process = subprocess.Popen(
            command,
            env=os.environ | ENVIRONMENT | {"FLWR_HOME": str(directory() / "flower")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._said = []
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()
        return process

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Write the working process's output to the log."""
        for line in process.stdout or ():
            take(line)
            self._said = [*self._said[-50:], line]
            if CONNECTED in line:
                logger.info("connected to %s", self._settings.server)
                with suppress(OSError):  # a full disk; this thread must go on reading what the process says
                    self._admitted.touch()
                self._refused_since = None


def _end(process: subprocess.Popen[str]) -> None:
    """Stop the working process: politely, then not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    """A loopback port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
