"""Merkle trees against RFC 6962, read independently, and against the roots that every log's tests share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import merkle

VECTORS = json.loads((Path(__file__).parent / "vectors/privacy/ledger.json").read_text(encoding="utf-8"))["merkle"]
LEAVES = [merkle.leaf(bytes.fromhex(raw)) for raw in VECTORS["entries"]]


def split(leaves):
    """k of RFC 6962: the largest power of two smaller than n."""
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return k


def mth(leaves):
    """Section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(leaves)
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    """Section 2.1.1, word by word."""
    if len(leaves) == 1:
        return []
    k = split(leaves)
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, known):
    """Section 2.1.2, word by word."""
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = split(leaves)
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def grown(n):
    return [merkle.leaf(i.to_bytes(2, "big")) for i in range(n)]


def test_roots_are_those_every_log_has() -> None:
    assert [merkle.root(LEAVES[:n]).hex() for n in range(len(LEAVES) + 1)] == VECTORS["roots"]


@given(st.integers(1, 70), st.data())
def test_inclusion(n: int, data: st.DataObject) -> None:
    leaves, index = grown(n), data.draw(st.integers(0, n - 1))
    proof, root = merkle.inclusion(leaves, index), merkle.root(leaves)
    assert root == mth(leaves)
    assert proof == path(index, leaves)
    assert merkle.verify_inclusion(leaves[index], index, n, proof, root)
    other = data.draw(st.integers(0, n).filter(lambda i: i != index))
    assert not merkle.verify_inclusion(leaves[index], other, n, proof, root)
    assert not merkle.verify_inclusion(merkle.leaf(b"x"), index, n, proof, root)
    assert not merkle.verify_inclusion(leaves[index], index, n, [*proof, root], root)
    if proof:
        assert not merkle.verify_inclusion(leaves[index], index, n, proof[:-1], root)
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.verify_inclusion(leaves[index], index, n, [*proof[:at], bytes(32), *proof[at + 1 :]], root)


@given(st.integers(1, 70), st.data())
def test_consistency(n: int, data: st.DataObject) -> None:
    leaves, old = grown(n), data.draw(st.integers(1, n))
    proof, before, root = merkle.consistency(leaves, old), merkle.root(leaves[:old]), merkle.root(leaves)
    assert proof == subproof(old, leaves, True)
    assert merkle.verify_consistency(old, n, before, root, proof)
    assert not merkle.verify_consistency(old, n, bytes(32), root, proof)
    assert not merkle.verify_consistency(old, n, before, bytes(32), proof)
    assert not merkle.verify_consistency(old, n, before, root, [*proof, root])
    assert not merkle.verify_consistency(n + 1, n, before, root, proof)
    if proof:
        assert not merkle.verify_consistency(old, n, before, root, proof[:-1])
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.verify_consistency(old, n, before, root, [*proof[:at], bytes(32), *proof[at + 1 :]])


@given(st.integers(2, 70), st.data())
def test_a_tree_that_did_not_grow_has_no_proof(n: int, data: st.DataObject) -> None:
    old, changed = data.draw(st.integers(1, n)), data.draw(st.integers(0, n - 1))
    leaves = grown(n)
    forked = [*leaves[:changed], merkle.leaf(b"changed"), *leaves[changed + 1 :]]
    holds = merkle.verify_consistency(
        old, n, merkle.root(leaves[:old]), merkle.root(forked), merkle.consistency(forked, old)
    )
    assert holds == (changed >= old)


def test_the_empty_tree() -> None:
    assert merkle.root([]) == hashlib.sha256().digest() == merkle.Frontier().root()
    assert merkle.consistency(grown(3), 0) == []
    assert merkle.verify_consistency(0, 3, merkle.EMPTY, merkle.root(grown(3)), [])
    assert not merkle.verify_consistency(0, 3, bytes(32), merkle.root(grown(3)), [])
    assert not merkle.verify_consistency(-1, 3, merkle.EMPTY, merkle.root(grown(3)), [])


@given(st.integers(0, 200))
def test_a_growing_tree_has_the_same_root(n: int) -> None:
    tree = merkle.Frontier()
    for each in grown(n):
        tree.append(each)
    assert (tree.size, tree.root()) == (n, mth(grown(n)))


def test_no_such_leaf() -> None:
    with pytest.raises(ValueError, match="index=3: the tree has 3 leaves"):
        merkle.inclusion(grown(3), 3)
    with pytest.raises(ValueError, match="old=4: the tree has 3 leaves"):
        merkle.consistency(grown(3), 4)
