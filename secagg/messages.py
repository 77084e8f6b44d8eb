"""The ten messages of the protocol (docs/secagg-spec.md, "Messages") as values that become bytes and back.

::

    Message
    ├── Invite, Directory, Open, Survivors, Unmask              from the server
    └── Signed
        └── Advertise, Encapsulate, Upload, Confirm, Answer     from a member

``from_bytes`` checks form alone; ``require`` and ``verify`` check whom a message is from, and its receiver what it
means. Every encoding is canonical: ``M.from_bytes(data).to_bytes() == data``.
"""

from __future__ import annotations

from secagg.messages_round import (
    COMPLAINT,
    PAIR_SEED,
    SELF_SHARE,
    Answer,
    Confirm,
    DealtShare,
    Entry,
    Open,
    Survivors,
    Unmask,
    Upload,
    Uploaded,
)
from secagg.messages_setup import ADVERTISE_BYTES, Advertise, Directory, Encapsulate, Invite
from secagg.wire import HEADER_BYTES, MAGIC, Message, Signed

__all__ = [
    "ADVERTISE_BYTES",
    "COMPLAINT",
    "HEADER_BYTES",
    "MAGIC",
    "PAIR_SEED",
    "SELF_SHARE",
    "Advertise",
    "Answer",
    "Confirm",
    "DealtShare",
    "Directory",
    "Encapsulate",
    "Entry",
    "Invite",
    "Message",
    "Open",
    "Signed",
    "Survivors",
    "Unmask",
    "Upload",
    "Uploaded",
]
