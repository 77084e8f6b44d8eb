"""Every key derivation, signature and encryption of the protocol, each with its label.

One function for each formula of ``docs/secagg-spec.md``; the hashes by which members agree on an epoch and a round
are in ``secagg.transcript``. No other module of this room calls the cryptographic library, but for the keystream of
masks and rounding. Hashes, keys, seeds and contexts (``ctx``) are 32 bytes each; ids are integers in
``[0, 2**32 - 1)``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secagg.errors import ConsistencyError, FormatError, ReplayError, SignatureError, StateError

SERVER = 0xFFFFFFFF
HASH_BYTES = 32
SIGNATURE_BYTES = 64
X25519_BYTES = 32
MLKEM_PUBLIC_BYTES = 1184
PUBLIC_BYTES = X25519_BYTES + MLKEM_PUBLIC_BYTES
CIPHERTEXT_BYTES = 1088
SHARE_BYTES = 33
SEALED_SHARE_BYTES = SHARE_BYTES + 16

Bytes = bytes | bytearray | memoryview

_NONCE = bytes(12)
_SEED_BYTES = 32 + 64
# Signatures found good. In one process n members verify the same n signatures.
_good: dict[bytes, None] = {}
_MOST_GOOD = 1 << 14
# Finds keys of low order: it shares a secret with nobody.
_PROBE = X25519PrivateKey.generate()


# --- Encodings ---------------------------------------------------------------------------------------------------


def u8(n: int) -> bytes:
    """Return ``n`` as one byte."""
    return _integer(n, 1)


def u32(n: int) -> bytes:
    """Return ``n`` as four bytes, big-endian."""
    return _integer(n, 4)


def u64(n: int) -> bytes:
    """Return ``n`` as eight bytes, big-endian."""
    return _integer(n, 8)


def enc(*fields: bytes) -> bytes:
    """Return ``u64(length) || field`` for each field: an injective encoding of a list."""
    return b"".join(part for field in fields for part in (len(field).to_bytes(8, "big"), field))


def digest(label: str, *fields: Bytes) -> bytes:
    """Return ``H(label, f1, ...)``: SHA-256 of the encoded label and fields, without copying them."""
    sha = hashlib.sha256()
    for field in (label.encode(), *fields):
        sha.update(memoryview(field).nbytes.to_bytes(8, "big"))
        sha.update(field)
    return sha.digest()


def kdf(ikm: bytes, salt: bytes, label: str, *fields: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869) with the encoded label and fields as info."""
    return HKDF(hashes.SHA256(), HASH_BYTES, salt=salt or None, info=enc(label.encode(), *fields)).derive(ikm)


# --- Signatures --------------------------------------------------------------------------------------------------


def sign(key: Ed25519PrivateKey, label: str, run: bytes, epoch: int, sender: int, body: bytes) -> bytes:
    """Return the 64-byte Ed25519 signature over label, run, epoch, sender and body."""
    return key.sign(enc(label.encode(), run, u32(epoch), u32(sender), body))


def verify(public: bytes, signature: bytes, label: str, run: bytes, epoch: int, sender: int, body: bytes) -> None:
    """Check a signature of :func:`sign`.

    Raises:
        SignatureError: it does not hold.
    """
    message = enc(label.encode(), run, u32(epoch), u32(sender), body)
    known = hashlib.sha256(enc(public, signature, message)).digest()
    if known in _good:
        return
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureError(
            f"{label}: the signature of {_who(sender)} does not hold; ask for the message anew"
        ) from None
    if len(_good) >= _MOST_GOOD:
        _good.clear()
    _good[known] = None


# --- Documents and runs ------------------------------------------------------------------------------------------


def roster_hash(payload: bytes) -> bytes:
    """Return the hash of a roster's payload, the text that was signed."""
    return digest("confide/roster-hash/v1", payload)


def permit_hash(payload: bytes) -> bytes:
    """Return the hash of a permit's payload, the text that was signed."""
    return digest("confide/permit-hash/v1", payload)


def policy_hash(spec: bytes) -> bytes:
    """Return the hash of a run's public settings (canonical JSON)."""
    return digest("confide/policy/v1", spec)


def run_id(name: str) -> bytes:
    """Return the 32 bytes that stand for a run in every message.

    Raises:
        FormatError: the name has no UTF-8 form.
    """
    try:
        return digest("confide/run/v1", name.encode())
    except UnicodeEncodeError:
        raise FormatError("run: a name that is not text; use letters, digits, '.', '_' and '-'") from None


# --- Set-up: fresh keys of an epoch, pair keys, the ratchet --------------------------------------------------------


@dataclass(frozen=True, repr=False)
class PrivateKeys:
    """A member's fresh key pairs of one epoch: X25519 (RFC 7748) and ML-KEM-768 (FIPS 203)."""

    x25519: X25519PrivateKey
    mlkem: MLKEM768PrivateKey

    @classmethod
    def generate(cls) -> PrivateKeys:
        """Return fresh keys from the operating system's randomness.

        Raises:
            StateError: this machine's build of ``cryptography`` lacks ML-KEM-768.
        """
        try:
            return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate())
        except UnsupportedAlgorithm:
            raise StateError("cryptography: built without ML-KEM-768; install its wheel, or OpenSSL 3.5") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> PrivateKeys:
        """Restore keys from :meth:`to_bytes`.

        Raises:
            FormatError: not 96 bytes.
        """
        if len(data) != _SEED_BYTES:
            raise FormatError(f"private keys: {len(data)} bytes instead of {_SEED_BYTES}; wait for a new epoch")
        return cls(X25519PrivateKey.from_private_bytes(data[:32]), MLKEM768PrivateKey.from_seed_bytes(data[32:]))

    def to_bytes(self) -> bytes:
        """Return the X25519 private key (32 bytes) and the ML-KEM seed (64 bytes): secrets."""
        return self.x25519.private_bytes_raw() + self.mlkem.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The X25519 public key (32 bytes) and the ML-KEM-768 public key (1184 bytes)."""
        return self.x25519.public_key().public_bytes_raw() + self.mlkem.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        """Return the 32-byte X25519 secret shared with ``peer``, a 32-byte public key.

        Raises:
            FormatError: not 32 bytes.
            ConsistencyError: a low-order key, with which the secret would be known to everybody.
        """
        return _exchange(self.x25519, peer)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte secret in an ML-KEM-768 ciphertext of 1088 bytes (a random one for a forged ciphertext).

        Raises:
            FormatError: not 1088 bytes.
        """
        if len(ciphertext) != CIPHERTEXT_BYTES:
            raise FormatError(f"ML-KEM ciphertext: {len(ciphertext)} bytes instead of {CIPHERTEXT_BYTES}")
        return self.mlkem.decapsulate(ciphertext)


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Return a fresh 32-byte secret and its 1088-byte ciphertext for an ML-KEM-768 public key (1184 bytes).

    Raises:
        FormatError: not such a key (length, or coefficients beyond the modulus).
    """
    return _mlkem_public(public).encapsulate()


def check_public(public: bytes) -> None:
    """Refuse what cannot serve as :attr:`PrivateKeys.public`, before everybody else has to.

    Raises:
        FormatError: not 1216 bytes, or no ML-KEM-768 key.
        ConsistencyError: an X25519 key of low order.
    """
    if len(public) != PUBLIC_BYTES:
        raise FormatError(f"public keys: {len(public)} bytes instead of {PUBLIC_BYTES}")
    _mlkem_public(public[X25519_BYTES:])
    _exchange(_PROBE, public[:X25519_BYTES])


def pair_key(x_secret: bytes, kem_secret: bytes, setup: bytes, i: int, j: int, h_ct: bytes) -> bytes:
    """Return ``k_ij`` of members ``i < j`` at the epoch's first round."""
    return kdf(x_secret + kem_secret, setup, "confide/pair/v1", u32(i), u32(j), h_ct)


def ratchet(key: bytes, round_: int) -> bytes:
    """Return ``k_ij(round_ + 1)`` from ``k_ij(round_)``; there is no way back."""
    return kdf(key, b"", "confide/ratchet/v1", u32(round_))


def ratchet_to(key: bytes, from_round: int, to_round: int) -> bytes:
    """Return ``k_ij(to_round)`` from ``k_ij(from_round)``.

    Raises:
        ReplayError: ``to_round`` lies before ``from_round``, whose older keys are gone.
    """
    if to_round < from_round:
        raise ReplayError(f"round = {to_round}: keys from before round {from_round} are erased; use a newer round")
    for round_ in range(from_round, to_round):
        key = ratchet(key, round_)
    return key


# --- A round: mask keys and shares -----------------------------------------------------------------------


def mask_seed(pair: bytes, ctx: bytes) -> bytes:
    """Return ``s_ij``, the seed of the mask between two members, from their ``k_ij(r)``."""
    return kdf(pair, b"", "confide/mask/v1", ctx)


def pair_mask_key(seed: bytes, ctx: bytes) -> bytes:
    """Return ``S_ij``, the AES key of the mask of ``s_ij``."""
    return kdf(seed, b"", "confide/prg-pair/v1", ctx)


def self_key(b: bytes, ctx: bytes) -> bytes:
    """Return ``B``, the AES key of the mask of a member's own ``b``."""
    return kdf(b, b"", "confide/prg-self/v1", ctx)


def seal_share(pair: bytes, ctx: bytes, dealer: int, receiver: int, commitment: bytes, share: bytes) -> bytes:
    """Return the 49-byte ciphertext of a share (33 bytes) under ``k_ij(r)``.

    The key depends on the commitment, so another share never meets the same key and nonce.
    """
    key, bound = _share_key(pair, ctx, dealer, receiver, commitment)
    return AESGCM(key).encrypt(_NONCE, share, bound)


def open_share(pair: bytes, ctx: bytes, dealer: int, receiver: int, commitment: bytes, ciphertext: bytes) -> bytes:
    """Return the share (33 bytes) in a ciphertext of :func:`seal_share`; its commitment is still to be checked.

    Raises:
        SignatureError: the ciphertext is not this dealer's, to this receiver, in this round.
    """
    key, bound = _share_key(pair, ctx, dealer, receiver, commitment)
    try:
        if len(ciphertext) == SEALED_SHARE_BYTES:
            return AESGCM(key).decrypt(_NONCE, ciphertext, bound)
    except InvalidTag:
        pass
    raise SignatureError(f"share of member {dealer} for member {receiver}: its ciphertext does not open; complain")


def _integer(n: int, width: int) -> bytes:
    """``n`` in ``width`` bytes."""
    try:
        return n.to_bytes(width, "big")
    except OverflowError:
        raise FormatError(f"integer = {n}: must lie in [0, 2^{8 * width})") from None


def _who(sender: int) -> str:
    """A sender as an operator knows it."""
    return "the governance key" if sender == SERVER else f"member {sender}"


def _exchange(private: X25519PrivateKey, peer: bytes) -> bytes:
    """The secret of two X25519 keys, unless it would be known to everybody."""
    if len(peer) != X25519_BYTES:
        raise FormatError(f"X25519 key: {len(peer)} bytes instead of {X25519_BYTES}")
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise ConsistencyError("X25519 key: of low order, its secrets would be public; leave its owner out") from None


def _mlkem_public(public: bytes) -> MLKEM768PublicKey:
    """An ML-KEM-768 public key whose encoding has been checked (FIPS 203, section 7.2)."""
    try:
        return MLKEM768PublicKey.from_public_bytes(public)
    except ValueError:
        raise FormatError(f"ML-KEM-768 key: {len(public)} bytes that encode no such key; leave its owner out") from None


def _share_key(pair: bytes, ctx: bytes, dealer: int, receiver: int, commitment: bytes) -> tuple[bytes, bytes]:
    """The AES-256-GCM key of a share, and what is authenticated beside it."""
    key = kdf(pair, b"", "confide/share-key/v1", ctx, u32(dealer), commitment)
    return key, ctx + u32(dealer) + u32(receiver) + commitment
