"""One run's reservation: what may leave the machine, what has, and its end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from privacy.book import Released, Run
from privacy.costs import Cost
from privacy.entries import Draft, is_digest, is_name
from privacy.errors import ReservationError
from privacy.ledger_log import Log, View
from privacy.plan import PrivacyPlan

SPLIT_CHANGED = (
    "records of its data set are held out in another way since; end it with `confide privacy settle` and start another"
)


@dataclass(frozen=True, eq=False)
class Reservation:
    """What a run of ``dataset`` may release; entry ``seq`` of the ledger says so.

    ``plan`` is what was reserved, or None for a run that trains without privacy by an override: it has no budget to
    keep within, and nothing to settle.
    """

    log: Log
    run: str
    dataset: str
    seq: int
    plan: PrivacyPlan | None

    @classmethod
    def of(cls, log: Log, run: Run) -> Reservation:
        """The reservation of a run in the book."""
        plan = None if run.reserved is None else run.reserved.plan()
        return cls(log=log, run=run.name, dataset=run.dataset, seq=run.seq, plan=plan)

    @property
    def open(self) -> bool:
        """Whether the run has not been settled."""
        with self.log.reading() as view:
            return self._in(view).settled is None

    def released(self, round: int) -> Released | None:
        """Return what left in a round, or None."""
        with self.log.reading() as view:
            return self._in(view).releases.get(round)

    def release(self, round: int, *, train: bool, evaluate: bool, model: str, update: str) -> None:
        """Write down, durably, what is about to leave the machine; the bytes must be cached durably before.

        Asking again with the same arguments changes nothing: the same cached bytes may leave again.

        Args:
            round: number of the round.
            train: whether an update leaves.
            evaluate: whether validation metrics leave.
            model: SHA-256 of the received model, hexadecimal.
            update: SHA-256 of the bytes that leave, hexadecimal.

        Raises:
            ReservationError: the round was released with other contents, or abandoned; the run was settled; its
                data set's records are held out in another way since; or this is more than was reserved.
        """
        wanted = Released(train=train, evaluate=evaluate, model=model, update=update)
        for name, value in (("model", model), ("update", update)):
            if not is_digest(value):
                raise ReservationError(f"run {self.run}: {name}={value!r} is no SHA-256 in hexadecimal")
        with self.log.writing() as ledger:
            run = self._in(ledger)
            known = run.releases.get(round)
            if known == wanted:
                return
            if known is not None:
                what = "model" if known.model != model else "update"
                raise self._error(
                    f"round {round} was released with another {what}; a second answer to one round would cost twice "
                    "what is accounted, so it gets the cached answer or none"
                )
            self._require_open(run)
            if ledger.book.split_changed(run):
                raise self._error(SPLIT_CHANGED)
            if round in run.abandoned:
                raise self._error(f"round {round} was abandoned; wait for the next one")
            reserved = run.reserved
            if reserved is not None and train and run.trained >= reserved.rounds:
                raise self._error(f"all {reserved.rounds} reserved rounds were released; round {round} is one too many")
            if reserved is not None and evaluate and run.evaluated >= reserved.evaluations:
                raise self._error(
                    f"{reserved.evaluations} releases of metrics were reserved and made; this is one more"
                )
            ref = {"round": str(round), "train": train, "evaluate": evaluate, "model": model, "update": update}
            ledger.append(Draft(kind="release", dataset=self.dataset, run=self.run, ref=ref))

    def abandon(self, round: int, reason: str) -> None:
        """Write down that a round failed and that status code ``reason`` left the machine; nothing is given back.

        Raises:
            ReservationError: the round was released, or the run was settled.
        """
        if not is_name(reason):
            raise ReservationError(f"run {self.run}: reason={reason!r} is no status code")
        with self.log.writing() as ledger:
            run = self._in(ledger)
            if round in run.releases:
                raise self._error(f"round {round} was released and cannot be abandoned any more")
            if round in run.abandoned:
                return
            self._require_open(run)
            ref = {"round": str(round), "reason": reason}
            ledger.append(Draft(kind="abandon", dataset=self.dataset, run=self.run, ref=ref))

    def settle(self) -> None:
        """End the run: from now on it costs what was released, and nothing more can be. Once is enough."""
        with self.log.writing() as ledger:
            run = self._in(ledger)
            if run.settled is not None or run.reserved is None:
                return
            executed = replace(run.reserved, rounds=run.trained, evaluations=run.evaluated)
            ledger.append(
                Draft(
                    kind="settle",
                    dataset=self.dataset,
                    run=self.run,
                    mechanism=executed,
                    cost=Cost.of(executed, ledger.policy().orders),
                    ref={"reservation": str(run.seq)},
                )
            )

    def _in(self, view: View) -> Run:
        """The run, as the ledger has it now."""
        run = view.book.runs.get(self.run)
        if run is None or run.seq != self.seq:
            raise self._error("the ledger has no such reservation any more")
        return run

    def _require_open(self, run: Run) -> None:
        """Refuse to add to what is over."""
        if run.settled is not None:
            raise self._error("was settled; start another run")

    def _error(self, why: str) -> ReservationError:
        """An error that names the run."""
        return ReservationError(f"run {self.run}: {why}")
