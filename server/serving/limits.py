"""What one model server accepts, so that no request, and no number of them, takes it down."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Final, TypeVar

from models.signature import Signature
from server.errors import ServingError

# Small requests may blow up: a few kB of PNG are millions of pixels, a line of text names 10 000 classes' scores.
MOST_INPUT_ELEMENTS: Final = 2**24
MOST_OUTPUT_ELEMENTS: Final = 2**20
MOST_HEADER_BYTES: Final = 16 * 1024

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on requests and on what they may use; every one of them is positive.

    Attributes:
        body_bytes: of one request.
        records: in one request; large records and models of many outputs allow fewer (``records_for``).
        seconds: for a request's body to arrive, and again for its answer to be ready.
        header_seconds: for a connection that is not in a request: to send the head of the next one.
        concurrency: requests in hand at once, those that wait included; more are told to come again.
        connections: open at once.
        threads: that parse, predict and write answers.
        drain_seconds: for what is in hand once the server was told to stop.

    Raises:
        ServingError: a bound is not positive.
    """

    body_bytes: int = 8 * 2**20
    records: int = 1000
    seconds: float = 10.0
    header_seconds: float = 10.0
    concurrency: int = 64
    connections: int = 1000
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < 2**40:  # false for NaN as well
                raise ServingError(f"{each.name} = {value}: give a positive number")

    def records_for(self, signature: Signature) -> int:
        """The most records in one request to a model of this signature; at least 1."""
        return max(
            1,
            min(
                self.records,
                MOST_INPUT_ELEMENTS // signature.elements,
                MOST_OUTPUT_ELEMENTS // signature.outputs,
            ),
        )


class TooLarge(Exception):
    """A body passes the limit."""


class TooLate(Exception):
    """A body or an answer took longer than allowed."""


class Token:
    """A bearer token that is compared in constant time; ``None`` lets everybody pass.

    Raises:
        ServingError: the token is short enough to be guessed.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and len(token) < 16:
            raise ServingError("token: give at least 16 characters, for example of: openssl rand -hex 32")
        self._digest = None if token is None else _digest(token.encode())

    def allows(self, authorization: bytes | None) -> bool:
        """True if the ``Authorization`` header is the right one."""
        if self._digest is None:
            return True
        scheme, _, given = (authorization or b"").partition(b" ")
        # Digests, as comparing texts of different length tells the length.
        return hmac.compare_digest(_digest(given.strip()), self._digest) and scheme.lower() == b"bearer"


def _digest(token: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(token).digest()


async def read_body(chunks: AsyncIterator[bytes], limits: Limits) -> bytes:
    """Return a request's whole body.

    Raises:
        TooLarge, TooLate: it passes the limits; what has come is dropped.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in chunks:
                body += chunk
                if len(body) > limits.body_bytes:
                    raise TooLarge
    except TimeoutError:
        raise TooLate from None
    return bytes(body)


class Workers:
    """A bounded number of threads and of requests in hand."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="confide-predict")
        self.in_hand = 0

    def enter(self) -> bool:
        """Take a place for one request, given back by ``leave``; False if there is none."""
        if self.in_hand >= self._limits.concurrency:
            return False
        self.in_hand += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self.in_hand -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, done in a thread.

        Raises:
            TooLate: it was not ready in time. A thread cannot be stopped, so until it is done it counts as
                one more request in hand, lest late ones pile up unseen.
        """
        future = self._pool.submit(work)
        answer = asyncio.wrap_future(future)
        done, _ = await asyncio.wait({answer}, timeout=self._limits.seconds)
        if done:
            return answer.result()
        # asyncio logs exceptions that nobody fetched in full, and this one may quote a record.
        answer.add_done_callback(lambda late: late.cancelled() or late.exception())
        self._abandon(future)
        raise TooLate

    def stop(self) -> None:
        """Start nothing more; what runs is left to end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _abandon(self, future: Future[Result]) -> None:
        """Drop work that nobody waits for; hold a place while it runs."""
        if not future.cancel():
            loop = asyncio.get_running_loop()
            self.in_hand += 1
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.leave))
