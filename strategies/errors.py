"""What can go wrong while agreeing on, or going through, a run.

::

    StrategyError
    ├── SettingsError      a run file (or an override of it) that cannot be used
    ├── MessageError       a message of the wrong shape, type or version
    ├── RoundAbandonedError     too few departments answered; the model stays as it was
    ├── RunStoppedError         somebody asked for the run to stop
    └── RunFailedError          a run that cannot go on, or brought nothing
"""


class StrategyError(Exception):
    """Root of this room's errors."""


class SettingsError(StrategyError, ValueError):
    """A run file or an override cannot be used; the text names field, value and fix."""


class MessageError(StrategyError, ValueError):
    """A message does not have the agreed shape, type or version."""


class RoundAbandonedError(StrategyError):
    """A round ended below its quorum: the model stays as it was, the cost stays counted."""


class RunStoppedError(StrategyError):
    """The run was asked to stop before its last round."""


class RunFailedError(StrategyError):
    """Not one round of a run could be aggregated, or no department will take part in another."""
