"""Faults of a private training step, put into the product from outside: what the empirical audit has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privacy.dpsgd import SecureOptimizer
from privacy.noise import SecureRandom


def noise_times(factor: float) -> AbstractContextManager[object]:
    """Noise of another scale than the plan's."""
    honest = SecureRandom.add_normal_

    def add_normal_(self: SecureRandom, tensor: Tensor, std: float) -> Tensor:
        return honest(self, tensor, factor * std)

    return patch.object(SecureRandom, "add_normal_", add_normal_)


def clip_times(factor: float) -> AbstractContextManager[object]:
    """Records clipped to another norm than the one the noise is made for."""
    honest = SecureOptimizer.clip_and_accumulate

    def clip_and_accumulate(self: SecureOptimizer) -> None:
        planned = self.max_grad_norm
        self.max_grad_norm = factor * planned
        try:
            honest(self)
        finally:
            self.max_grad_norm = planned

    return patch.object(SecureOptimizer, "clip_and_accumulate", clip_and_accumulate)


@contextmanager
def shuffled_batches() -> Iterator[None]:
    """Batches of one size, dealt out from a permutation until it is used up."""
    decks: dict[int, tuple[SecureRandom, list[int]]] = {}  # the generator is kept, so that its id stays its own

    def bernoulli(self: SecureRandom, n: int, q: float) -> NDArray[np.bool_]:
        _, deck = decks.setdefault(id(self), (self, []))
        batch = np.zeros(n, np.bool_)
        for _ in range(round(n * q)):
            if not deck:
                deck.extend(self.permutation(n).tolist())
            batch[deck.pop()] = True
        return batch

    with patch.object(SecureRandom, "bernoulli", bernoulli):
        yield


@contextmanager
def reused_seed() -> Iterator[None]:
    """Every round's generator starts with the key of the first one made."""
    honest = SecureRandom._rekey
    keys: list[bytes] = []

    def rekey(self: SecureRandom, key: bytes) -> None:
        keys.append(key)
        honest(self, keys[0])

    with patch.object(SecureRandom, "_rekey", rekey):
        yield


FAULTS: Mapping[str, Callable[[], AbstractContextManager[object]]] = MappingProxyType(
    {
        "none": nullcontext,
        "noise x 0.9": lambda: noise_times(0.9),
        "half the noise": lambda: noise_times(0.5),
        "clip x 5": lambda: clip_times(5.0),
        "shuffled batches": shuffled_batches,
        "reused seed": reused_seed,
    }
)
EXPECTED_CHECK: Mapping[str, str] = MappingProxyType(
    {
        "noise x 0.9": "noise",
        "half the noise": "noise",
        "clip x 5": "clip",
        "shuffled batches": "sampling",
        "reused seed": "reuse",
    }
)
"""Which of the four tests is there for a fault."""
