"""Randomness that privacy rests on: sampling and noise from a cryptographic generator.

A Mersenne Twister or Philox stream can be continued by whoever sees enough of it, and noise that can be
predicted can be subtracted. Everything here is a function of an AES-256-CTR keystream (NIST SP 800-38A) whose
key comes from the operating system and never leaves the object.
"""

from __future__ import annotations

import math
import os
from typing import NoReturn

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from torch import Tensor

_LABEL = b"confide/simulation-randomness/v1"
_KEY_BYTES = 32
_BULK = 1 << 16
# Noised values are rounded to a power of two between 2**-21 and 2**-20 of the noise's standard deviation.
_GRID_BITS = 20


class SecureRandom:
    """A source of uniform, Bernoulli and Gaussian values keyed by the operating system.

    **Floating point.** A textbook sampler's float output betrays what it was added to: the set of values that
    ``x + noise`` can take depends on ``x`` (Mironov, "On significance of the least significant bits for
    differential privacy", CCS 2012; against Gaussian noise: Jin et al., arXiv 2112.05307). Two defences are
    common: summing several Gaussians so that inverting the sampler becomes infeasible (Holohan & Braghin,
    arXiv 2107.10138; Opacus ``secure_mode``), and rounding the noised value to a public grid. We round.
    :meth:`add_normal_` samples by Box-Muller in float64 from 64-bit uniforms, adds in float64 and rounds the
    *sum* to a grid of at most ``std * 2**-20`` that depends on ``std`` alone: for every input the reachable
    outputs are the same grid, and near the centre some 2**32 float64 values fall into each cell. What is
    left: beyond 8 standard deviations (probability 1e-15 a coordinate) cells thin out and at 9.5 (2e-21) the
    support ends, and neither sampling nor addition takes constant time. :meth:`normal_` and :meth:`normal`
    return bare noise: whoever adds it up in floating point is without this defence.

    **Processes.** After a fork the child draws a fresh key, so parent and child never share a keystream; a
    seeded generator goes on deterministically in both. Objects refuse to be copied or pickled, since a copy
    would repeat the noise. They are not for use by several threads at once.

    Attributes:
        private: False if the generator was seeded, in which case nothing it protects is private.
    """

    private: bool

    def __init__(self) -> None:
        self.private = True
        self._rekey(os.urandom(_KEY_BYTES))

    @classmethod
    def seeded(cls, seed: int, *context: int | str | bytes) -> SecureRandom:
        """Return a reproducible generator for simulations; runs that use it are not private.

        Args:
            seed: any integer.
            context: what the stream is for, e.g. ``("client", 3, "round", 7)``: streams of different contexts
                are independent (the key is HKDF-SHA-256 of seed and context; RFC 5869).

        Raises:
            TypeError: seed or context of another type.
        """
        made = cls.__new__(cls)
        made.private = False
        info = b"".join(_encoded(part) for part in (seed, *context))
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed={seed!r}: must be an integer")
        made._rekey(HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=_LABEL + info).derive(_encoded(seed)))
        return made

    def token(self, size: int) -> bytes:
        """Return ``size`` random bytes, for instance a key."""
        return self._words((size + 7) // 8).tobytes()[:size]

    def uniform(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return float64 values uniform on the multiples of ``2**-53`` in [0, 1)."""
        size = _size(shape)
        return ((self._words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """Return ``n`` independent booleans, each true with probability ``q`` to within ``2**-64``.

        Raises:
            ValueError: ``n`` is negative or ``q`` outside [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q={q!r}: must be a probability in [0, 1]")
        words = self._words(n)
        threshold = round(math.ldexp(q, 64))  # exact: q has 53 significant bits
        if threshold >= 1 << 64:
            return np.ones(n, dtype=np.bool_)
        return words < np.uint64(threshold)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return a permutation of ``range(n)``, int64, uniform but for ties among 64-bit keys."""
        return np.argsort(self._words(n), kind="stable")

    def normal64(self, shape: int | tuple[int, ...], std: float) -> NDArray[np.float64]:
        """Return float64 Gaussian values of mean 0 and standard deviation ``std``."""
        return self._gaussian(_size(shape)).mul_(_checked(std)).numpy().reshape(shape)

    def normal(self, shape: int | tuple[int, ...], std: float) -> Tensor:
        """Return float32 Gaussian values of mean 0 and standard deviation ``std``."""
        return self._gaussian(_size(shape)).mul_(_checked(std)).float().reshape(shape)

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Fill a floating-point tensor with Gaussian values; returns it."""
        with torch.no_grad():
            return tensor.copy_(self._gaussian(tensor.numel()).mul_(_checked(std)).view(tensor.shape))

    def add_normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Add Gaussian noise to a floating-point tensor and round to the public grid; returns the tensor.

        The sum and the rounding are in float64. The grid's spacing is the power of two in
        ``(std * 2**-21, std * 2**-20]``.
        """
        if _checked(std) == 0.0:
            return tensor
        grid = math.ldexp(1.0, math.frexp(std)[1] - 1 - _GRID_BITS)
        with torch.no_grad():
            noised = self._gaussian(tensor.numel()).mul_(std).view(tensor.shape).add_(tensor)
            return tensor.copy_(noised.mul_(1 / grid).round_().mul_(grid))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecureRandom cannot be copied or pickled: the copy would repeat its noise; make a new one")

    def _rekey(self, key: bytes) -> None:
        """Start a keystream; a key is used for one keystream only, so the counter may start at zero."""
        self._pid = os.getpid()
        self._stream: CipherContext = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def _words(self, n: int) -> NDArray[np.uint64]:
        """The next ``n`` keystream words; a fresh key first if the process was forked."""
        if n < 0:
            raise ValueError(f"n={n!r}: must not be negative")
        if self._pid != os.getpid():
            if self.private:
                self._rekey(os.urandom(_KEY_BYTES))
            self._pid = os.getpid()
        return np.frombuffer(bytearray(self._stream.update(bytes(8 * n))), dtype="<u8")

    def _gaussian(self, n: int) -> Tensor:
        """Standard Gaussians, float64, by Box & Muller (1958)."""
        out = torch.empty(n, dtype=torch.float64)
        # In pieces that stay in cache; each uses up an even number of words.
        for start in range(0, n, _BULK):
            piece = out[start : start + _BULK]
            pairs = (piece.numel() + 1) // 2
            words = torch.from_numpy(self._words(2 * pairs).view(np.int64))
            # (0, 1): a signed word over 2**64 lies in [-1/2, 1/2); half a unit keeps the logarithm finite.
            radius = words[:pairs].double().mul_(2.0**-64).abs_().add_(2.0**-66).mul_(2.0)
            radius.log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
            angle = words[pairs:].double().mul_(math.pi * 2.0**-63)
            torch.mul(radius, angle.cos(), out=piece[:pairs])
            rest = piece.numel() - pairs
            torch.mul(radius[:rest], angle[:rest].sin(), out=piece[pairs:])
        return out


def _encoded(part: int | str | bytes) -> bytes:
    """An injective encoding: type, length, content."""
    if isinstance(part, bool) or not isinstance(part, int | str | bytes):
        raise TypeError(f"context {part!r}: must be an integer, a string or bytes")
    kind, body = (
        (b"b", part)
        if isinstance(part, bytes)
        else (b"s", part.encode())
        if isinstance(part, str)
        else (b"i", str(part).encode())
    )
    return kind + len(body).to_bytes(8, "big") + body


def _size(shape: int | tuple[int, ...]) -> int:
    """Number of elements."""
    return shape if isinstance(shape, int) else math.prod(shape)


def _checked(std: float) -> float:
    """Refuse a standard deviation that is negative, infinite or NaN."""
    if not (math.isfinite(std) and std >= 0.0):
        raise ValueError(f"std={std!r}: must be finite and not negative")
    return std
