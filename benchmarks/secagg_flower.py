"""Flower's side of ``benchmarks.secagg``: SecAgg+ by Flower's own functions; one client and the server are timed.

The client's stages are Flower's own (``secaggplus_mod``). The server's work makes the same calls in the same order as
``SecAggPlusWorkflow``, from the uploads' bytes to the sum, without what would make a model of it. Every secret that is
shared, reconstructed or removed is real; so that a benchmark takes minutes and not an hour, masks between two clients
that both upload and of whom none is timed are left out (the server could not tell: they cancel).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarray_to_bytes, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray

from benchmarks.secagg_sealed import Span, WrongSum, clock, least

# Flower's defaults; a client of the greatest weight, with parameters on the grid of its quantisation, is exact.
CLIPPING, TARGET, MODULUS, WEIGHT = 8.0, 1 << 22, 1 << 32, 1000
Arrays = list[NDArray[Any]]


class Cohort:
    """``n`` clients after SecAgg+'s set-up, each a neighbour of every other.

    Args:
        n: clients, an odd number as SecAgg+ wants it.
        threshold: how many shares reconstruct a secret.
        droppers: how many of the last clients may drop.

    Attributes:
        setup: the least time of the timed client's first two stages.
    """

    def __init__(self, n: int, threshold: int, droppers: int) -> None:
        self.ids = list(range(1, n + 1))
        self.timed = self.ids[n // 2]
        self.droppers = self.ids[n - droppers :]
        self.threshold = threshold
        self.states = {i: SecAggPlusState() for i in self.ids}
        configs = ConfigRecord(
            {
                Key.SAMPLE_NUMBER: n,
                Key.SHARE_NUMBER: n,
                Key.THRESHOLD: threshold,
                Key.CLIPPING_RANGE: CLIPPING,
                Key.TARGET_RANGE: TARGET,
                Key.MOD_RANGE: MODULUS,
                Key.MAX_WEIGHT: float(WEIGHT),
            }
        )
        for i, state in self.states.items():
            state.nid = i
            _setup(state, configs)
        me = self.states[self.timed]
        self.setup = least({"setup": lambda: clock(lambda: _setup(me, configs))}, 0.2)["setup"]
        keys = ConfigRecord({str(i): [state.pk1, state.pk2] for i, state in self.states.items()})
        shared: dict[str, Any] = {}
        self.setup += least({"share": lambda: clock(lambda: shared.update(_share_keys(me, keys)))}, 0.2, turns=1)[
            "share"
        ]
        self.seeds: dict[int, list[bytes]] = {}
        self.keys: dict[int, list[bytes]] = {}
        self._deal(dict(zip(shared[Key.DESTINATION_LIST], shared[Key.CIPHERTEXT_LIST], strict=True)))
        self._secrets: dict[int, tuple[Span, dict[int, bytes]]] = {}

    def _deal(self, ciphertexts: dict[int, bytes]) -> None:
        """Let the others share their secrets, and receive the timed client's."""
        me, n = self.states[self.timed], len(self.ids)
        mine = {i: self._opened(i, ciphertext) for i, ciphertext in ciphertexts.items()}
        mine[self.timed] = me.rd_seed_share_dict[self.timed]
        self.seeds[self.timed] = [mine[i] for i in self.ids]
        self.sent: dict[str, Any] = {Key.CIPHERTEXT_LIST: [], Key.SOURCE_LIST: []}
        for i, state in self.states.items():
            if i == self.timed:
                continue
            state.rd_seed = os.urandom(32)
            self.seeds[i] = create_shares(state.rd_seed, self.threshold, n)
            if i in self.droppers:
                self.keys[i] = create_shares(state.sk1, self.threshold, n)
            at = self.ids.index(self.timed)
            # Nobody needs the key of a client that stays, so what is dealt of it is as long, and random.
            key_share = self.keys[i][at] if i in self.keys else os.urandom(len(me.sk1_share_dict[self.timed]))
            plaintext = share_keys_plaintext_concat(i, self.timed, self.seeds[i][at], key_share)
            self.sent[Key.SOURCE_LIST].append(i)
            self.sent[Key.CIPHERTEXT_LIST].append(encrypt(self._key(i, self.timed, second=True), plaintext))

    def _opened(self, i: int, ciphertext: bytes) -> bytes:
        """Client i's share of the timed client's seed."""
        return share_keys_plaintext_separate(decrypt(self._key(i, self.timed, second=True), ciphertext))[2]

    def _key(self, i: int, j: int, *, second: bool = False) -> bytes:
        """What clients i and j share by their first key pairs, or their second."""
        own, other = self.states[i], self.states[j]
        private, public = (own.sk2, other.pk2) if second else (own.sk1, other.pk1)
        return generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(public))

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Those pairs of clients, smaller first, whose mask is not left out, and that the timed one does not add."""
        for at, i in enumerate(self.ids):
            for j in self.ids[at + 1 :]:
                if {i, j} & {self.timed, *self.droppers}:
                    yield i, j

    def uploads(self, size: int, seconds: float) -> tuple[Span, dict[int, list[bytes]], dict[int, NDArray[np.int64]]]:
        """Return the timed client's least time, everybody's upload, and what was masked in each."""
        rng = np.random.default_rng(size)
        plain = {i: rng.integers(0, TARGET, size, dtype=np.int64) for i in self.ids}
        shape: list[tuple[int, ...]] = [(1,), (size,)]
        masked: dict[int, Arrays] = {}
        for i in self.ids:
            if i != self.timed:
                mask = pseudo_rand_gen(self.states[i].rd_seed, MODULUS, shape)
                masked[i] = parameters_addition(factor_combine(TARGET, [plain[i]]), mask)
        for i, j in self._pairs():
            mask = pseudo_rand_gen(self._key(i, j), MODULUS, shape)
            if i != self.timed:
                masked[i] = parameters_subtraction(masked[i], mask)
            if j != self.timed:
                masked[j] = parameters_addition(masked[j], mask)
        sent = {i: [ndarray_to_bytes(array) for array in parameters_mod(masked.pop(i), MODULUS)] for i in [*masked]}
        values = ndarrays_to_parameters([(plain[self.timed] / (TARGET / (2 * CLIPPING)) - CLIPPING).astype(np.float32)])
        me, incoming, reply = self.states[self.timed], ConfigRecord(self.sent), {}

        def collect() -> Span:
            return clock(lambda: reply.update(_collect_masked_vectors(me, incoming, WEIGHT, values)))

        span = least({"collect": collect}, seconds, turns=1)["collect"]
        sent[self.timed] = cast(list[bytes], reply[Key.MASKED_PARAMETERS])
        return span, sent, plain

    def unmask(self, drops: int) -> Span:
        """Return the timed client's least time for answering; its shares are what the others dealt it."""
        me, (active, dead) = self.states[self.timed], self._split(drops)
        configs = ConfigRecord({Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: dead})
        reply: dict[str, Any] = {}
        span = least({"unmask": lambda: clock(lambda: reply.update(_unmask(me, configs)))}, 0.1)["unmask"]
        at = self.ids.index(self.timed)
        if reply[Key.SHARE_LIST] != [*(self.seeds[i][at] for i in active), *(self.keys[i][at] for i in dead)]:
            raise WrongSum("SecAgg+: the timed client's shares are not those that were dealt")
        return span

    def server(
        self, drops: int, sent: dict[int, list[bytes]], plain: dict[int, NDArray[np.int64]], seconds: float
    ) -> Span:
        """Return the server's least time from bytes to the sum.

        Reconstructing the secrets does not depend on the vectors, so for every number of drops it is timed once.

        Raises:
            WrongSum: the sum is not that of the vectors.
        """
        if drops not in self._secrets:
            found: dict[int, bytes] = {}
            combine = least({"combine": lambda: clock(lambda: found.update(self._combine(drops)))}, 0.5, turns=1)
            self._secrets[drops] = combine["combine"], found
        combined, secrets = self._secrets[drops]
        total: Arrays = []

        def aggregate() -> None:
            total[:] = self._aggregate(drops, sent, secrets)

        aggregated = least({"aggregate": lambda: clock(aggregate)}, seconds, turns=1)
        active, _ = self._split(drops)
        ratio, (vector,) = factor_extract(total)
        if ratio != len(active) * TARGET or not np.array_equal(vector, sum(plain[i] for i in active)):
            raise WrongSum(f"SecAgg+ over {len(active)} vectors")
        return combined + aggregated["aggregate"]

    def _split(self, drops: int) -> tuple[list[int], list[int]]:
        """Who uploads, and who drops."""
        return self.ids[: len(self.ids) - drops], self.ids[len(self.ids) - drops :]

    def _combine(self, drops: int) -> dict[int, bytes]:
        """Reconstruct, from all the shares that were sent as the workflow does, seeds and dropped keys."""
        active, dead = self._split(drops)
        answering = [self.ids.index(i) for i in active]
        return {i: combine_shares([self.seeds[i][at] for at in answering]) for i in active} | {
            i: combine_shares([self.keys[i][at] for at in answering]) for i in dead
        }

    def _aggregate(self, drops: int, sent: dict[int, list[bytes]], secrets: dict[int, bytes]) -> Arrays:
        """Sum the uploads and remove the masks."""
        active, dead = self._split(drops)
        total: Arrays | None = None
        for i in active:
            vector = [bytes_to_ndarray(data) for data in sent[i]]
            total = vector if total is None else parameters_addition(total, vector)
        if total is None:
            raise WrongSum("SecAgg+: nobody uploaded")
        total = parameters_mod(total, MODULUS)
        shape = get_parameters_shape(total)
        for i in active:
            total = parameters_subtraction(total, pseudo_rand_gen(secrets[i], MODULUS, shape))
        for i in dead:
            for j in (*active, *dead):
                if j == i:
                    continue
                public = bytes_to_public_key(self.states[j].pk1)
                key = generate_shared_key(bytes_to_private_key(secrets[i]), public)
                mask = pseudo_rand_gen(key, MODULUS, shape)
                # As the workflow has it: what the pair's other end, which is still in the sum, has added or taken.
                total = parameters_addition(total, mask) if i > j else parameters_subtraction(total, mask)
        return parameters_mod(total, MODULUS)
