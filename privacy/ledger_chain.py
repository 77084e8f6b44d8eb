"""What can be seen of a ledger from outside: its entries, checkpoints, proofs, witnesses and keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import ledger_check, ledger_store, merkle, notes
from privacy.entries import KEY_LABEL, Draft, Entry, is_name
from privacy.errors import LedgerBehind, LedgerDamaged, LedgerError
from privacy.ledger_log import Log, View

MOST_SKEW = 600  # seconds: docs/ledger-spec.md, "Verdict"
MOST_WITNESSES = 8
# A witness whose name begins so is named by its key: whoever comes first with the name cannot pin another key to it.
NAMED_BY_KEY = "confide.witness/"


class Chain:
    """The signed chain of entries, and who has seen how much of it; the root of :class:`privacy.ledger.Ledger`."""

    def __init__(self, log: Log) -> None:
        self._log = log

    # --- What it is ----------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """The ledger's name."""
        with self._log.reading() as view:
            return view.book.origin

    @property
    def size(self) -> int:
        """Number of entries."""
        with self._log.reading() as view:
            return view.book.size

    @property
    def key(self) -> bytes:
        """The public key (32 bytes) that signs the next entry."""
        with self._log.reading() as view:
            return view.book.key

    def lines(self) -> Iterator[str]:
        """Yield every entry as it stands in an evidence bundle, without the line feed.

        Take :meth:`checkpoint` first: the lines then hold at least what it is of.
        """
        with self._log.reading() as view:
            found = list(ledger_store.rows(view.connection))
        return (_line(raw, signature) for _, _, raw, signature in found)

    def entry(self, seq: int) -> str:
        """Return one entry as :meth:`lines` has it; raises ValueError if there is none."""
        with self._log.reading() as view:
            for found, _, raw, signature in ledger_store.rows(view.connection, seq):
                if found == seq:
                    return _line(raw, signature)
                break
        raise ValueError(f"seq={seq}: there is no such entry")

    def check_all(self) -> None:
        """Check every entry, signature, policy, checkpoint and kept note; a service does so when it starts.

        Raises:
            LedgerDamaged: something does not hold.
            LedgerBehind: a witness has seen more than is there: the ledger was restored from a backup.
        """
        with self._log.reading() as view:
            ledger_check.check_all(view)

    # --- Checkpoints and witnesses -------------------------------------------------------------------------------

    def checkpoint(self) -> str:
        """Return the signed note of all entries so far."""
        with self._log.reading() as view:
            self._log.require_key(view.book)
            return notes.sign(view.book.origin, view.book.size, view.book.root(), self._log.signing_key())

    def inclusion(self, seq: int, size: int | None = None) -> list[bytes]:
        """Return the proof that entry ``seq`` is among the first ``size`` (default: all); ValueError if it is not."""
        with self._log.reading() as view:
            return merkle.inclusion(_first(view, size), seq)

    def consistency(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Return the proof that the first ``size`` entries (default: all) begin with the first ``old_size``.

        Raises:
            LedgerBehind: there are not as many.
        """
        with self._log.reading() as view:
            leaves = _first(view, size)
            if old_size > len(leaves):
                raise ledger_check.behind(view.book, old_size, "somebody who asks for a proof")
            return merkle.consistency(leaves, old_size)

    def compare(self, note: str) -> None:
        """Compare the ledger with a checkpoint of it that somebody kept.

        Raises:
            LedgerBehind: it is of another ledger, of more entries than there are, or of others.
            LedgerDamaged: it is not signed by this ledger.
        """
        with self._log.reading() as view:
            ledger_check.compare(view.book, notes.parse(note))

    def witnessed(self, note: str, *, name: str, key: bytes) -> None:
        """Keep a checkpoint that a witness has cosigned; a witness's first key is the only one it may use.

        Of the note only the ledger's own signature and this witness's are kept. There is an entry of it too, unless
        all that has come since the witness's last note are such entries.

        Args:
            note: the cosigned note.
            name: the witness's name; ``confide.witness/`` and more is the name of one key only.
            key: its public key, 32 bytes.

        Raises:
            LedgerBehind: the note is of another ledger, of more entries than there are, or of others.
            LedgerDamaged: it is not signed by this ledger, or not cosigned by that witness.
            LedgerError: there are as many witnesses as there may be, and this is another one.
        """
        _require_name(name, key)
        with self._log.writing() as ledger:
            kept = ledger_store.witnesses(ledger.connection)
            pinned, newest = kept.get(name, (key, None))
            if pinned != key:
                raise LedgerDamaged(f"witness {name}: cosigns with another key than before; ask who runs it")
            if newest is None and len(kept) >= MOST_WITNESSES:
                raise LedgerError(
                    f"witness {name}: {len(kept)} others have cosigned this ledger already, and at most "
                    f"{MOST_WITNESSES} may; ask who runs them"
                )
            book, found = ledger.book, notes.parse(note)
            ledger_check.compare(book, found)
            cosignature = found.cosignature(name, key)
            _, _, raw, _ = next(ledger_store.rows(ledger.connection, found.size - 1))
            if notes.verify_cosignature(found, name, key, cosignature) + MOST_SKEW < Entry.replay(raw).time:
                # An auditor would take the entries for dated ahead, and this department for a liar.
                raise LedgerDamaged(
                    f"witness {name}: its cosignature is dated before the entries that it covers; compare the clocks "
                    "of both machines"
                )
            seen = None if newest is None else notes.parse(newest).size
            if seen is not None and seen >= found.size:
                return
            # Else a witness that comes again and again would have something new to witness each time.
            if seen is None or not book.checkpoints.issuperset(range(seen, found.size)):
                ref = {
                    "size": str(found.size),
                    "root": found.root.hex(),
                    "witness": name,
                    "key": key.hex(),
                    "cosignature": base64.b64encode(cosignature).decode(),
                }
                ledger.append(Draft(kind="checkpoint", ref=ref))
            # Whatever else stands below the note is of no use here, and could be of any length.
            signatures = ((found.origin, found.signature(book.keys)), (name, cosignature))
            own = replace(found, signatures=signatures).text()
            values = (name, key, found.size, own)
            ledger.connection.execute("INSERT OR REPLACE INTO witnesses VALUES (?, ?, ?, ?)", values)
            # Before the end of the transaction: a kept note that is newer than the table is the safe way round.
            ledger_store.write_notes(self._log.store.folder, {**kept, name: (key, own)})

    def newest_witness(self) -> dict[str, str]:
        """Return the newest note that each witness has cosigned, by the witness's name."""
        with self._log.reading() as view:
            return {name: note for name, (_, note) in ledger_store.witnesses(view.connection).items()}

    # --- Keys ----------------------------------------------------------------------------------------------------

    def rotate(self, new: Ed25519PrivateKey) -> None:
        """Sign with another key from now on; the old one is not accepted any more.

        Raises:
            LedgerError: the new key was this ledger's before.
        """
        public = new.public_key().public_bytes_raw()
        with self._log.writing() as ledger:
            book = ledger.book
            if public == book.key:
                return
            if public in book.keys:
                raise LedgerError("this key was the ledger's before, and was replaced; make a new one")
            proof = new.sign(KEY_LABEL + f"{book.origin}\n{book.size}".encode())
            ledger.append(Draft(kind="key", ref={"key": public.hex(), "proof": proof.hex()}))
        self._log.key = new


def _require_name(name: str, key: bytes) -> None:
    """Refuse a witness's name that could not be written, or that is another key's."""
    if not is_name(name) or not name.isprintable():
        raise LedgerDamaged("a witness's name has 1 to 128 printable characters")
    if name.startswith(NAMED_BY_KEY) and name != NAMED_BY_KEY + key.hex()[:32]:
        raise LedgerDamaged(f"witness {name}: that is not the name of its key; ask who runs it")


def _line(raw: bytes, signature: bytes) -> str:
    """An entry and its signature, canonical."""
    return f'{{"entry":{raw.decode()},"signature":"{signature.hex()}"}}'


def _first(view: View, size: int | None) -> list[bytes]:
    """The leaves of the first ``size`` entries."""
    leaves = view.book.leaves
    if size is None:
        return leaves
    if not 0 <= size <= len(leaves):
        raise LedgerBehind(f"size={size}: the ledger has {len(leaves)} entries")
    return leaves[:size]
