"""What the privacy room raises.

::

    PrivacyError
    ├── BadPlan            (also ValueError)  a field of a plan, or a combination of fields, is refused
    ├── AccountingError                       no finite epsilon can be computed
    │   └── CannotCalibrate                   no noise multiplier reaches the epsilon asked for
    ├── UnsupportedModule                     no exact per-record gradient exists for a layer
    ├── PlanExceeded                          more steps were asked for than the plan pays for
    └── NonFiniteModel                        training left a parameter that is NaN or infinite
"""

from __future__ import annotations


class PrivacyError(Exception):
    """Root of everything this room raises."""


class BadPlan(PrivacyError, ValueError):
    """A privacy plan is malformed; the message names the field, its value and the fix."""


class AccountingError(PrivacyError):
    """An accountant found no finite epsilon for a mechanism."""


class CannotCalibrate(AccountingError):
    """No admissible noise multiplier meets the requested epsilon."""


class UnsupportedModule(PrivacyError):
    """A layer mixes records, or its per-record gradient cannot be computed exactly."""


class PlanExceeded(PrivacyError):
    """The training loop was asked for more steps than the plan pays for."""


class NonFiniteModel(PrivacyError):
    """A parameter is NaN or infinite after training; such an update must never be sent."""
