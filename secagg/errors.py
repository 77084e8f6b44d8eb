"""What the room of sealed sums raises.

::

    SecaggError
    ├── RosterError        the roster cannot be accepted: not this federation's, or it contradicts itself
    ├── PermitError        the permit cannot be accepted for this run
    ├── ClockError         a document is expired, or from the future
    ├── FloorError         a cohort is too small or too large, or a threshold too low or impossible
    ├── FormatError        bytes that are not what the protocol's specification says
    ├── SignatureError     a signature or an authentication tag does not hold
    ├── ConsistencyError   a message contradicts what the receiver holds
    ├── ReplayError        a round, an epoch, a document or an answer that was used before
    ├── StateError         the state of an epoch, or the record of runs, is missing or damaged
    ├── EncodingError      numbers that cannot be encoded, masked, shared or decoded
    └── AbandonedError     the server cannot finish a round
"""

from __future__ import annotations

from typing import ClassVar


class SecaggError(Exception):
    """Root of everything this room raises.

    Attributes:
        code: one word for the class of failure, the same in every implementation of the protocol.
    """

    code: ClassVar[str] = "secagg"


class RosterError(SecaggError):
    """A roster that cannot be accepted."""

    code = "roster"


class PermitError(SecaggError):
    """A permit that cannot be accepted."""

    code = "permit"


class ClockError(SecaggError):
    """A document that has expired or was issued in the future."""

    code = "clock"


class FloorError(SecaggError):
    """A cohort, an assumption about colluders or a threshold that protects too little, or is impossible."""

    code = "floor"


class FormatError(SecaggError):
    """Bytes of another form than the specification's: length, version, type, field."""

    code = "format"


class SignatureError(SecaggError):
    """A signature or an authentication tag that does not hold."""

    code = "signature"


class ConsistencyError(SecaggError):
    """A message that contradicts what its receiver holds."""

    code = "consistency"


class ReplayError(SecaggError):
    """Something that may happen only once, a second time."""

    code = "replay"


class StateError(SecaggError):
    """State that is missing or damaged."""

    code = "state"


class EncodingError(SecaggError):
    """Numbers that cannot be encoded, masked, shared or decoded without error."""

    code = "encoding"


class AbandonedError(SecaggError):
    """A round that the server cannot finish; the text says why."""

    code = "abandoned"
