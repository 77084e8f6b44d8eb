"""Known-answer vectors of docs/ledger-spec.md, from an independent writer, against the ledger and the verifier."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import canonical, merkle, notes, policy
from privacy import verify_values as read
from privacy.book import Book
from privacy.costs import Cost, Mechanism
from privacy.entries import Entry
from privacy.errors import PolicyError

FOLDER = Path(__file__).parent / "vectors" / "privacy"
VECTORS: dict[str, Any] = json.loads((FOLDER / "reference.json").read_text("ascii"))
LEAVES = [bytes.fromhex(entry["leaf"]) for entry in VECTORS["entries"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)) for key in VECTORS["secret_keys"]]


def test_the_writer_makes_these_vectors() -> None:
    spec = importlib.util.spec_from_file_location("generate_ledger", FOLDER / "generate_ledger.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written() == (FOLDER / "reference.json").read_text("ascii")


def test_the_writer_knows_nothing_of_the_implementation() -> None:
    for file in (FOLDER / "generate_ledger.py", FOLDER.parents[1] / "ledger_cases.py"):
        text = file.read_text("utf-8")
        assert "from privacy" not in text
        assert "import privacy" not in text


def test_every_kind_is_there() -> None:
    kinds = {json.loads(entry["raw"])["kind"] for entry in VECTORS["entries"]}
    assert kinds == {
        *("genesis", "key", "policy", "dataset", "reserve", "release"),
        *("settle", "abandon", "override", "checkpoint"),
    }


def test_entries_and_their_hashes() -> None:
    book, tree, frontier = Book(), read.Tree(), merkle.Frontier()
    for vector, leaf, root in zip(VECTORS["entries"], LEAVES, ROOTS, strict=True):
        raw = vector["raw"].encode()
        entry = Entry.parse(raw)
        assert entry.raw() == raw
        assert merkle.leaf(raw) == leaf
        key = KEYS[entry.seq >= 10]
        assert key.sign(b"confide/ledger-entry/v1\n" + raw).hex() == vector["signature"]
        assert vector["line"] == f'{{"entry":{vector["raw"]},"signature":"{vector["signature"]}"}}'
        book.apply(entry, leaf)
        tree.append(leaf)
        frontier.append(leaf)
        assert frontier.root() == tree.root(len(tree)) == root
    assert book.origin == VECTORS["origin"]
    assert [key.hex() for key in book.keys] == VECTORS["keys"]
    assert [merkle.root(LEAVES[:size]) for size in range(1, len(LEAVES) + 1)] == ROOTS


def test_proofs() -> None:
    size = len(LEAVES)
    for index, proof in enumerate(VECTORS["inclusion"]):
        steps = [bytes.fromhex(step) for step in proof]
        assert merkle.inclusion(LEAVES, index) == steps
        assert merkle.verify_inclusion(LEAVES[index], index, size, steps, ROOTS[-1])
        assert not merkle.verify_inclusion(LEAVES[index - 1], index, size, steps, ROOTS[-1])
    for old, proof in enumerate(VECTORS["consistency"], 1):
        steps = [bytes.fromhex(step) for step in proof]
        assert merkle.consistency(LEAVES, old) == steps
        assert merkle.verify_consistency(old, size, ROOTS[old - 1], ROOTS[-1], steps)
        assert old == size or not merkle.verify_consistency(old, size, ROOTS[old], ROOTS[-1], steps)


def test_checkpoints_and_cosignatures() -> None:
    witness, cosigned = VECTORS["witness"], VECTORS["cosigned"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(witness["secret_key"]))
    public = key.public_key().public_bytes_raw()
    note = notes.sign(VECTORS["origin"], len(LEAVES), ROOTS[-1], KEYS[-1])
    assert note == VECTORS["checkpoint"]
    assert notes.cosign(key, witness["name"], note, cosigned["time"]) == cosigned["note"]
    theirs, ours = notes.parse(cosigned["note"]), read.Note.parse(cosigned["note"].encode())
    assert (theirs.origin, theirs.size, theirs.root, theirs.body) == (ours.origin, ours.size, ours.root, ours.body)
    assert dict(theirs.signatures) == ours.signatures
    assert ours.signed_by(KEYS[-1].public_key().public_bytes_raw())
    assert not ours.signed_by(KEYS[0].public_key().public_bytes_raw())
    assert ours.cosigned(witness["name"], public, ours.signatures[witness["name"]]) == cosigned["time"]
    assert theirs.cosignature(witness["name"], public) == ours.signatures[witness["name"]]


def test_policies() -> None:
    vector = VECTORS["policy"]
    text, signature = vector["text"].encode(), bytes.fromhex(vector["signature"])
    assert policy.digest(text) == vector["digest"] == policy.Policy.parse(text).digest
    assert policy.sign(text, KEYS[0]) == signature
    policy.verify(text, signature, bytes.fromhex(VECTORS["keys"][0]))
    with pytest.raises(PolicyError):
        policy.verify(text, signature, bytes.fromhex(VECTORS["keys"][1]))


def test_costs() -> None:
    for vector in VECTORS["costs"]:
        mechanism = Mechanism.from_json(vector["mechanism"])
        computed, stated = Cost.of(mechanism, tuple(VECTORS["orders"])), Cost.from_json(vector["cost"])
        assert computed.orders == stated.orders
        assert computed.training == pytest.approx(stated.training, rel=1e-9)
        assert computed.validation == pytest.approx(stated.validation, rel=1e-9)


@pytest.mark.parametrize("text", VECTORS["canonical"]["refused"].values(), ids=VECTORS["canonical"]["refused"])
def test_what_is_not_canonical(text: str) -> None:
    with pytest.raises(canonical.CanonicalError):
        canonical.decode(text.encode())
    with pytest.raises(read.Refused):
        read.parse_canonical(text.encode())


def test_what_is_canonical() -> None:
    for text in VECTORS["canonical"]["accepted"]:
        assert canonical.encode(canonical.decode(text.encode())) == text.encode()
        assert read.parse_canonical(text.encode()) == json.loads(text)
