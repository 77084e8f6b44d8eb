"""Permits: the governance's signed leave for one run, without which no department seals a vector.

Where the federation is governed from this machine a run is permitted as it starts. Elsewhere the
platform team prepares the run, the governance permits it from the prepared run's ``spec.json``, and the
file with roster and permit is given to the start.
"""

from __future__ import annotations

import time
from pathlib import Path

from models.files import write_atomic
from secagg.errors import SecaggError
from secagg.primitives import policy_hash
from secagg.roster import Permit, federation_id, open_permit, open_roster, sign_permit
from server.errors import GovernanceError, RunError
from server.federation import DAY, Governance, here
from server.membership import least_answers
from server.planning import check_sealable
from server.runs import RunDirectory, read_sealing
from strategies.agreement import read_spec
from strategies.lanes import largest_bound
from strategies.sealed import Envelopes
from strategies.settings import RunSettings


def require(settings: RunSettings) -> None:
    """Find out, before anything is made, that this machine could not permit a run.

    Raises :class:`RunError` without a governance key, :class:`GovernanceError` where the roster does not fit.
    """
    if settings.secagg.clear:
        return
    governance = here()
    if governance is None:
        raise RunError(
            f"run {settings.name}: no permit, and no governance key on this machine; "
            'make it with "confide run prepare", have it permitted with "confide federation permit", '
            "and give its start --permit FILE"
        )
    _fitting(governance, settings)


def grant(directory: RunDirectory, governance: Governance | None = None) -> None:
    """Permit the run with the governance key of this machine, or of ``governance``.

    Keeps the current roster and the permit in the run's directory; does nothing for a run in the clear.

    Raises:
        RunError: no governance key here; the text says how to get a permit.
        GovernanceError: the roster has expired or too few members, or the run asks for more than it allows.
    """
    spec = str(directory.document()["spec"])
    _, settings = read_spec(spec)
    if settings.secagg.clear:
        return
    governance = governance or here()
    if governance is None:
        directory.save_spec()
        raise RunError(
            f"run {directory.name}: no permit, and no governance key on this machine; have {directory.spec_file} "
            'permitted with "confide federation permit", and give --permit FILE'
        )
    directory.save_sealing(permit(governance, spec))


def permit(governance: Governance, spec: str, *, days: int | None = None) -> Envelopes:
    """Sign a permit for the run that ``spec`` describes; returns it with the current roster.

    It holds for ``days``, by default as ``federation.toml`` says. Raises :class:`GovernanceError`.
    """
    name, settings = read_spec(spec)
    _fitting(governance, settings)
    with governance.locked():
        now, serial = int(time.time()), governance.numbered("permits") + 1
        signed = sign_permit(
            Permit(
                serial=serial,
                federation=federation_id(governance.public_key()),
                run=name,
                roster_version=governance.roster().version,
                issued=now,
                expires=now + (days or governance.settings().permit_days) * DAY,
                max_rounds=settings.training.rounds + 1,  # the last one measures the finished model
                policy=policy_hash(spec.encode()),
            ),
            governance.key(),
        )
        # Before it is shown to anybody: a serial is used once.
        write_atomic(governance.directory / "permits" / f"{serial}.json", signed)
        return Envelopes(governance=governance.public_key(), roster=governance.envelope(), permit=signed)


def accept(directory: RunDirectory, file: Path) -> None:
    """Take the roster and the permit that ``confide federation permit`` wrote for this run.

    Raises :class:`RunError` where they are another run's or expired.
    """
    envelopes = read_sealing(file)
    _check(directory, envelopes)
    directory.save_sealing(envelopes)


def permitted(directory: RunDirectory) -> bool:
    """Whether the run has a permit; raises :class:`RunError` for one that cannot be used any more."""
    envelopes = directory.sealing()
    if envelopes is not None:
        _check(directory, envelopes)
    return envelopes is not None


def _check(directory: RunDirectory, envelopes: Envelopes) -> None:
    """Check both documents and that they are for this run, so that departments need not refuse them."""
    now = int(time.time())
    try:
        roster, _ = open_roster(envelopes.roster, envelopes.governance, now)
        permit_, _ = open_permit(envelopes.permit, envelopes.governance, now)
    except SecaggError as error:
        raise RunError(f"run {directory.name}: its permit cannot be used: {error}; have it permitted again") from None
    if permit_.run != directory.name:
        raise RunError(f"run {directory.name}: the permit is for run {permit_.run}; start that one")
    if permit_.policy != policy_hash(str(directory.document()["spec"]).encode()):
        raise RunError(f"run {directory.name}: the permit is for other settings; have its spec.json permitted")
    if permit_.roster_version != roster.version:
        raise RunError(f"run {directory.name}: the permit goes with another roster; have it permitted again")


def _fitting(governance: Governance, settings: RunSettings) -> None:
    """Refuse a run that departments would refuse, or that could never add anything up."""
    if settings.secagg.clear:
        raise GovernanceError('secagg.mode = "clear": such a run needs no permit, and each department must allow it')
    roster = governance.roster()
    if roster.expires <= time.time():
        raise GovernanceError(f'{governance.roster_file}: expired; sign it anew with "confide federation renew"')
    if least_answers(roster) is None:
        raise GovernanceError(
            f"federation: {len(roster.members)} members, colluders = {roster.colluders}, min_honest = "
            f"{roster.min_honest}: too few for a sealed sum; admit more departments"
        )
    if settings.strategy.min_departments > len(roster.members):
        raise GovernanceError(
            f"strategy.min_departments = {settings.strategy.min_departments}: the federation has "
            f"{len(roster.members)} members; lower it, or admit more departments"
        )
    check_sealable(settings, len(roster.members))
    if settings.secagg.mode == "strict" != roster.mode:
        raise GovernanceError(
            'secagg.mode = "strict": the federation\'s mode is "sealed"; set mode = "strict" in federation.toml '
            'and "confide federation renew", or leave it out of the run file'
        )
    widest = largest_bound(settings)
    if widest > roster.range_max:
        raise GovernanceError(
            f"secagg.update_range = {settings.secagg.update_range:g}: needs bounds up to {widest:g}, the federation "
            f"allows {roster.range_max:g}; lower it"
        )
