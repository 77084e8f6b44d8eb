"""Checkpoints against the C2SP specifications, read independently; and what a witness refuses."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_home import KEY, START, WITNESS, WITNESS_PUBLIC, key_of

from privacy import merkle, notes
from privacy.errors import LedgerBehind, LedgerDamaged

VECTORS = json.loads((Path(__file__).parent / "vectors/privacy/ledger.json").read_text(encoding="utf-8"))["notes"]
ORIGIN = "confide.ledger/Cardiology/00112233445566ff"
PUBLIC = KEY.public_key().public_bytes_raw()
LEAVES = [merkle.leaf(bytes([i])) for i in range(40)]


def signed(size: int, leaves=LEAVES, key=KEY) -> str:
    return notes.sign(ORIGIN, size, merkle.root(leaves[:size]), key)


def observe(previous: str | None, note: str, proof=(), key: bytes = PUBLIC, now: int = START) -> str:
    return notes.observe(
        previous, note, list(proof), origin_key=key, witness_key=WITNESS, witness_name="coordinator", now=now
    )


def by_hand(origin: str, size: int, root: bytes, time: int) -> str:
    """Signed and cosigned note, word by word from signed-note, tlog-checkpoint and tlog-cosignature."""
    body = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    own = hashlib.sha256(origin.encode() + b"\n\x01" + PUBLIC).digest()[:4] + KEY.sign(body.encode())
    hint = hashlib.sha256(b"coordinator\n\x04" + WITNESS_PUBLIC).digest()[:4]
    other = hint + time.to_bytes(8, "big") + WITNESS.sign(f"cosignature/v1\ntime {time}\n{body}".encode())
    lines = [("coordinator", other)] if time else []
    return body + "\n" + "".join(f"— {n} {base64.b64encode(b).decode()}\n" for n, b in [(origin, own), *lines])


@given(st.integers(1, 40), st.integers(1, 2**40))
def test_notes_are_those_of_the_specification(size: int, now: int) -> None:
    root = merkle.root(LEAVES[:size])
    assert signed(size) == by_hand(ORIGIN, size, root, 0)
    note = observe(None, signed(size), now=now)
    assert note == by_hand(ORIGIN, size, root, now)
    read = notes.parse(note)
    assert (read.origin, read.size, read.root, read.text()) == (ORIGIN, size, root, note)
    cosignature = read.cosignature("coordinator", WITNESS_PUBLIC)
    assert notes.verify_cosignature(read, "coordinator", WITNESS_PUBLIC, cosignature) == now


def test_vector() -> None:
    assert observe(None, signed(7)) == VECTORS["cosigned"]


@given(st.integers(1, 40), st.data())
def test_a_witness_follows_a_ledger_that_grows(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    before = observe(None, signed(old))
    note = observe(before, signed(size), merkle.consistency(LEAVES[:size], old), now=START + 5)
    assert notes.parse(note).size == size
    assert len(notes.parse(note).signatures) == 2


def test_a_witness_refuses_fewer_entries() -> None:
    with pytest.raises(LedgerBehind, match="6 entries, but 7 were witnessed"):
        observe(observe(None, signed(7)), signed(6))


@pytest.mark.parametrize("size", [7, 12])
def test_a_witness_refuses_a_fork(size: int) -> None:
    forked = [*LEAVES[:3], merkle.leaf(b"another"), *LEAVES[4:]]
    with pytest.raises(LedgerDamaged, match="do not begin with the 7 witnessed"):
        observe(observe(None, signed(7)), signed(size, forked), merkle.consistency(forked[:size], 7))


def test_a_witness_refuses_a_proof_of_something_else() -> None:
    before = observe(None, signed(7))
    for proof in ([], merkle.consistency(LEAVES[:12], 6), [*merkle.consistency(LEAVES[:12], 7), bytes(32)]):
        with pytest.raises(LedgerDamaged, match="do not begin with"):
            observe(before, signed(12), proof)
    with pytest.raises(LedgerDamaged, match="nothing was witnessed before"):
        observe(None, signed(7), [bytes(32)])


def test_a_witness_refuses_another_ledger_and_another_key() -> None:
    before = observe(None, signed(7))
    other = notes.sign("confide.ledger/Cardiology/ffffffffffffffff", 7, merkle.root(LEAVES[:7]), KEY)
    with pytest.raises(LedgerDamaged, match=r"has been confide\.ledger/Cardiology/00112233445566ff so far"):
        observe(before, other)
    with pytest.raises(LedgerDamaged, match="not signed by a key of that ledger"):
        observe(None, signed(7, key=key_of(9)))


def test_a_witness_hands_back_the_two_signatures_it_knows_of() -> None:
    note = signed(7) + "— stranger AAAAAAAA\n"
    assert observe(None, note) == observe(None, signed(7))


def test_whose_signature_it_is() -> None:
    note = notes.parse(observe(None, signed(7)))
    with pytest.raises(LedgerDamaged, match="not cosigned by auditor"):
        note.cosignature("auditor", WITNESS_PUBLIC)
    with pytest.raises(LedgerDamaged, match="by another key than was pinned"):
        note.cosignature("coordinator", PUBLIC)
    with pytest.raises(LedgerDamaged, match="not signed by a key"):
        note.signature([WITNESS_PUBLIC])


@given(st.data())
def test_nothing_of_a_note_can_be_changed(data: st.DataObject) -> None:
    text = observe(None, signed(7))
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("0A+/=\n ") | st.characters())
    changed = data.draw(st.sampled_from([text[:at] + character + text[at + 1 :], text[:at] + text[at + 1 :]]))
    if changed == text:
        return
    with pytest.raises(LedgerDamaged):
        note = notes.parse(changed)
        note.signature([PUBLIC])
        note.cosignature("coordinator", WITNESS_PUBLIC)


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_no_notes(text: str) -> None:
    with pytest.raises(LedgerDamaged):
        notes.parse(text)


def test_a_note_is_bounded() -> None:
    with pytest.raises(LedgerDamaged, match="at most"):
        notes.parse(signed(7) + "— stranger AAAAAAAA\n" * 1000)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb", "a\u2003b"])
def test_names_that_a_note_cannot_carry(name: str) -> None:
    with pytest.raises(ValueError, match="no spaces and no"):
        notes.cosign(WITNESS, name, signed(7), START)
