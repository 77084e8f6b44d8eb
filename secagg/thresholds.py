"""How many members of a cohort must answer: thresholds against a server that lies about who dropped out.

``n`` is the size of a round's cohort, ``c`` how many of its members may collude with the server, and ``m`` the
smallest number of honest members whose sum may be revealed. After Bonawitz et al. 2017 (doi
10.1145/3133956.3133982), whose thresholds bound ``m`` only for a server that shows everybody the same survivors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secagg.errors import FloorError

Mode = Literal["sealed", "strict"]

MIN_COHORT = 3
# The sum over one honest member is that member's vector.
MIN_HONEST = 2
MAX_ELEMENTS = 10**10


def defaults(n: int) -> tuple[int, int]:
    """Return ``(c, m)`` for a federation or cohort of ``n`` members that sets nothing itself.

    Raises:
        FloorError: fewer than three members.
    """
    check_cohort(n)
    if n == MIN_COHORT:
        return 0, 3
    return max(1, n // 10), 2 if n <= 5 else max(3, n // 5)


def threshold(mode: Mode, n: int, c: int, m: int) -> int:
    """Return ``t``, how many members must show the same survivors before a sum can be unmasked.

    Sealed: two inconsistent views reveal sums over disjoint honest sets of at least ``2t - n - c >= m`` members.
    Strict: no two sets of survivors can both be confirmed, and at least ``t - c >= m`` of one are honest.

    Raises:
        FloorError: fewer than three members, ``c < 0``, ``m < 2`` or fewer than ``m`` honest members.
    """
    check_cohort(n)
    if c < 0:
        raise FloorError(f"colluders = {c}: must not be negative; set 0 or more in the roster")
    if m < MIN_HONEST:
        raise FloorError(f"min_honest = {m}: a sum over one member is that member's vector; set at least 2")
    if n - c < m:
        raise FloorError(
            f"cohort = {n}, colluders = {c}, min_honest = {m}: only {n - c} members would be honest; "
            f"ask at least {c + m} members"
        )
    # With n - c >= m neither passes n.
    return (n + c + m + 1) // 2 if mode == "sealed" else max(confirmations(n, c), c + m)


def confirmations(n: int, c: int) -> int:
    """Return how many distinct members must confirm the same survivors in strict mode: ``floor((n + c) / 2) + 1``."""
    return (n + c) // 2 + 1


def check_cohort(n: int) -> None:
    """Refuse cohorts in which a member could subtract its own vector and read another's.

    Raises:
        FloorError: fewer than three members.
    """
    if n < MIN_COHORT:
        raise FloorError(f"cohort = {n}: a sealed sum needs at least {MIN_COHORT} members")


def check_size(n: int, elements: int) -> None:
    """Refuse cohorts whose pairwise masks would take too long.

    Args:
        n: members of the cohort.
        elements: length of one member's vector.

    Raises:
        FloorError: more than 10^10 elements in all.
    """
    if n * elements > MAX_ELEMENTS:
        raise FloorError(
            f"cohort = {n} members of {elements} elements: more than {MAX_ELEMENTS:.0e} in all; "
            f"ask at most {MAX_ELEMENTS // elements} members, or train a smaller model"
        )


@dataclass(frozen=True, kw_only=True)
class Floors:
    """What a member insists on, whatever roster and server say.

    Attributes:
        min_cohort: fewest members in a round, at least 3.
        min_honest: least ``m``, at least 2; None: the default for the cohort at hand, but no more than ``n - c``.
        min_colluders: least ``c`` (a lower ``c`` lowers the threshold); None: the default for the cohort at hand.

    Raises:
        FloorError: a floor that protects nothing.
    """

    min_cohort: int = MIN_COHORT
    min_honest: int | None = None
    min_colluders: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("min_cohort", self.min_cohort, MIN_COHORT),
            ("min_honest", self.min_honest, MIN_HONEST),
            ("min_colluders", self.min_colluders, 0),
        ):
            if value is not None and value < least:
                raise FloorError(f"{name} = {value}: must be at least {least}")

    def check(self, n: int, c: int, m: int) -> None:
        """Refuse a cohort of ``n`` with the roster's ``c`` and ``m`` where one of them lies below its floor.

        Raises:
            FloorError: one does; the text names it.
        """
        if n < self.min_cohort:
            raise FloorError(f"cohort = {n}: below min_cohort = {self.min_cohort}; ask more members")
        colluders, honest = defaults(n)
        least = colluders if self.min_colluders is None else self.min_colluders
        if c < least:
            raise FloorError(f"colluders = {c}: below min_colluders = {least} for {n} members; raise it in the roster")
        # Of three members one of whom may collude, only two can be honest.
        least = min(honest, n - c) if self.min_honest is None else self.min_honest
        if m < least:
            raise FloorError(f"min_honest = {m}: below min_honest = {least} for {n} members; raise it in the roster")
