"""A real federation on loopback: coordinator and departments as separate processes, all stopped after.

Every member has its own ``CONFIDE_HOME``; nothing of this machine's own state is touched.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from client.config import FILE, load_settings, policy_file, toml_text
from client.datasets import add
from client.enrol import enrol
from client.policies import sign
from models.files import write_atomic
from privacy.policy import TEMPLATE
from server.control import Control
from server.federation import FOLDER, FederationSettings, Governance, found
from server.membership import admit
from server.place import Place
from strategies.environment import ENVIRONMENT, STOP_WITH_PARENT
from strategies.errors import StrategyError
from strategies.introduction import read_request

START_SECONDS = 240.0
STOP_SECONDS = 10.0


class FederationError(StrategyError):
    """A member of a loopback federation did not start, or fell over."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A department to start: its data set (public name, file, declared size), and what its policy says of that."""

    name: str
    dataset: str
    path: Path
    declared_size: int
    policy: str = 'lifetime = { epsilon = "100", delta = "1e-5" }'


@dataclass(kw_only=True)
class Federation:
    """Start with ``with``; every process is stopped at the end, whatever happens.

    The coordinator's machine governs the federation, too. ``allow_clear`` lets every department take part
    in runs that are not sealed.
    """

    directory: Path
    members: Sequence[Member]
    port: int = 0
    allow_clear: bool = False
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Found the federation, enrol and admit every department, start them all."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    @property
    def place(self) -> Place:
        """The coordinator's files."""
        return Place(directory=self.home("coordinator") / "server")

    @property
    def control(self) -> Control:
        """The coordinator's control interface."""
        return self.place.control()

    @property
    def governance(self) -> Governance:
        """What permits runs: ``server.permits.grant(directory, federation.governance)``."""
        return Governance(self.home("coordinator") / FOLDER)

    def home(self, member: str) -> Path:
        """A member's ``CONFIDE_HOME``."""
        return self.directory / member

    def run(self, member: str, *arguments: str) -> str:
        """Run one ``confide`` command as a member; returns its stdout, raises with its stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "confide", *arguments],
            env=self._environment(member),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise FederationError(f"{member}: confide {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start_member(self, member: str, *arguments: str) -> None:
        """Start one long-running ``confide`` command as a member, its output in ``output.log``."""
        self.home(member).mkdir(parents=True, exist_ok=True)
        with (self.home(member) / "output.log").open("ab") as log:
            # A session of its own, so that Ctrl-C reaches us first and everything is stopped in order.
            self.processes[member] = subprocess.Popen(
                [sys.executable, "-m", "confide", *arguments],
                env=self._environment(member),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start_coordinator(self) -> None:
        """Start the coordinator and wait until it knows every department."""
        self.start_member("coordinator", "server", "up")
        names = {member.name for member in self.members}
        self.wait("coordinator", lambda: names <= {known.name for known in self.control.departments()})

    def kill(self, member: str) -> None:
        """Kill a member's processes at once, as a power cut would."""
        process = self.processes.pop(member)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def connected(self) -> list[str]:
        """Departments that are connected now."""
        return [department.name for department in self.control.departments() if department.status == "online"]

    def stop(self) -> None:
        """End every process: politely, then not."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    def _start(self) -> None:
        """Bring the federation up."""
        self.port = self.port or free_port()
        self.home("coordinator").mkdir(parents=True, exist_ok=True)
        found(self.governance.directory, FederationSettings(name="loopback", server=f"127.0.0.1:{self.port}"))
        for member in self.members:
            self._enrol(member)
        self.start_coordinator()
        for member in self.members:
            self.start_member(member.name, "client", "run")
        names = {member.name for member in self.members}
        for name in names:
            self.wait(name, lambda: names <= set(self.connected()))

    def _enrol(self, member: Member) -> None:
        """What an operator and the platform team do once for a department."""
        folder = self.home(member.name) / "client"
        folder.mkdir(parents=True, exist_ok=True)
        made = enrol(folder, name=member.name, invitation=self.governance.invitation)
        if self.allow_clear:
            with (folder / FILE).open("a", encoding="utf-8") as settings:
                settings.write("\n[sealing]\nallow_clear = true\n")
        self.allow(member)
        admit(self.governance, read_request(Path(made["request"])))

    def allow(self, member: Member) -> None:
        """What an operator does for a data set: register it, and sign a policy."""
        size = member.declared_size
        table = f"[dataset.{toml_text(member.dataset)}]\ndeclared_size = {size}\n{member.policy}\n"
        with self._at_home(member.name):
            add(member.dataset, str(member.path), declared_size=size, labels_path=None, person=None, run=None)
            write_atomic(policy_file(), f"{TEMPLATE}\n{table}".encode())
            sign(load_settings(), policy_file())

    @contextmanager
    def _at_home(self, member: str) -> Iterator[None]:
        """Be that member for a moment: its state is this process's."""
        before = os.environ.get("CONFIDE_HOME")
        os.environ["CONFIDE_HOME"] = str(self.home(member))
        try:
            yield
        finally:
            if before is None:
                del os.environ["CONFIDE_HOME"]
            else:
                os.environ["CONFIDE_HOME"] = before

    def wait(self, member: str, ready: object) -> None:
        """Wait until ``ready()`` holds, or say what the member printed."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            process = self.processes[member]
            if process.poll() is not None:
                break
            try:
                if callable(ready) and ready():
                    return
            except Exception:  # noqa: BLE001, S110 - not up yet; the process and the clock are watched
                pass
            time.sleep(0.3)
        raise FederationError(f"{member} did not start: {tail(self.home(member) / 'output.log')}")

    def _environment(self, member: str) -> Mapping[str, str]:
        """The environment of a member's processes."""
        home = str(self.home(member))
        own = {"CONFIDE_HOME": home, "FLWR_HOME": f"{home}/flower", STOP_WITH_PARENT: "1"}
        return dict(os.environ) | ENVIRONMENT | own


def free_port() -> int:
    """A loopback port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(file: Path, lines: int = 5) -> str:
    """The last lines of a log."""
    if not file.exists():
        return "no output"
    return " | ".join(file.read_text(errors="replace").strip().splitlines()[-lines:])
