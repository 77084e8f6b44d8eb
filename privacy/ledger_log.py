"""The chain of entries on this machine: decide and append in one transaction, whoever else is at it.

The state that entries add up to is kept in memory and caught up, inside each transaction, with what other processes
have appended meanwhile.
"""

from __future__ import annotations

import gc
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy import ledger_store, merkle
from privacy.book import Book
from privacy.canonical import timestamp
from privacy.entries import ENTRY_LABEL, Draft, Entry
from privacy.errors import ClockMovedBack, LedgerBehind, LedgerDamaged, LedgerError, PolicyError
from privacy.ledger_store import Store
from privacy.policy import Policy, verify

# Clocks are set back by this much in ordinary operation.
CLOCK_SECONDS = 300


@dataclass
class View:
    """A ledger's state at one moment, and the file it stands in."""

    log: Log
    book: Book
    connection: sqlite3.Connection

    def policy(self) -> Policy:
        """The policy in force.

        Raises:
            PolicyError: there is none.
        """
        if self.book.policy is None:
            raise PolicyError("no policy is in force, so every run is denied; write one and sign it")
        return self.log.parsed(self, self.book.policy)


@dataclass
class Transaction(View):
    """A state that nobody else appends to meanwhile; ``now`` is the time of what is appended (Unix seconds)."""

    now: int
    appended: bool = False

    def append(self, draft: Draft) -> Entry:
        """Sign and add an entry."""
        book, key = self.book, self.log.signing_key()
        policy = draft.ref["digest"] if draft.kind == "policy" else book.policy
        entry = Entry(
            **{field.name: getattr(draft, field.name) for field in fields(Draft)},
            origin=book.origin,
            seq=book.size,
            prev=book.head,
            time=self.now,
            policy_digest=policy,
        )
        raw = entry.raw()
        self.appended = True
        # Taken before it is written: what would contradict the ledger is never committed.
        book.apply(entry, merkle.leaf(raw))
        ledger_store.insert(self.connection, entry.seq, entry.id(entry.seq), raw, key.sign(ENTRY_LABEL + raw))
        return entry


class Log:
    """A ledger's chain; safe with several threads and processes."""

    def __init__(self, store: Store, key: Ed25519PrivateKey | None, clock: Callable[[], float]) -> None:
        self.store = store
        self.key = key
        self.clock = clock
        self._lock = threading.RLock()
        self._book = Book()
        self._policies: dict[str, Policy] = {}

    @contextmanager
    def reading(self) -> Iterator[View]:
        """The state as it is now."""
        with self._lock, self.store.reading() as connection:
            self._catch_up(connection)
            yield View(self, self._book, connection)

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """The state as it is now, to append to; durable once this returns, undone if it raises."""
        with self._lock:
            transaction = None
            try:
                with self.store.writing() as connection:
                    self._catch_up(connection)
                    transaction = Transaction(self, self._book, connection, self.now(self._book))
                    self.require_key(self._book)
                    yield transaction
            except BaseException:
                if transaction is not None and transaction.appended:
                    self._book = Book()  # it has taken what was undone: read it anew
                raise

    def signing_key(self) -> Ed25519PrivateKey:
        """This machine's key.

        Raises:
            LedgerError: the ledger was opened without it.
        """
        if self.key is None:
            raise LedgerError("the ledger was opened without its key, so nothing can be signed; open it with the key")
        return self.key

    def require_key(self, book: Book) -> None:
        """Refuse to sign with a key that is not the ledger's, or is no longer."""
        if self.signing_key().public_key().public_bytes_raw() != book.key:
            raise LedgerError(
                f"ledger {book.origin}: the key given is not the one that signs it now; open it with this machine's "
                "identity key"
            )

    def now(self, book: Book) -> int:
        """The time that the next entry gets, in Unix seconds.

        Raises:
            ClockMovedBack: the clock stands before the last entry.
        """
        now = self.clock_seconds()
        if now + CLOCK_SECONDS < book.time:
            raise ClockMovedBack(
                f"this machine's clock says {timestamp(max(now, 0))}, but the ledger's last entry is of "
                f"{timestamp(book.time)}; set the clock right"
            )
        return max(now, book.time)

    def clock_seconds(self) -> int:
        """What the clock says."""
        found = self.clock()
        return int(found) if math.isfinite(found) else 0

    def parsed(self, view: View, digest: str) -> Policy:
        """A policy of this ledger by its digest.

        Raises:
            LedgerDamaged: its text is missing, or is not the one that was signed.
        """
        if digest not in self._policies:
            text, signature = ledger_store.policies(view.connection).get(digest, (b"", b""))
            try:
                verify(text, signature, view.book.policies[digest])
                policy = Policy.parse(text)
            except PolicyError as error:
                raise LedgerDamaged(f"policy {digest[:16]} of the ledger: {error}") from None
            if policy.digest != digest:
                raise LedgerDamaged(f"policy {digest[:16]} of the ledger: its text is another one")
            self._policies[digest] = policy
        return self._policies[digest]

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Take what was appended since, by whomever; refuse a file that is not the one of before."""
        book = self._book
        found = ledger_store.chain(connection, max(book.size - 1, 0))
        if not book.size and not found:
            raise LedgerDamaged(f"{self.store.file}: holds no entry; {ledger_store.RESTORE}")
        if book.size:
            if not found or merkle.leaf(found[0][0]) != book.leaves[-1]:
                raise LedgerBehind(
                    f"{self.store.file}: not the file it was {book.size} entries ago: it was replaced while in use; "
                    f"put the newest one back, or stop, and {ledger_store.RESTORE}"
                )
            del found[0]
        try:
            with _no_collecting():
                self._take(found)
        except LedgerDamaged:
            self._book = Book()
            raise

    def _take(self, found: list[tuple[bytes, bytes]]) -> None:
        """Take entries and check the newest's signature: each names the hash of the one before, so it covers all."""
        book = self._book
        for left, (raw, signature) in zip(range(len(found) - 1, -1, -1), found, strict=True):
            entry = Entry.replay(raw)
            if left == 0:
                require_signature(signer(book, entry), signature, ENTRY_LABEL + raw, f"entry {entry.seq}")
            book.apply(entry, merkle.leaf(raw))


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Nothing that is read is garbage, and a collector that looks for some doubles the time of opening."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def signer(book: Book, entry: Entry) -> bytes:
    """The public key that must have signed the entry which comes next."""
    if not book.size and entry.kind != "genesis":
        raise LedgerDamaged(f"entry {entry.seq} of the ledger: it begins with something else than its beginning")
    return book.key if book.size else bytes.fromhex(entry.ref["key"])


def require_signature(key: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Check one signature of the ledger.

    Raises:
        LedgerDamaged: it does not hold.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise LedgerDamaged(
            f"{what} of the ledger: the signature does not hold, so it was changed, or moved here; "
            f"{ledger_store.RESTORE}"
        ) from None


def create(store: Store, key: Ed25519PrivateKey, clock: Callable[[], float], *, origin: str, name: str) -> None:
    """Make the file with its first entry."""
    store.create()
    log, book = Log(store, key, clock), Book()
    with store.writing(create=True) as connection:
        book.origin = origin
        genesis = Draft(kind="genesis", ref={"name": name, "key": key.public_key().public_bytes_raw().hex()})
        Transaction(log, book, connection, log.now(book)).append(genesis)
