"""The hashes by which members agree on an epoch and a round, and by which an upload is bound to its parts.

One function for each formula of ``docs/secagg-spec.md``. Every hash is 32 bytes; ``ctx`` is the result of
:func:`round_context`. A member computes each from the bytes it uses, never from a digest it was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secagg.primitives import Bytes, digest, u8, u32
from secagg.thresholds import Mode

_MODES: dict[Mode, int] = {"sealed": 1, "strict": 2}


def setup_hash(
    *, roster_hash: bytes, permit_hash: bytes, run: bytes, epoch: int, first_round: int, advertisements: bytes
) -> bytes:
    """Return the hash of all that an epoch rests on; ``advertisements``: the whole messages, concatenated."""
    fields = (roster_hash, permit_hash, run, u32(epoch), u32(first_round), advertisements)
    return digest("confide/setup/v1", *fields)


def ciphertext_hash(ciphertext: Bytes) -> bytes:
    """Return ``H_ct`` of an ML-KEM ciphertext."""
    return digest("confide/ciphertext/v1", ciphertext)


def cohort_hash(ids: Iterable[int]) -> bytes:
    """Return the hash of a cohort's ids, in the order given."""
    return digest("confide/cohort/v1", b"".join(map(u32, ids)))


def model_hash(model: Bytes, control: Bytes = b"") -> bytes:
    """Return the hash of the received model and control variate, as they arrived."""
    return digest("confide/model/v1", model, control)


def layout_hash(layout: bytes) -> bytes:
    """Return the hash of a layout, ``secagg.encoding.Encoding.describe()``."""
    return digest("confide/layout/v1", layout)


def config_hash(configuration: Bytes) -> bytes:
    """Return the hash of a round's configuration, as it arrived."""
    return digest("confide/config/v1", configuration)


def round_context(
    *,
    run: bytes,
    epoch: int,
    round_: int,
    attempt: int,
    mode: Mode,
    threshold: int,
    roster_hash: bytes,
    permit_hash: bytes,
    setup_hash: bytes,
    cohort_hash: bytes,
    policy_hash: bytes,
    model_hash: bytes,
    layout_hash: bytes,
    config_hash: bytes,
) -> bytes:
    """Return ``ctx``: all that the members of a cohort must agree on, or their masks do not cancel."""
    return digest(
        "confide/round/v1",
        run,
        u32(epoch),
        u32(round_),
        u32(attempt),
        u8(_MODES[mode]),
        u32(threshold),
        roster_hash,
        permit_hash,
        setup_hash,
        cohort_hash,
        policy_hash,
        model_hash,
        layout_hash,
        config_hash,
    )


def share_commitment(ctx: bytes, dealer: int, receiver: int, share: bytes) -> bytes:
    """Return ``C_ij`` of a share (33 bytes)."""
    return digest("confide/share/v1", ctx, u32(dealer), u32(receiver), share)


def share_ciphertext_hash(ciphertext: Bytes) -> bytes:
    """Return the hash of a share's ciphertext that stands in an upload's list."""
    return digest("confide/share-ciphertext/v1", ciphertext)


def self_seed_hash(ctx: bytes, b: bytes) -> bytes:
    """Return ``H_b``."""
    return digest("confide/self-seed/v1", ctx, b)


def masked_hash(y: Bytes) -> bytes:
    """Return ``H_y`` of a masked vector's bytes (little-endian uint32)."""
    return digest("confide/masked/v1", y)


def upload_hash(ctx: bytes, h_y: bytes, h_b: bytes, shares: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    """Return ``h``, which the upload's signature covers.

    Args:
        ctx: the round's context.
        h_y: hash of the masked vector.
        h_b: hash of the self-mask seed.
        shares: ``(j, C_ij, hash of the ciphertext)`` of every member of the cohort; 32 zero bytes for the own
            ciphertext's hash.
    """
    listed = b"".join(u32(j) + commitment + sealed for j, commitment, sealed in shares)
    return digest("confide/upload/v1", ctx, h_y, h_b, listed)


def survivors_hash(ctx: bytes, uploads: Mapping[int, bytes]) -> bytes:
    """Return ``H_U`` of survivors, ``h_i`` by id."""
    listed = b"".join(u32(i) + uploads[i] for i in sorted(uploads))
    return digest("confide/survivors/v1", ctx, u32(len(uploads)) + listed)
