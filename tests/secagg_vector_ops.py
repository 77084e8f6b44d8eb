"""What the implementation makes of each kind of single vector in tests/vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from secagg_following import Vector
from secagg_message_fields import fields_of

from secagg import messages, primitives, roster, shamir, thresholds, transcript
from secagg.encoding import Encoding, Lane
from secagg.masks import add_masks
from secagg.primitives import PrivateKeys
from secagg.thresholds import Floors

MESSAGES = {
    kind.NAME: kind
    for kind in (
        *(messages.Invite, messages.Advertise, messages.Directory, messages.Encapsulate, messages.Open),
        *(messages.Upload, messages.Survivors, messages.Confirm, messages.Unmask, messages.Answer),
    )
}


def unhex(value: Any) -> Any:
    """Lists and maps of hexadecimal text as bytes, maps by id."""
    if isinstance(value, Mapping):
        return {int(key): unhex(inner) for key, inner in value.items()}
    return [unhex(inner) for inner in value] if isinstance(value, list) else bytes.fromhex(value)


def formula(function: Callable[..., Any], *names: str) -> Callable[[Vector], Any]:
    """The check of a function of these fields: text that is hexadecimal is bytes."""

    def check(vector: Vector) -> Any:
        given = [vector[name] for name in names]
        return function(*(unhex(value) if isinstance(value, str) else value for value in given))

    return check


def named(function: Callable[..., Any], *names: str) -> Callable[[Vector], Any]:
    """As :func:`formula`, but the fields are not bytes."""
    return lambda vector: function(*(vector[name] for name in names))


def expected(vector: Vector) -> Any:
    """What a check must return."""
    # These checks compare by themselves.
    if "expected" not in vector or vector["op"] in ("open_roster", "open_permit", "share_key", "scale"):
        return None
    value = vector["expected"]
    if isinstance(value, str):
        return bytes.fromhex(value)
    if isinstance(value, dict):
        return {key: bytes.fromhex(inner) if isinstance(inner, str) else inner for key, inner in value.items()}
    return value


def setup_hash(v: Vector) -> bytes:
    return transcript.setup_hash(
        roster_hash=unhex(v["roster_hash"]),
        permit_hash=unhex(v["permit_hash"]),
        run=unhex(v["run"]),
        epoch=v["epoch"],
        first_round=v["first_round"],
        advertisements=b"".join(unhex(v["advertised"])),
    )


def context(v: Vector) -> bytes:
    hashes = {f"{name}_hash": bytes.fromhex(value) for name, value in v["hashes"].items()}
    return transcript.round_context(
        run=unhex(v["run"]),
        epoch=v["epoch"],
        round_=v["round"],
        attempt=v["attempt"],
        mode=v["mode"],
        threshold=v["threshold"],
        **hashes,
    )


def upload_hash(v: Vector) -> bytes:
    sealed = {j: transcript.share_ciphertext_hash(ct) for j, ct in unhex(v["ciphertexts"]).items()}
    listed = [(j, c, sealed.get(j, bytes(32))) for j, c in sorted(unhex(v["commitments"]).items())]
    return transcript.upload_hash(unhex(v["ctx"]), unhex(v["masked_hash"]), unhex(v["self_seed_hash"]), listed)


def share_key(v: Vector) -> None:
    """The key is internal: what it sealed must open under the vector's."""
    ctx, commitment, dealer = unhex(v["ctx"]), unhex(v["commitment"]), v["dealer"]
    sealed = primitives.seal_share(unhex(v["key"]), ctx, dealer, 9, commitment, bytes(33))
    aad = ctx + dealer.to_bytes(4, "big") + (9).to_bytes(4, "big") + commitment
    assert AESGCM(unhex(v["expected"])).decrypt(bytes(12), sealed, aad) == bytes(33)


def signature(v: Vector) -> None:
    parts = v["label"], unhex(v["run"]), v["epoch"], v["sender"], unhex(v["body"])
    if v["valid"]:
        key = Ed25519PrivateKey.from_private_bytes(unhex(v["key_seed"]))
        assert primitives.sign(key, *parts).hex() == v["signature"]
    primitives.verify(unhex(v["public"]), unhex(v["signature"]), *parts)


def private(v: Vector) -> PrivateKeys:
    """Keys of which a vector may give one alone."""
    return PrivateKeys.from_bytes(bytes.fromhex(v.get("x25519_seed", "01" * 32) + v.get("mlkem_seed", "02" * 64)))


def encapsulated(v: Vector) -> None:
    ciphertext = unhex(v["ciphertext"])
    assert private(v).decapsulate(ciphertext).hex() == v["secret"]
    assert transcript.ciphertext_hash(ciphertext).hex() == v["ciphertext_hash"]


def prg(key: bytes, count: int) -> list[int]:
    stream = np.zeros(count, np.uint32)
    add_masks(stream, [(key, 1)])
    numbers: list[int] = stream.tolist()
    return numbers


def masked(v: Vector) -> list[int]:
    y = np.array(v["x"], np.uint32)
    pairs = [(key, 1 if j > v["me"] else -1) for j, key in unhex(v["pairs"]).items()]
    add_masks(y, [(unhex(v["self_key"]), 1), *pairs])
    numbers: list[int] = y.tolist()
    return numbers


def split(v: Vector) -> dict[str, bytes]:
    # The implementation draws the highest power first.
    drawn = iter([int(c, 16) for c in reversed(v["coefficients"])])
    with patch("secagg.shamir.secrets.randbelow", lambda bound: next(drawn)):
        shares = shamir.split(unhex(v["secret"]), len(v["coefficients"]) + 1, [i + 1 for i in v["ids"]])
    return {str(point - 1): share for point, share in shares.items()}


def reconstruct(v: Vector) -> bytes:
    return shamir.reconstruct({i + 1: share for i, share in unhex(v["shares"]).items()})


def sealing(v: Vector) -> bytes:
    parts = unhex(v["key"]), unhex(v["ctx"]), v["dealer"], v["receiver"], unhex(v["commitment"])
    if v["op"] == "open_share":
        return primitives.open_share(*parts, unhex(v["sealed"]))
    share = unhex(v["share"])
    assert transcript.share_commitment(*parts[1:4], share) == parts[4]
    return primitives.seal_share(*parts, share)


def document(v: Vector) -> None:
    envelope = unhex(v["envelope"]).ljust(v.get("pad_to", 0))
    read = roster.open_roster if v["op"] == "open_roster" else roster.open_permit
    found, hashed = read(envelope, unhex(v["governance"]), v["now"])
    fields = dict(v["expected"]["fields"])
    assert fields.pop("type") == v["op"].removeprefix("open_")
    if fields.pop("suite", None) is not None:
        members = [{"id": m.id, "name": m.name, "key": m.key.hex()} for m in found.members]  # type: ignore[union-attr]  # only rosters have a suite
        assert members == fields.pop("members")
    shown = {name: getattr(found, name) for name in fields}
    assert {name: value.hex() if isinstance(value, bytes) else value for name, value in shown.items()} == fields
    assert hashed.hex() == v["expected"]["hash"]


def lane(v: Vector, length: int) -> Encoding:
    bound = float.fromhex(v.get("bound", "1.0"))
    one = Lane(name="x", length=length, bound=bound, integer=v.get("integer", False))
    return Encoding(lanes=(one,), cohort=v["n"])


def layout(v: Vector) -> Encoding:
    lanes = (Lane(**{**each, "bound": float.fromhex(each["bound"])}) for each in v["layout"])
    return Encoding(lanes=tuple(lanes), cohort=v["n"])


def doubles(values: list[str]) -> Any:
    return np.array([float.fromhex(value) for value in values])


def encode(v: Vector) -> list[int]:
    values = doubles(v["values"])
    numbers: list[int] = lane(v, len(values)).encode({"x": values}, bytes(32))[0].tolist()
    return numbers[:-2]


def encode_between(v: Vector) -> None:
    values = doubles(v["values"])
    for number in range(50):
        vector = lane(v, len(values)).encode({"x": values}, bytes([number]) * 32)[0][:-2].view(np.int32)
        assert (np.array(v["least"]) <= vector).all()
        assert (vector <= np.array(v["greatest"])).all()


def decode(v: Vector) -> list[str]:
    total = np.array([*v["totals"], v["n"], 0], np.uint32)
    return [value.hex() for value in lane(v, len(v["totals"])).decode(total, v["n"])["x"].tolist()]


def scale(v: Vector) -> None:
    """Seen from outside: what a 1 in a sum stands for."""
    assert lane(v, 1).decode(np.array([1, 1, 0], np.uint32), 1)["x"][0] == 1 / float.fromhex(v["expected"])


def encode_lanes(v: Vector) -> list[int]:
    values = {name: doubles(each) for name, each in v["values"].items()}
    numbers: list[int] = layout(v).encode(values, unhex(v.get("key", "00" * 32)))[0].tolist()
    return numbers


def encode_many(v: Vector) -> bytes:
    encoding = layout(v)
    values = np.full(encoding.lanes[0].length, float.fromhex(v["value"]))
    vector, _ = encoding.encode({encoding.lanes[0].name: values}, unhex(v["key"]))
    return hashlib.sha256(vector.astype("<u4").tobytes()).digest()


def decode_lanes(v: Vector) -> dict[str, list[str]]:
    decoded = layout(v).decode(np.array(v["total"], np.uint32), v["contributors"])
    return {name: [value.hex() for value in lane_.tolist()] for name, lane_ in decoded.items()}


def described(v: Vector) -> bytes:
    data = layout(v).describe()
    assert transcript.layout_hash(data).hex() == v["layout_hash"]
    return data


def message(v: Vector) -> None:
    data = bytes.fromhex(v["message"])
    found = MESSAGES[v["name"]].from_bytes(data)
    assert found.to_bytes() == data
    assert (found.run.hex(), found.epoch, found.sender) == (v["run"], v["epoch"], v["sender"])
    assert fields_of(found) == v["fields"]


FORMULAS: dict[str, Callable[[Vector], Any]] = {
    "enc": lambda v: primitives.enc(*unhex(v["fields"])),
    "digest": lambda v: primitives.digest(v["label"], *unhex(v["fields"])),
    "kdf": lambda v: primitives.kdf(unhex(v["ikm"]), unhex(v["salt"]), v["label"], *unhex(v["fields"])),
    "federation": formula(roster.federation_id, "governance"),
    "roster_hash": formula(primitives.roster_hash, "payload"),
    "permit_hash": formula(primitives.permit_hash, "payload"),
    "policy_hash": formula(primitives.policy_hash, "spec"),
    "run_id": named(primitives.run_id, "name"),
    "ciphertext_hash": formula(transcript.ciphertext_hash, "ciphertext"),
    "setup_hash": setup_hash,
    "cohort_hash": named(transcript.cohort_hash, "cohort"),
    "model_hash": formula(transcript.model_hash, "model", "control"),
    "layout_hash": formula(transcript.layout_hash, "layout"),
    "config_hash": formula(transcript.config_hash, "config"),
    "context": context,
    "share_commitment": formula(transcript.share_commitment, "ctx", "dealer", "receiver", "share"),
    "self_seed_hash": formula(transcript.self_seed_hash, "ctx", "seed"),
    "masked_hash": formula(transcript.masked_hash, "y"),
    "upload_hash": upload_hash,
    "survivors_hash": lambda v: transcript.survivors_hash(unhex(v["ctx"]), unhex(v["uploads"])),
    "pair_key": formula(primitives.pair_key, "x25519", "mlkem", "setup_hash", "i", "j", "ciphertext_hash"),
    "ratchet": formula(primitives.ratchet, "key", "round"),
    "ratchet_to": formula(primitives.ratchet_to, "key", "first_round", "round"),
    "mask_seed": formula(primitives.mask_seed, "key", "ctx"),
    "self_mask_key": formula(primitives.self_key, "b", "ctx"),
    "pair_mask_key": formula(primitives.pair_mask_key, "seed", "ctx"),
    "share_key": share_key,
    "signature": signature,
    "encapsulated": encapsulated,
    "decapsulate": lambda v: private(v).decapsulate(unhex(v["ciphertext"])),
    "ephemeral_public": lambda v: private(v).public,
    "exchange": lambda v: private(v).exchange(unhex(v["peer"])),
    "defaults": lambda v: list(thresholds.defaults(v["n"])),
    "confirmations": named(thresholds.confirmations, "n", "colluders"),
    "threshold": named(thresholds.threshold, "mode", "n", "colluders", "min_honest"),
    "floors": lambda v: Floors(**v["floors"]).check(v["n"], v["colluders"], v["min_honest"]),
    "elements": named(thresholds.check_size, "n", "size"),
    "prg": lambda v: prg(unhex(v["key"]), v["count"]),
    "prg_word": lambda v: prg(unhex(v["key"]), v["index"] + 1)[-1],
    "masked": masked,
    "split": split,
    "reconstruct": reconstruct,
    "seal_share": sealing,
    "open_share": sealing,
    "open_roster": document,
    "open_permit": document,
    "limit": lambda v: lane(v, 1).limit,
    "scale": scale,
    "encode_exact": encode,
    "encode_between": encode_between,
    "encode_refused": encode,
    "encode_lanes": encode_lanes,
    "encode_many": encode_many,
    "decode": decode,
    "decode_lanes": decode_lanes,
    "layout": described,
    "message": message,
}
