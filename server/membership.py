"""Who belongs to the federation: each change is a new version of the signed roster."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from models.errors import ModelError
from models.files import write_atomic
from secagg.errors import FloorError
from secagg.roster import Member, Roster, federation_id, sign_roster
from secagg.thresholds import defaults, threshold
from server.errors import ControlError, GovernanceError
from server.federation import DAY, Department, Governance
from server.witness import slug
from strategies.console import save_json
from strategies.introduction import Request, node_key

if TYPE_CHECKING:
    from server.control import Control

FEWEST = 3


def admit(governance: Governance, request: Request) -> Department:
    """Admit the department that made ``request``: a new id, a new roster.

    Raises:
        GovernanceError: a member has that name, or the machine's keys are known already.
    """
    with governance.locked():
        known = governance.departments()
        if any(d.name.casefold() == request.name.casefold() and not d.removed for d in known):
            raise GovernanceError(
                f'department {request.name}: a member already; remove it first ("confide federation remove")'
            )
        # Evidence is kept in files named after departments, on disks that may not tell capitals apart.
        alike = next(
            (d.name for d in known if not d.removed and slug(d.name).casefold() == slug(request.name).casefold()), None
        )
        if alike is not None:
            raise GovernanceError(
                f"department {request.name}: too like {alike} for files named after both; enrol it under another name"
            )
        # Flower never takes a node key again, and whoever was removed shall not come back unseen.
        node = node_key(request.node)
        same = [d.name for d in known if d.identity == request.identity or node_key(d.node) == node]
        if same:
            raise GovernanceError(
                f"department {request.name}: its keys were admitted before, as {same[0]}; "
                "let its machine enrol anew, with new keys"
            )
        department = Department(
            id=max((d.id for d in known), default=-1) + 1,
            name=request.name,
            identity=request.identity,
            node=request.node,
        )
        _sign(governance, (*known, department))
        return department


def remove(governance: Governance, name: str) -> Department:
    """Remove a member: the next roster lacks it. Raises :class:`GovernanceError`."""
    with governance.locked():
        known = governance.departments()
        gone = next((d for d in known if d.name == name and not d.removed), None)
        if gone is None:
            raise GovernanceError(f'department {name}: no member; "confide federation list" shows who is')
        after = gone.model_copy(update={"removed": True})
        _sign(governance, tuple(after if d is gone else d for d in known))
        return after


def renew(governance: Governance) -> Roster:
    """Sign the roster and the invitation anew, as the settings are now. Raises :class:`GovernanceError`."""
    with governance.locked():
        roster = _sign(governance, governance.departments())
        governance.invite()
        return roster


def register(governance: Governance, control: Control) -> list[str]:
    """Let the coordinator's door know whom the federation knows, and forget whom it removed.

    Departments that the coordinator was told of by other means ("confide server admit") stay. Returns
    one text for each department that the coordinator refuses.

    Raises :class:`server.errors.ControlError` where no coordinator answers.
    """
    at_door = {d.key: d.node for d in control.departments()}
    refused = []
    for department in governance.departments():
        key = node_key(department.node).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        try:
            if not department.removed and key not in at_door:
                control.admit(department.name, key)
            elif department.removed and key in at_door:
                control.remove(at_door[key])
        except ControlError as error:
            refused.append(f"department {department.name}: {error}")
    return refused


def least_answers(roster: Roster) -> int | None:
    """How many must answer when the whole roster is asked; None while there are too few members for any sum."""
    try:
        return threshold(roster.mode, len(roster.members), roster.colluders, roster.min_honest)
    except FloorError:
        return None


def _sign(governance: Governance, departments: tuple[Department, ...]) -> Roster:
    """Write the departments and the next version of the roster; on an error everything is as it was."""
    settings, key = governance.settings(), governance.key()
    newest = governance.roster().version if governance.roster_file.exists() else 0
    version, now = max(governance.numbered("rosters"), newest) + 1, int(time.time())
    members = tuple(Member(id=d.id, name=d.name, key=bytes.fromhex(d.identity)) for d in departments if not d.removed)
    colluders, honest = defaults(max(len(members), FEWEST))
    roster = Roster(
        version=version,
        federation=federation_id(governance.public_key()),
        issued=now,
        expires=now + settings.roster_days * DAY,
        mode=settings.mode,
        colluders=colluders if settings.colluders is None else settings.colluders,
        min_honest=honest if settings.min_honest is None else settings.min_honest,
        range_max=settings.range_max,
        members=members,
    )
    envelope = sign_roster(roster, key)
    # In this order: a version that was signed is never signed again, nor an id given away twice, and what
    # departments are shown comes last.
    archived, listed = governance.directory / "rosters" / f"{version}.json", governance.directory / "departments.json"
    before = listed.read_bytes() if listed.exists() else None
    try:
        write_atomic(archived, envelope)
        save_json(listed, [d.model_dump() for d in departments])
        write_atomic(governance.roster_file, envelope)
    except BaseException:
        with suppress(OSError, ModelError):
            if governance.roster_file.exists() and governance.roster_file.read_bytes() == envelope:
                raise  # it is the new version all the same: departments may have seen it
            archived.unlink(missing_ok=True)
            listed.unlink(missing_ok=True) if before is None else write_atomic(listed, before)
        raise
    return roster
