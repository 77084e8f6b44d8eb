"""The fields of a message as the vectors write them."""

from __future__ import annotations

from typing import Any

from secagg.messages import (
    Advertise,
    Answer,
    Confirm,
    Directory,
    Encapsulate,
    Invite,
    Message,
    Open,
    Signed,
    Survivors,
    Unmask,
    Upload,
)


def fields_of(message: Message) -> dict[str, Any]:
    """Bytes as hexadecimal text, maps by id."""
    signed = {"signature": message.signature.hex()} if isinstance(message, Signed) else {}
    return own_fields(message) | signed


def own_fields(message: Message) -> dict[str, Any]:  # noqa: PLR0911  # ten messages
    """All but the signature."""
    match message:
        case Invite(first_round=first, roster=roster, permit=permit):
            return {"first_round": first, "roster": roster.hex(), "permit": permit.hex()}
        case Advertise(x25519=x25519, mlkem=mlkem):
            return {"x25519": x25519.hex(), "mlkem": mlkem.hex()}
        case Directory(entries=entries):
            return {"messages": [entry.to_bytes().hex() for entry in entries]}
        case Encapsulate(setup_hash=setup, hashes=hashes, ciphertexts=ciphertexts):
            sent = {str(j): ciphertext.hex() for (j, _), ciphertext in zip(hashes, ciphertexts, strict=True)}
            return {"setup_hash": setup.hex(), "hashes": {str(j): h.hex() for j, h in hashes}, "ciphertexts": sent}
        case Open():
            return {
                "round": message.round,
                "attempt": message.attempt,
                "cohort": list(message.cohort),
                "parts": [part.signed_part().hex() for part in message.lists],
                "ciphertexts": {str(i): ciphertext.hex() for i, ciphertext in message.ciphertexts},
            }
        case Upload():
            receivers = [j for j, _ in message.commitments if j != message.sender]
            return {
                "ctx": message.context.hex(),
                "h": message.h.hex(),
                "self_seed_hash": message.seed_hash.hex(),
                "commitments": {str(j): c.hex() for j, c in message.commitments},
                "ciphertexts": {str(j): share.hex() for j, share in zip(receivers, message.shares, strict=True)},
                "y": message.y.hex(),
            }
        case Confirm(context=ctx, survivors_hash=hashed):
            return {"ctx": ctx.hex(), "survivors_hash": hashed.hex()}
        case Survivors(context=ctx, uploads=uploads):
            return {"ctx": ctx.hex(), "uploads": {str(i): [h.hex(), signature.hex()] for i, h, signature in uploads}}
        case Unmask(context=ctx, uploads=uploads):
            return {
                "ctx": ctx.hex(),
                "uploads": {str(i): [h.hex(), signature.hex()] for i, h, signature in uploads},
                "confirmations": {str(i): signature.hex() for i, signature in message.confirmations},
                "shares": {
                    str(share.dealer): [share.commitment.hex(), share.ciphertext.hex()] for share in message.shares
                },
            }
        case Answer(context=ctx, entries=entries):
            return {"ctx": ctx.hex(), "entries": {str(e.member): [e.kind, e.content.hex()] for e in entries}}
    raise TypeError(type(message).__name__)
