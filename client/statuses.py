"""Which status code of the fixed list stands for an error; its text never leaves the machine."""

from __future__ import annotations

from client.errors import RefusalError
from models.errors import ModelError
from models.inputs.errors import DataError
from privacy.errors import (
    AccountingError,
    BadPlan,
    BudgetExceeded,
    ClockMovedBack,
    LedgerBehind,
    LedgerError,
    PolicyError,
    PolicyRefusal,
    ReservationError,
)
from secagg.errors import SecaggError
from strategies.errors import MessageError, SettingsError
from strategies.status import Status

# The first that fits: subclasses stand before their roots.
_STATUS: tuple[tuple[type[Exception], Status], ...] = (
    (DataError, Status.DATA_UNUSABLE),
    (SecaggError, Status.SEALING_REFUSED),
    (MessageError, Status.BAD_MESSAGE),
    (SettingsError, Status.BAD_MESSAGE),
    (ModelError, Status.BAD_MESSAGE),
    (ClockMovedBack, Status.CLOCK_WRONG),
    (LedgerBehind, Status.LEDGER_BEHIND),
    (LedgerError, Status.STATE_NOT_DURABLE),
    (AccountingError, Status.REFUSED_BY_POLICY),
    (BadPlan, Status.REFUSED_BY_POLICY),
    (BudgetExceeded, Status.REFUSED_BY_POLICY),
    (PolicyError, Status.REFUSED_BY_POLICY),
    (PolicyRefusal, Status.REFUSED_BY_POLICY),
    (ReservationError, Status.REFUSED_BY_POLICY),
)


def status_of(error: Exception) -> Status:
    """The status code that stands for an error."""
    if isinstance(error, RefusalError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), Status.TRAINING_FAILED)
