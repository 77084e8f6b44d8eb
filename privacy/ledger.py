"""The privacy ledger of one department's machine: what its records pay for, append-only, signed, durable.

Reserve before a private record is read, release before a byte leaves, settle at the end; see
``docs/ledger-spec.md`` for the format and the rules, and ``docs/accounting.md`` for why they hold.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import ledger_log, ledger_store
from privacy import policy as policies
from privacy.admission import MOST_ROUNDS, Account, foresee, may_override, members
from privacy.book import Registration
from privacy.costs import Mechanism
from privacy.entries import Draft, is_digest, is_name
from privacy.errors import LedgerError, PolicyError, PolicyRefusal, ReservationError
from privacy.ledger_chain import Chain
from privacy.ledger_log import Log, View
from privacy.ledger_store import Store
from privacy.mounts import refuse_network
from privacy.plan import PrivacyPlan
from privacy.policy import Policy
from privacy.reservation import SPLIT_CHANGED, Reservation
from privacy.status import DatasetStatus, statuses

HASH_BYTES = 32


class Ledger(Chain):
    """A ledger in a folder of its own; any number of these, in threads and processes, may use it at once.

    All methods may raise :class:`LedgerError` where the file cannot be read, and those that write where it cannot be
    made durable, where the clock stands before the newest entry, or where the ledger was opened without its key.
    """

    # --- Opening -------------------------------------------------------------------------------------------------

    @staticmethod
    def exists(folder: Path) -> bool:
        """Tell whether there is a ledger in a folder."""
        file = folder / ledger_store.FILE
        return file.is_file() and file.stat().st_size > 0

    @classmethod
    def create(
        cls, folder: Path, *, key: Ed25519PrivateKey, name: str, clock: Callable[[], float] = time.time
    ) -> Ledger:
        """Begin a ledger.

        Args:
            folder: where; made if need be, on a disk of this machine.
            key: the department's identity key, which signs every entry.
            name: the department's name.
            clock: Unix seconds.

        Raises:
            LedgerError: there is one already, or the disk refuses.
        """
        if not is_name(name):
            raise LedgerError(f"name={name!r}: a department's name has 1 to 128 characters")
        refuse_network(folder)
        slug = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        origin = f"confide.ledger/{slug}/{secrets.token_hex(8)}"
        ledger_log.create(Store(folder), key, clock, origin=origin, name=name)
        return cls.open(folder, key=key, clock=clock)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        key: Ed25519PrivateKey | None = None,
        clock: Callable[[], float] = time.time,
        readonly: bool = False,
    ) -> Ledger:
        """Open a ledger; ``key`` is the key that signs it now, None for reading only.

        This does not check every signature: a service that starts calls :meth:`check_all`.

        Raises:
            LedgerError: there is none, it is damaged, of another version, on a network file system, or signed by
                another key.
        """
        refuse_network(folder)
        log = Log(Store(folder, readonly=readonly or key is None), key, clock)
        with log.reading() as view:
            if key is not None:
                log.require_key(view.book)
        return cls(log)

    # --- Policy and data sets ------------------------------------------------------------------------------------

    def sign_policy(self, text: bytes) -> str:
        """Sign a policy and put it in force; return its digest. The one in force already changes nothing.

        Raises:
            PolicyError: it is none, contradicts itself or a registered data set, or changes which data sets share a
                budget while a run of one of them is open.
        """
        policy = Policy.parse(text)
        with self._log.writing() as ledger:
            book = ledger.book
            if book.policy == policy.digest:
                return policy.digest
            for name, table in policy.datasets.items():
                registered = book.registration(name)
                if registered is not None and registered.declared_size != table.declared_size:
                    raise PolicyError(
                        f'[dataset."{name}"].declared_size = {table.declared_size}: it was registered with another '
                        f"size; write declared_size = {registered.declared_size}, or register its new version first"
                    )
            _refuse_regrouping(ledger, policy)
            signer = book.policies.get(policy.digest)
            if signer is None:
                signature = policies.sign(text, self._log.signing_key())
                ledger.connection.execute("INSERT INTO policies VALUES (?, ?, ?)", (policy.digest, text, signature))
            elif signer != book.key:
                raise PolicyError(
                    "a policy of exactly these bytes was signed with an earlier ledger key; add a comment line to it, "
                    "so that the two can be told apart"
                )
            ledger.append(Draft(kind="policy", ref={"digest": policy.digest, "supersedes": book.policy}))
        return policy.digest

    def policy(self) -> Policy:
        """Return the policy in force; raises :class:`PolicyError` if there is none."""
        with self._log.reading() as view:
            return view.policy()

    def policies(self) -> dict[str, tuple[bytes, bytes]]:
        """Return every policy that was ever in force: digest to text and signature."""
        with self._log.reading() as view:
            return ledger_store.policies(view.connection)

    def register(self, dataset: str, *, declared_size: int, commitment: bytes, split: bytes) -> Registration:
        """Register a data set, or the next version of one; with nothing changed, nothing happens.

        Args:
            dataset: its name, 1 to 128 characters.
            declared_size: its public size.
            commitment: 32 bytes that change with its content, and say nothing else about it.
            split: 32 bytes that change with how records are held out.

        Raises:
            LedgerError: an argument is out of range, or records would be held out in another way while a run is open.
        """
        if not is_name(dataset):
            raise LedgerError(f"dataset={dataset!r}: a data set's name has 1 to 128 characters")
        if declared_size < 1 or not len(commitment) == len(split) == HASH_BYTES:
            raise LedgerError(f"data set {dataset}: declared_size must be at least 1, commitment and split 32 bytes")
        with self._log.writing() as ledger:
            known = ledger.book.registration(dataset)
            new = Registration(
                lineage=known.lineage if known else secrets.token_hex(16),
                version=known.version + 1 if known else 1,
                declared_size=declared_size,
                commitment=commitment,
                split=split,
            )
            if known is not None and known == replace(new, version=known.version):
                return known
            _refuse_resplitting(ledger, dataset, split)
            ref = {
                "lineage": new.lineage,
                "version": str(new.version),
                "declared_size": str(declared_size),
                "commitment": commitment.hex(),
                "split": split.hex(),
            }
            ledger.append(Draft(kind="dataset", dataset=dataset, ref=ref))
        return new

    def registration(self, dataset: str) -> Registration | None:
        """Return a data set's newest version, or None."""
        with self._log.reading() as view:
            return view.book.registration(dataset)

    def registrations(self) -> dict[str, Registration]:
        """Return the newest version of every data set."""
        with self._log.reading() as view:
            return {name: versions[-1] for name, versions in view.book.datasets.items()}

    # --- Runs ----------------------------------------------------------------------------------------------------

    def check(self, plan: PrivacyPlan, dataset: str, *, run: str, model: str) -> None:
        """Ask whether :meth:`reserve` would do; nothing is written.

        Raises:
            PolicyError: no policy is in force.
            PolicyRefusal: the policy does not allow such a run, or the data set is not registered.
            BudgetExceeded: a cap would not hold.
            ReservationError: the run was reserved with another plan, or is over.
        """
        mechanism = Mechanism.from_plan(plan)
        self._foresee(run, dataset, mechanism)
        with self._log.reading() as view:
            if not _reserved(view, run, dataset, mechanism, model=model):
                account = Account(view.book, view.policy(), dataset, self._log.now(view.book))
                account.refuse(mechanism, model)

    def reserve(self, plan: PrivacyPlan, dataset: str, run: str, *, model: str, spec: str) -> Reservation:
        """Reserve all that a run can cost, durably, before a private record is read; once a run.

        Args:
            plan: the whole run.
            dataset: whose records pay.
            run: name of the run. Asked again with the same plan and agreement, its open reservation is returned, if
                the policy now in force would still allow such a run; caps are not looked at again.
            model: kind of model.
            spec: digest of the run's agreement, hexadecimal.

        Raises:
            PolicyError: no policy is in force.
            PolicyRefusal: the policy does not allow such a run, or the data set is not registered.
            BudgetExceeded: a cap would not hold.
            ReservationError: the run was reserved with another plan or agreement, or is over.
        """
        _require_names(run, spec)
        mechanism = Mechanism.from_plan(plan)
        self._foresee(run, dataset, mechanism)
        with self._log.writing() as ledger:
            if not _reserved(ledger, run, dataset, mechanism, spec, model):
                registered = ledger.book.registration(dataset)
                cost = Account(ledger.book, ledger.policy(), dataset, ledger.now).refuse(mechanism, model)
                ledger.append(
                    Draft(
                        kind="reserve",
                        dataset=dataset,
                        run=run,
                        mechanism=mechanism,
                        cost=cost,
                        ref={
                            "spec": spec,
                            "model": model,
                            "dataset_version": str(registered.version if registered else 0),
                        },
                    )
                )
            return Reservation.of(self._log, ledger.book.runs[run])

    def override(self, dataset: str, run: str, *, spec: str) -> Reservation:
        """Let a run train without privacy, where the policy allows that; epsilon is unbounded from then on.

        Raises:
            PolicyError: no policy is in force.
            PolicyRefusal: the policy does not allow it, or the data set is not registered.
            ReservationError: the run is known otherwise.
        """
        _require_names(run, spec)
        with self._log.writing() as ledger:
            known = _reserved(ledger, run, dataset, None, spec)
            if not may_override(ledger.policy(), dataset):
                raise PolicyRefusal(
                    f"data set {dataset}: training without privacy is not allowed by the policy; train with it, or "
                    "set allow_without_privacy = true and sign the policy"
                )
            if not known:
                if ledger.book.registration(dataset) is None:
                    raise PolicyRefusal(f"data set {dataset}: not registered in the ledger; register it first")
                ref = {"spec": spec, "reason": "privacy-off"}
                ledger.append(Draft(kind="override", dataset=dataset, run=run, ref=ref))
            return Reservation.of(self._log, ledger.book.runs[run])

    def reservation(self, run: str) -> Reservation | None:
        """Return a run's open reservation (or override), or None."""
        with self._log.reading() as view:
            found = view.book.runs.get(run)
            return Reservation.of(self._log, found) if found is not None and found.settled is None else None

    def reserve_seq(self, run: str) -> int | None:
        """Return the number of the entry that reserved a run, or None."""
        with self._log.reading() as view:
            found = view.book.runs.get(run)
            return None if found is None or found.reserved is None else found.seq

    def rounds_left(self, dataset: str, mechanism: Mechanism) -> int:
        """Return how many rounds, up to 10,000, one more run with a mechanism's step settings could have.

        Raises:
            PolicyError: no policy is in force.
        """
        with self._log.reading() as view:
            try:
                account = Account(view.book, view.policy(), dataset, self._log.now(view.book))
            except PolicyRefusal:
                return 0
            return account.rounds_left(mechanism, MOST_ROUNDS)

    def _foresee(self, run: str, dataset: str, mechanism: Mechanism) -> None:
        """Compute what takes seconds while nobody waits for the ledger; for a run that is known nothing does."""
        with self._log.reading() as view:
            if run in view.book.runs:
                return
            policy = view.policy()
        foresee(policy, dataset, mechanism)

    def statuses(self) -> list[DatasetStatus]:
        """Return what every registered data set has spent and has left, by name."""
        with self._log.reading() as view:
            return statuses(view)


def _require_names(run: str, spec: str) -> None:
    """Refuse what could not be written."""
    if not is_name(run):
        raise ReservationError(f"run={run!r}: a run's name has 1 to 128 characters")
    if not is_digest(spec):
        raise ReservationError(f"run {run}: spec={spec!r} is no SHA-256 in hexadecimal")


def _reserved(
    view: View,
    run: str,
    dataset: str,
    mechanism: Mechanism | None,
    spec: str | None = None,
    model: str | None = None,
) -> bool:
    """Whether a run is open with exactly this data set, mechanism (None: an override), agreement (None: any) and model.

    Raises ReservationError where it is known otherwise, and PolicyRefusal where the policy in force forbids such runs.
    """
    found = view.book.runs.get(run)
    if found is None:
        return False
    if found.settled is not None:
        raise ReservationError(f"run {run}: was settled; start another run")
    same = found.dataset == dataset and found.reserved == mechanism and found.model == model
    if not same or spec not in {None, found.spec}:
        raise ReservationError(f"run {run}: was reserved with other settings; start another run")
    if mechanism is not None:
        if view.book.split_changed(found):
            raise ReservationError(f"run {run}: {SPLIT_CHANGED}")
        Account(view.book, view.policy(), dataset, view.book.time).refuse_kind(mechanism, model)
    return True


def _refuse_resplitting(view: View, dataset: str, split: bytes) -> None:
    """Refuse what would make compartments add under an open run: it was admitted as if they did not."""
    book, known = view.book, view.book.registration(dataset)
    group = {dataset, *(members(view.policy(), dataset) if book.policy else ())}
    changed = known is not None and known.split != split
    begins_to_add = not book.adds_compartments(group) and len(book.splits(group) | {split}) > 1
    if (changed or begins_to_add) and (running := book.open_runs(group)):
        raise LedgerError(
            f"data set {dataset}: run {running[0]} is open and was admitted with records held out as they were; end it "
            f"first: `confide privacy settle {running[0]}`"
        )


def _refuse_regrouping(view: View, new: Policy) -> None:
    """Refuse another group for a data set with an open run: it was admitted with the budget of the one before."""
    for name in new.datasets:
        running = view.book.open_runs([name])
        if not running:
            continue
        # A table that was taken out meanwhile has not changed what the run was admitted with.
        history = (members(view.log.parsed(view, digest), name) for digest in reversed(view.book.history))
        if sorted(next(filter(None, history), [])) != sorted(members(new, name)):
            raise PolicyError(
                f'[dataset."{name}"].group: run {running[0]} is open, and its budget would be shared with other data '
                f"sets than it was reserved with; end it first: `confide privacy settle {running[0]}`"
            )
