"""Identities, roster and permit of a simulated federation: made for one simulation, kept in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.sealing import Sealing
from client.vault import MemoryVault
from secagg.client import Me
from secagg.primitives import policy_hash
from secagg.roster import Member, Permit, Roster, federation_id, sign_permit, sign_roster
from secagg.thresholds import MIN_COHORT, Floors, Mode, defaults
from server.planning import cohort_size
from strategies.errors import SettingsError
from strategies.lanes import largest_bound
from strategies.sealed import Envelopes
from strategies.settings import RunSettings

DAY = 86_400


def decide(settings: RunSettings, sizes: Mapping[str, int]) -> RunSettings:
    """Settle how a simulation of departments with these declared sizes is summed, where its run file does not say.

    Fewer than three departments cannot be sealed: each of two would learn the other's vector. Raises
    :class:`SettingsError` where the run file asks for it all the same; where it says nothing, the sum is in clear.
    """
    secagg = settings.secagg
    changes: dict[str, object] = {}
    if secagg.mode is None:
        changes["mode"] = "sealed" if len(sizes) >= MIN_COHORT else "clear"
    elif not secagg.clear and len(sizes) < MIN_COHORT:
        raise SettingsError(
            f'secagg.mode = "{secagg.mode}": {len(sizes)} department(s) cannot be sealed, it takes {MIN_COHORT}; '
            'add departments, or set secagg.mode = "clear" in a simulation'
        )
    if "max_size" not in secagg.model_fields_set:
        changes["max_size"] = max(sizes.values())
    return settings.model_copy(update={"secagg": secagg.model_copy(update=changes)})


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Every simulated department's part in sealed sums, and what the coordinator relays."""

    departments: dict[str, Sealing]
    envelopes: Envelopes


def seal(settings: RunSettings, names: Sequence[str], *, run: str, spec: str) -> Sealed:
    """Make a governance, identities and the signed documents of a run for departments of these names."""
    governance = Ed25519PrivateKey.generate()
    public = governance.public_key().public_bytes_raw()
    keys = {name: Ed25519PrivateKey.generate() for name in names}
    colluders, honest = defaults(cohort_size(settings, len(names)))
    mode: Mode = "strict" if settings.secagg.mode == "strict" else "sealed"
    now = int(time.time())
    roster = Roster(
        version=1,
        federation=federation_id(public),
        issued=now,
        expires=now + 365 * DAY,
        mode=mode,
        colluders=colluders,
        min_honest=honest,
        range_max=largest_bound(settings),
        members=tuple(
            Member(id=number, name=name, key=key.public_key().public_bytes_raw())
            for number, (name, key) in enumerate(keys.items(), start=1)
        ),
    )
    permit = Permit(
        serial=1,
        federation=roster.federation,
        run=run,
        roster_version=1,
        issued=now,
        expires=now + 365 * DAY,
        max_rounds=settings.training.rounds + 1,
        policy=policy_hash(spec.encode()),
    )
    floors = Floors(min_honest=honest, min_colluders=colluders)
    return Sealed(
        departments={
            name: Sealing(me=Me(key=key, governance=public, floors=floors), vault=MemoryVault())
            for name, key in keys.items()
        },
        envelopes=Envelopes(
            governance=public, roster=sign_roster(roster, governance), permit=sign_permit(permit, governance)
        ),
    )
