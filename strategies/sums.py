"""Adding up departments' vectors: the seam between the round loop and how vectors travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flwr.serverapp import Grid

from strategies.exchange import exchange
from strategies.lanes import Layout, Total
from strategies.state import RunState
from strategies.wire import Instruction, read_answer


@dataclass(frozen=True, kw_only=True)
class Summed:
    """What a round brought. ``answered`` are the node ids that are in ``total``; the others and why they are not.

    ``total`` is None and ``abandoned`` says why where there is no sum. ``legs`` are the seconds of each exchange.
    """

    answered: tuple[int, ...]
    failures: Mapping[int, str]
    total: Total | None
    legs: tuple[float, ...]
    abandoned: str | None = None


class Sums(Protocol):
    """One way of adding vectors up."""

    @property
    def smallest(self) -> int:
        """How many departments a cohort must have at least."""

    def ready(self, state: RunState, present: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """The departments (node id -> name) that can be asked in the next round, after whatever set-up they need.

        There may be fewer than ``needed``, for now; raises :class:`strategies.errors.RunFailedError` where waiting
        would not help.
        """

    def gather(self, state: RunState, cohort: Mapping[int, str], instruction: Instruction, quorum: int) -> Summed:
        """Ask the cohort and add up what comes back."""


@dataclass(frozen=True, kw_only=True)
class ClearSums:
    """The coordinator sees every vector: simulations, and departments that allow it."""

    grid: Grid
    layout: Layout
    deadline: float
    stopped: Callable[[], bool]

    @property
    def smallest(self) -> int:
        """Any number can be added up in clear."""
        return 1

    def ready(self, state: RunState, present: Mapping[int, str], needed: int) -> Mapping[int, str]:
        """Everybody present: nothing is to be set up."""
        return present

    def gather(self, state: RunState, cohort: Mapping[int, str], instruction: Instruction, quorum: int) -> Summed:
        """One exchange; the vectors are added in node order."""
        gathered = exchange(
            self.grid,
            dict.fromkeys(cohort, instruction.to_record()),
            read=lambda _node, reply: read_answer(reply, self.layout),
            deadline=self.deadline,
            quorum=quorum,
            stopped=self.stopped,
        )
        vectors = list(gathered.answers.values())
        return Summed(
            answered=tuple(gathered.answers),
            failures=gathered.failures,
            total=self.layout.total(vectors) if vectors else None,
            legs=(gathered.seconds,),
            abandoned=None
            if len(vectors) >= quorum
            else f"{len(vectors)} of {len(cohort)} departments answered, the quorum is {quorum}",
        )
