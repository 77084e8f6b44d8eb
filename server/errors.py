"""What can go wrong on the coordinator.

::

    ServerError
    ├── PkiError        certificates or keys cannot be made or used
    ├── PortInUseError  the address is taken
    ├── GovernanceError the federation's own records, or what they are asked for, cannot be
    ├── ControlError    the coordinator's control interface refused or cannot be reached
    ├── RunError        a run directory is missing, damaged, or in the wrong state
    ├── PublishError    a run that may not be published, or could not be
    ├── RegistryError   the model registry is unreachable, refuses, or has no such version
    └── ServingError    a model server that cannot be started
"""


class ServerError(Exception):
    """Root of this room's errors."""


class PkiError(ServerError):
    """Certificates or keys cannot be made or used."""


class PortInUseError(ServerError):
    """The address is taken by another program."""


class GovernanceError(ServerError):
    """The federation's own records are missing or damaged, or cannot be changed as asked."""


class ControlError(ServerError):
    """The control interface refused, or cannot be reached."""


class RunError(ServerError):
    """A run directory is missing, damaged, or in the wrong state."""


class PublishError(ServerError):
    """A run may not be published, or could not be."""


class RegistryError(ServerError):
    """The model registry is unreachable, refuses, or has no such version."""


class ServingError(ServerError):
    """A model server cannot be started."""
