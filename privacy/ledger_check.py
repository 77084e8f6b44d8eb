"""Is the ledger on this machine whole, and is it the newest? What a service asks before it trains."""

from __future__ import annotations

import base64

from privacy import ledger_store, merkle, notes
from privacy.book import Book
from privacy.entries import ENTRY_LABEL, KEY_LABEL, Entry
from privacy.errors import LedgerBehind, LedgerDamaged
from privacy.ledger_log import Log, View, require_signature, signer
from privacy.ledger_store import RESTORE
from privacy.notes import Note


def check_all(view: View) -> None:
    """Replay everything strictly: form, order, signatures, policies, checkpoints, and the notes that were kept.

    Raises:
        LedgerDamaged: something does not hold.
        LedgerBehind: a kept note is of more entries than there are, or of others.
    """
    book, checkpoints = Book(), []
    for seq, name, raw, signature in ledger_store.rows(view.connection):
        entry = Entry.parse(raw)
        if name != entry.id(entry.seq) or seq != entry.seq:
            raise LedgerDamaged(f"entry {seq} of the ledger is stored as another one; {RESTORE}")
        require_signature(signer(book, entry), signature, ENTRY_LABEL + raw, f"entry {seq}")
        if entry.kind == "key":
            require_signature(
                bytes.fromhex(entry.ref["key"]),
                bytes.fromhex(entry.ref["proof"]),
                KEY_LABEL + f"{entry.origin}\n{seq}".encode(),
                f"entry {seq} (its new key)",
            )
        book.apply(entry, merkle.leaf(raw))
        if entry.kind == "checkpoint":
            checkpoints.append(entry)
    _checkpoints(checkpoints, book.leaves)
    # Another log: this one's has parsed its policies before.
    anew = View(Log(view.log.store, None, view.log.clock), book, view.connection)
    for digest in book.policies:
        anew.log.parsed(anew, digest)
    stored = ledger_store.witnesses(view.connection)
    beside = ledger_store.read_notes(view.log.store.folder)
    for kept in (stored, beside):
        for name, (key, note) in kept.items():
            found = notes.parse(note)
            compare(book, found, witness=name)
            found.cosignature(name, key)


def compare(book: Book, note: Note, *, witness: str | None = None) -> None:
    """Compare the ledger with a checkpoint of it that somebody kept.

    Raises:
        LedgerBehind: it is of another ledger, of more entries than there are, or of others.
        LedgerDamaged: it is not signed by this ledger.
    """
    who = f"witness {witness}" if witness else "a witness"
    if note.origin != book.origin:
        raise LedgerBehind(
            f"ledger {book.origin}: {who} has seen ledger {note.origin} of this department, which was replaced by a "
            f"new one. What was spent before is not in it, {_WHAT_TO_DO}"
        )
    if note.size > book.size:
        # A key that came after what was lost is not known here; then all that can be said is that it is not ours.
        note.signature(book.keys)
        raise behind(book, note.size, who)
    note.signature(book.keys)
    if merkle.root(book.leaves[: note.size]) != note.root:
        raise LedgerBehind(
            f"ledger {book.origin}: {who} has seen {note.size} entries that are not the first {note.size} here: it "
            f"was restored from a backup and then went on, or was forked. {_LOST}"
        )


def behind(book: Book, seen: int, who: str) -> LedgerBehind:
    """The error of a ledger that has lost entries."""
    return LedgerBehind(
        f"ledger {book.origin}: it has {book.size} entries here, but {who} has seen {seen}: it was restored from a "
        f"backup. {_LOST}"
    )


_WHAT_TO_DO = (
    "so nothing may be trained. Put the newest copy of the ledger's folder back; "
    "if there is none, tell the governance: the department needs a new ledger, in which its data sets' caps are spent"
)
_LOST = f"What was spent since is not in it, {_WHAT_TO_DO}"


def _checkpoints(entries: list[Entry], leaves: list[bytes]) -> None:
    """Check ``checkpoint`` entries: the root of as many leaves as each names, and its cosignature."""
    tree = merkle.Frontier()
    for entry in sorted(entries, key=lambda entry: int(entry.ref["size"])):
        ref, size = entry.ref, int(entry.ref["size"])
        for leaf in leaves[tree.size : size]:
            tree.append(leaf)
        note = Note(origin=entry.origin, size=size, root=tree.root())
        if bytes.fromhex(ref["root"]) != note.root:
            raise LedgerDamaged(f"entry {entry.seq} of the ledger: not the root of the first {size} entries; {RESTORE}")
        notes.verify_cosignature(note, ref["witness"], bytes.fromhex(ref["key"]), base64.b64decode(ref["cosignature"]))
