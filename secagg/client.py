"""A member of sealed sums, without input or output: each step takes what is kept and a message, and returns both anew.

::

    invite    -> advertise   -> pins, state, reply
    directory -> encapsulate ->       state, reply
    open      -> open_round  ->       state, opened      everything that can be checked before training
                 upload      -> pins, state, reply       masks the trained vector
    survivors -> confirm     -> pins, state, reply       strict mode only
    unmask    -> unmask      -> pins, state, reply

Values are immutable, and a step that raises has changed nothing. Whoever drives the steps holds an exclusive lock
over *read, step, keep, send*: pins and state (``to_bytes``), and after an upload ``state.upload_reply``, are on disk
before the reply leaves. Then a crash at any point costs a round at most: an identical request gets the same bytes
again, and what may happen once does not happen twice.
"""

from __future__ import annotations

from secagg.member import Bindings, Me, Opened
from secagg.records import Pins, RunRecord
from secagg.setup import advertise, encapsulate
from secagg.state import EpochState
from secagg.thresholds import Floors
from secagg.unmask import confirm, unmask
from secagg.upload import open_round, upload

__all__ = [
    "Bindings",
    "EpochState",
    "Floors",
    "Me",
    "Opened",
    "Pins",
    "RunRecord",
    "advertise",
    "confirm",
    "encapsulate",
    "open_round",
    "unmask",
    "upload",
]
