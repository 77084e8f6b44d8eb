"""The coordinator's files on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from server.errors import ServerError
from strategies.home import room

if TYPE_CHECKING:
    from server.control import Control


@dataclass(frozen=True, kw_only=True)
class Place:
    """The coordinator's files under ``CONFIDE_HOME/server``."""

    directory: Path

    @property
    def token(self) -> Path:
        """Token of the control interface, 0600."""
        return self.directory / "control.token"

    @property
    def secret(self) -> Path:
        """Secret with which workers take runs, 0600."""
        return self.directory / "runtime.secret"

    @property
    def address(self) -> Path:
        """Where the running coordinator listens, as host:port."""
        return self.directory / "address"

    def control(self) -> Control:
        """The control interface of the coordinator on this machine; raises :class:`ServerError`."""
        from server.control import Control  # noqa: PLC0415 - brings Flower along

        try:
            address, token = self.address.read_text().strip(), self.token.read_text().strip()
        except OSError:
            raise ServerError(
                f'{self.directory}: no coordinator was started here; run "confide server up" (or set CONFIDE_HOME)'
            ) from None
        return Control(address=address, authority=self.directory / "pki" / "ca.pem", token=token)


def place() -> Place:
    """This machine's coordinator files."""
    return Place(directory=room("server"))


def runs_directory() -> Path:
    """Where the coordinator keeps its runs."""
    path = room("server") / "runs"
    path.mkdir(exist_ok=True)
    return path
