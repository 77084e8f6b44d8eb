"""What can go wrong on a department's machine.

::

    ClientError
    ├── ConfigError        client.toml or an enrolment file cannot be used
    ├── NotTrustedError    the coordinator cannot be reached safely (certificate, host, key)
    └── RefusalError       an instruction is not carried out; carries the status that may leave
"""

from __future__ import annotations

from strategies.status import Status


class ClientError(Exception):
    """Root of this room's errors."""


class ConfigError(ClientError, ValueError):
    """This machine's configuration cannot be used; the text names field, value and fix."""


class NotTrustedError(ClientError):
    """The coordinator cannot be reached, or must not be trusted."""


class RefusalError(ClientError):
    """An instruction is not carried out. ``status`` leaves the machine, the text stays here."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
