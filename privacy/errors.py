"""What the privacy room raises.

::

    PrivacyError
    ├── BadPlan            (also ValueError)  a field of a plan, or a combination of fields, is refused
    ├── AccountingError                       no finite epsilon can be computed
    │   └── CannotCalibrate                   no noise multiplier reaches the epsilon asked for
    ├── UnsupportedModule                     no exact per-record gradient exists for a layer
    ├── PlanExceeded                          more steps were asked for than the plan pays for
    ├── NonFiniteModel                        training left a parameter that is NaN or infinite
    ├── PolicyError        (also ValueError)  a policy is missing, unsigned, malformed or contradictory
    ├── PolicyRefusal                         the policy does not allow such a run
    ├── BudgetExceeded                        a cap would not hold
    ├── ReservationError                      something outside what was reserved
    └── LedgerError                           the ledger cannot be used
        ├── LedgerDamaged                     an entry or a checkpoint fails its checks
        ├── LedgerVersion                     it was written by another version
        ├── LedgerBehind                      a witness has seen more of it: restored from a backup
        ├── LedgerUnwritable                  the disk refuses, or is a network's
        └── ClockMovedBack                    the clock stands before the newest entry
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


class PolicyError(PrivacyError, ValueError):
    """A privacy policy cannot be used; the message names the key, its value and the fix."""


class PolicyRefusal(PrivacyError):
    """The policy in force does not allow such a run; the message says which key, and what would be allowed."""


class BudgetExceeded(PrivacyError):
    """A run would break a cap.

    Attributes:
        dataset: whose cap.
        cap: which one, as the policy's key: ``"lifetime"``, ``"period"``, ``"per_run"``, ``"max_steps"``, ...
        allowed: the cap.
        would_be: what it would come to with the run.
        fits: what would be admitted instead, as a clause; empty where nothing would.
    """

    def __init__(self, *, dataset: str, cap: str, allowed: float, would_be: float, fits: str) -> None:
        over = would_be - allowed
        super().__init__(
            f"data set {dataset}: the run would bring {cap} to {would_be:.4g}, {over:.3g} more than its cap of "
            f"{allowed:.4g}; {fits or 'nothing of this run fits any more'}"
        )
        self.dataset, self.cap, self.allowed, self.would_be, self.fits = dataset, cap, allowed, would_be, fits


class ReservationError(PrivacyError):
    """A release or a settlement that no open reservation covers, or that contradicts an earlier one."""


class LedgerError(PrivacyError):
    """The ledger cannot be used; nothing may be trained until it can."""


class LedgerDamaged(LedgerError):
    """An entry, its signature, the chain or a checkpoint does not hold."""


class LedgerVersion(LedgerError):
    """The ledger was written by another version of Confide."""


class LedgerBehind(LedgerError):
    """A witness has seen a longer or another ledger: this one was restored from a backup, or forked."""


class LedgerUnwritable(LedgerError):
    """The ledger cannot be made durable here."""


class ClockMovedBack(LedgerError):
    """The machine's clock stands before the newest entry."""
