"""Merkle trees after RFC 6962, section 2.1: what a checkpoint says about every entry before it.

Hashes are 32 bytes (SHA-256). ``leaves`` are leaf hashes, not entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()


def leaf(raw: bytes) -> bytes:
    """Return an entry's leaf hash."""
    return hashlib.sha256(b"\x00" + raw).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the full subtrees that a growing tree consists of: appending and rooting take O(log n)."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []  # largest subtree first

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf."""
        size, self.size = self.size, self.size + 1
        while size & 1:
            leaf_hash = node(self._roots.pop(), leaf_hash)
            size >>= 1
        self._roots.append(leaf_hash)

    def root(self) -> bytes:
        """Return the root of all leaves so far."""
        if not self._roots:
            return EMPTY
        *left, root = self._roots
        for subtree in reversed(left):
            root = node(subtree, root)
        return root


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the tree's root."""
    tree = Frontier()
    for each in leaves:
        tree.append(each)
    return tree.root()


def inclusion(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that leaf ``index`` is in the tree (RFC 6962, section 2.1.1), from the leaf upwards.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"index={index}: the tree has {len(leaves)} leaves")
    proof = []
    while len(leaves) > 1:
        split = _split(len(leaves))
        left, right = leaves[:split], leaves[split:]
        proof.append(root(right if index < split else left))
        leaves, index = (left, index) if index < split else (right, index - split)
    return proof[::-1]


def consistency(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """Return the proof that the tree's first ``old`` leaves are a tree that it grew from (RFC 6962, section 2.1.2).

    Raises:
        ValueError: the tree has fewer leaves.
    """
    if not 0 <= old <= len(leaves):
        raise ValueError(f"old={old}: the tree has {len(leaves)} leaves")
    if old in {0, len(leaves)}:
        return []
    proof = []
    whole = True  # the subtree that is left begins with the old tree's, and its root is known
    while old != len(leaves):
        split = _split(len(leaves))
        left, right = leaves[:split], leaves[split:]
        if old <= split:
            proof.append(root(right))
            leaves = left
        else:
            proof.append(root(left))
            leaves, old, whole = right, old - split, False
    return [*([] if whole else [root(leaves)]), *reversed(proof)]


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> bool:
    """Tell whether a proof shows that a leaf is number ``index`` in a tree of ``size`` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    found, last = leaf_hash, size - 1
    for each in proof:
        if last == 0:
            return False
        if index & 1 or index == last:
            found = node(each, found)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            found = node(found, each)
        index, last = index >> 1, last >> 1
    return last == 0 and found == root_hash


def verify_consistency(old: int, size: int, old_root: bytes, root_hash: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that the tree of ``size`` grew from that of ``old`` (RFC 9162, section 2.1.4.2)."""
    if not 0 <= old <= size:
        return False
    if old == size:
        return not proof and old_root == root_hash
    if old == 0:
        return not proof and old_root == EMPTY
    index, last = old - 1, size - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    path = list(proof) if index else [old_root, *proof]
    if not path:
        return False
    first = second = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node(each, first), node(each, second)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            second = node(second, each)
        index, last = index >> 1, last >> 1
    return last == 0 and first == old_root and second == root_hash


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
