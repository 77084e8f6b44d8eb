"""Our side of ``benchmarks.secagg``: a whole federation over bytes, of which one member and the server are timed."""

from __future__ import annotations

import copy
import os
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secagg import client, primitives, roster, shamir, thresholds
from secagg.client import Bindings, EpochState, Me, Pins
from secagg.encoding import Encoding, Lane
from secagg.masks import CHUNK
from secagg.roster import Member, Permit, Roster, federation_id, sign_permit, sign_roster
from secagg.server import Epoch, SealedRound

RUN = "benchmark"
DAY = 86_400
BINDINGS = Bindings(policy=primitives.policy_hash(b"{}"), model=b"m" * 32, layout=b"l" * 32, config=b"c" * 32)
BOUND = 8.0


class WrongSum(RuntimeError):
    """What the masks left is not the sum of the vectors that went in."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Milliseconds: by the clock, and of processor time, all threads together, whatever else the machine does."""

    wall: float
    cpu: float

    def __add__(self, other: Span) -> Span:
        return Span(wall=self.wall + other.wall, cpu=self.cpu + other.cpu)


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """The least time of each part of one round, and the upload's size.

    Attributes:
        encode: one member, from float32 deltas to the vector that is masked.
        upload: one member, from that vector to the bytes it sends.
        unmask: one member, from the server's request to the bytes it sends.
        server: from everybody's uploads and answers as bytes to the sum.
        keystream, keystream_alone: the masks of one member added to a vector and nothing else, with as many threads
            as the upload and with one.
        threads: of the upload.
        size: bytes of an upload.
    """

    encode: Span
    upload: Span
    unmask: Span
    server: Span
    keystream: Span
    keystream_alone: Span
    threads: int
    size: int


def clock(work: Callable[[], object]) -> Span:
    """Return how long some work took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Span(wall=(time.perf_counter() - wall) * 1e3, cpu=(time.process_time() - cpu) * 1e3)


def least(variants: Mapping[str, Callable[[], Span]], seconds: float, *, turns: int = 3) -> dict[str, Span]:
    """Return the least of what each variant measures, all taking turns, so that ratios hold on a shared machine."""
    best = dict.fromkeys(variants, Span(wall=float("inf"), cpu=float("inf")))
    end, turn = time.monotonic() + seconds, 0
    while turn < turns or time.monotonic() < end:
        for name, variant in variants.items():
            span = variant()
            best[name] = Span(wall=min(best[name].wall, span.wall), cpu=min(best[name].cpu, span.cpu))
        turn += 1
    return best


def forget() -> None:
    """Forget what one process has computed for all its members: every machine would have to compute it for itself."""
    primitives._good.clear()
    shamir._lagrange.cache_clear()
    roster._read_roster.cache_clear()
    roster._read_permit.cache_clear()


def threads_for(size: int) -> int:
    """Return how many threads mask a vector of this size on this machine."""
    return max(1, min(len(os.sched_getaffinity(0)), size // CHUNK))


def keystream_and_add(vector: NDArray[np.uint32], keys: list[bytes], threads: int) -> None:
    """Add every key's AES-256-CTR keystream to a vector: the least that any pairwise masking has to do."""

    def work(begin: int, end: int) -> None:
        counter = modes.CTR((begin // 4).to_bytes(16, "big"))
        streams = [Cipher(algorithms.AES(key), counter).encryptor() for key in keys]
        words = np.empty(CHUNK, np.uint32)
        octets, zeros = words.view(np.uint8).data, memoryview(bytes(4 * CHUNK))
        for start in range(begin, end, CHUNK):
            piece = vector[start : min(start + CHUNK, end)]
            for stream in streams:
                stream.update_into(zeros[: piece.nbytes], octets[: piece.nbytes])
                np.add(piece, words[: piece.size], out=piece)

    if threads == 1:
        work(0, vector.size)
        return
    edges = [4 * (vector.size // 4 * part // threads) for part in range(threads)] + [vector.size]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


class Federation:
    """Members, a governance key and a server; every member but the timed one does its work once, for real.

    Args:
        n: members, all of them in every cohort; colluders and least honest set are the defaults for n.

    Attributes:
        threshold: how many must survive a round.
        setup: the least time of the timed member's set-up, which it does once an epoch.
    """

    def __init__(self, n: int) -> None:
        colluders, honest = thresholds.defaults(n)
        self.threshold = thresholds.threshold("sealed", n, colluders, honest)
        # In the middle of the cohort: half of the others encapsulate to it, and it does to the other half.
        self.timed = n // 2
        self.now = int(time.time())
        governance = Ed25519PrivateKey.generate()
        keys = [Ed25519PrivateKey.generate() for _ in range(n)]
        public = governance.public_key().public_bytes_raw()
        self.members = [Me(key=key, governance=public) for key in keys]
        self.roster = Roster(
            version=1,
            federation=federation_id(public),
            issued=self.now,
            expires=self.now + DAY,
            mode="sealed",
            colluders=colluders,
            min_honest=honest,
            range_max=BOUND,
            members=tuple(Member(id=i, name=f"site-{i}", key=me.public) for i, me in enumerate(self.members)),
        )
        permit = Permit(
            serial=1,
            federation=self.roster.federation,
            run=RUN,
            roster_version=1,
            issued=self.now,
            expires=self.now + DAY,
            max_rounds=1000,
            policy=BINDINGS.policy,
        )
        self.epoch = Epoch(
            sign_roster(self.roster, governance), self.roster, sign_permit(permit, governance), RUN, 1, 1
        )
        self.round = 0
        self.pins: list[Pins] = []
        self.states: list[EpochState] = []
        self.setup = self._set_up()

    def _advertise(self, i: int) -> tuple[Pins, EpochState, bytes]:
        """Enter the epoch as a member that has entered none."""
        invite = self.epoch.invite()
        return client.advertise(
            self.members[i], Pins(), invite, run=RUN, policy=BINDINGS.policy, now=self.now, state=None
        )

    def _set_up(self) -> Span:
        """Set the epoch up; the timed member's steps are pure, so they can be repeated."""
        timed, me = self.timed, self.members[self.timed]
        for i in range(len(self.members)):
            pins, state, reply = self._advertise(i)
            self.epoch.add_advertise(i, reply)
            self.pins.append(pins)
            self.states.append(state)
        directory = self.epoch.directory()
        before = self.states[timed]
        for i, member in enumerate(self.members):
            self.states[i], reply = client.encapsulate(member, self.states[i], directory)
            self.epoch.add_encapsulate(i, reply)
        after, pins = self.states[timed], self.pins[timed]
        # A round that is only opened uses nothing up.
        opening = SealedRound(copy.deepcopy(self.epoch), 1, self.epoch.members, size=1, bindings=BINDINGS).opening(
            timed
        )
        steps = {
            "advertise": lambda: self._cold(lambda: self._advertise(timed)),
            "encapsulate": lambda: self._cold(lambda: client.encapsulate(me, before, directory)),
            "open": lambda: self._cold(lambda: client.open_round(me, pins, after, opening, now=self.now)),
        }
        return sum(least(steps, 0.5).values(), Span(wall=0.0, cpu=0.0))

    def measure(self, size: int, drops: int, seconds: float) -> Sealed:
        """Run a round over vectors of ``size`` elements in which the last ``drops`` members never upload.

        Raises:
            WrongSum: the server's sum is not that of the vectors.
        """
        n, timed, me = len(self.members), self.timed, self.members[self.timed]
        self.round += 1
        pristine = copy.deepcopy(self.epoch)
        sealed = SealedRound(self.epoch, self.round, self.epoch.members, size=size, bindings=BINDINGS)
        # The vector ends with the two lanes of which everybody knows the sum.
        encoding = Encoding((Lane(name="delta", length=size - 2, bound=BOUND),), n)
        rng = np.random.default_rng(size + drops)
        expected = np.zeros(size, np.uint32)
        uploads: dict[int, bytes] = {}
        for i in range(n - drops):
            delta = {"delta": rng.standard_normal(size - 2, dtype=np.float32)}
            x, _ = encoding.encode(delta, secrets.token_bytes(32))
            expected += x
            state, opened = client.open_round(
                self.members[i], self.pins[i], self.states[i], sealed.opening(i), now=self.now
            )
            if i == timed:
                before, mine, round_, deltas = self.pins[i], x.copy(), (state, opened), delta
            self.pins[i], self.states[i], uploads[i] = client.upload(
                self.members[i], self.pins[i], state, opened, BINDINGS, x
            )
            sealed.add_upload(i, uploads[i])

        def upload() -> Span:
            x = mine.copy()
            return clock(lambda: client.upload(me, before, *round_, BINDINGS, x))

        threads, keys = threads_for(size), [secrets.token_bytes(32) for _ in range(n)]
        scratch = mine.copy()
        member = least(
            {
                "upload": upload,
                "keystream": lambda: clock(lambda: keystream_and_add(scratch, keys, threads)),
                "keystream_alone": lambda: clock(lambda: keystream_and_add(scratch, keys, 1)),
                "encode": lambda: clock(lambda: encoding.encode(deltas, secrets.token_bytes(32))),
            },
            seconds,
        )
        answers: dict[int, bytes] = {}
        pins, state, request = self.pins[timed], self.states[timed], b""
        for i in sealed.survivors():
            asked = sealed.unmask_request(i)
            request = asked if i == timed else request
            self.pins[i], self.states[i], answers[i] = client.unmask(
                self.members[i], self.pins[i], self.states[i], asked
            )
        work = {"unmask": lambda: self._cold(lambda: client.unmask(me, pins, state, request))}
        member |= least(work, min(seconds, 0.5))

        def server() -> Span:
            again = SealedRound(copy.deepcopy(pristine), self.round, self.epoch.members, size=size, bindings=BINDINGS)
            return self._cold(lambda: self._serve(again, uploads, answers, expected))

        return Sealed(**member, **least({"server": server}, seconds), threads=threads, size=len(uploads[timed]))

    @staticmethod
    def _serve(
        sealed: SealedRound, uploads: dict[int, bytes], answers: dict[int, bytes], expected: NDArray[np.uint32]
    ) -> None:
        """All that the server does with what it is sent in a round."""
        for i, reply in uploads.items():
            sealed.add_upload(i, reply)
        survivors = sealed.survivors()
        for i, reply in answers.items():
            sealed.add_answer(i, reply)
        total, contributors = sealed.finish()
        if contributors != survivors or not np.array_equal(total, expected):
            raise WrongSum(f"sealed sum of {len(uploads)} vectors of {expected.size} elements")

    @staticmethod
    def _cold(work: Callable[[], object]) -> Span:
        """Time of some work on a machine that knows nothing yet."""
        forget()
        return clock(work)
