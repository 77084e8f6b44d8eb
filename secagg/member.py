"""Who a member is, and what it computes by itself before it takes part in a round."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import transcript
from secagg.thresholds import Floors, Mode


@dataclass(frozen=True, kw_only=True)
class Me:
    """A member's own settings.

    Attributes:
        key: Ed25519 identity key.
        governance: the federation's governance public key (32 bytes), pinned at enrolment.
        floors: what this member insists on.
    """

    key: Ed25519PrivateKey = field(repr=False)
    governance: bytes
    floors: Floors = field(default_factory=Floors)

    @property
    def public(self) -> bytes:
        """The identity public key, 32 bytes."""
        return self.key.public_key().public_bytes_raw()


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """Hashes (32 bytes each) of what a round trains, each computed from the bytes that are used.

    Attributes:
        policy: ``policy_hash`` of the run's settings.
        model: ``model_hash`` of the received model and control variate.
        layout: ``layout_hash`` of the vector's layout.
        config: ``config_hash`` of the round's configuration.
    """

    policy: bytes
    model: bytes
    layout: bytes
    config: bytes

    def context(
        self,
        *,
        run: bytes,
        epoch: int,
        number: int,
        mode: Mode,
        threshold: int,
        roster_hash: bytes,
        permit_hash: bytes,
        setup_hash: bytes,
        cohort: tuple[int, ...],
    ) -> bytes:
        """Return ``ctx`` of round ``number``: all that its members must agree on."""
        return transcript.round_context(
            run=run,
            epoch=epoch,
            round_=number,
            attempt=0,
            mode=mode,
            threshold=threshold,
            roster_hash=roster_hash,
            permit_hash=permit_hash,
            setup_hash=setup_hash,
            cohort_hash=transcript.cohort_hash(cohort),
            policy_hash=self.policy,
            model_hash=self.model,
            layout_hash=self.layout,
            config_hash=self.config,
        )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A round that a member may train for.

    Attributes:
        run: 32 bytes.
        epoch: the epoch it belongs to.
        round: its number.
        cohort: ids, strictly increasing.
        threshold: ``t``.
        mode: of the roster.
        colluders: ``c`` of the roster.
        min_honest: ``m`` of the roster.
        range_max: largest bound that a lane may have.
        request: fingerprint of the opening.
        reply: the upload already made for this very opening: send it again and train nothing. Else None.
    """

    run: bytes
    epoch: int
    round: int
    cohort: tuple[int, ...]
    threshold: int
    mode: Mode
    colluders: int
    min_honest: int
    range_max: float
    request: bytes
    reply: bytes | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """Size of the cohort."""
        return len(self.cohort)
