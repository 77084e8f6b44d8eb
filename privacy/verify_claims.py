"""Verifier, part 6 of 7: what the federation and its coordinator say, and whether the ledgers agree.

Rosters and permits (docs/secagg-spec.md, "Identities, roster, permit"), and the manifests of models
(docs/ledger-spec.md, "Bundle").
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from privacy import verify_values as read
from privacy.verify_evidence import Evidence
from privacy.verify_values import Json, Refused, sha, shown

_ROSTER_FILE = read.fields({"governance": read.digest, "permit": read.text, "roster": read.text})
_ENVELOPE = read.fields({"payload": read.text, "signature": read.hex64})
_any: read.Check = lambda value: value  # noqa: E731 - what the governance signed, and nothing here depends on
_SIGNED = {"type": read.text, "federation": read.digest, "issued": read.number, "expires": read.number}
_MEMBER = read.fields({"id": read.number, "name": read.text, "key": read.digest})
_ROSTER = read.fields(
    {
        **_SIGNED,
        "version": read.number,
        "members": read.each(_MEMBER),
        **dict.fromkeys(("mode", "colluders", "min_honest", "range_max", "suite"), _any),
    }
)
_PERMIT = read.fields(
    {
        **_SIGNED,
        "run": read.text,
        "roster_version": read.number,
        "policy": read.digest,
        **dict.fromkeys(("serial", "max_rounds"), _any),
    }
)
_RANGE = read.fields(
    {
        "origin": read.ledger_name,
        "size": read.at_least(1, read.number),
        "root": read.digest,
        "rounds": read.each(read.at_least(0, read.number)),
    }
)


def read_rosters(evidence: Evidence) -> None:
    """Find out whether the keys of ledgers are those that the governance has signed."""
    for file, run in evidence.named("rosters/", ".json"):
        allowed: list[str] = []
        members = evidence.guarded(file, lambda data: _roster(evidence, data, run, allowed))  # noqa: B023 - used at once
        for ledger in evidence.ledgers.values() if members else ():
            mine, key = ledger.runs.get(run), members.get(ledger.department)
            keys = mine.keys if mine else {one for _, one in ledger.keys}
            if mine and mine.spec not in allowed:
                evidence.say(file, f"permits other settings than {shown(ledger.department)} has reserved this run for")
            if key is None and mine:
                evidence.say(file, f"does not name {shown(ledger.department)}, whose ledger has this run")
            elif key is not None and bytes.fromhex(key) not in keys:
                evidence.say(file, f"has another key for {shown(ledger.department)} than its ledger")
            elif key is not None:
                evidence.vouched.add(ledger.origin)
        evidence.members[run] = members or {}
    for name, ledger in evidence.ledgers.items():
        if evidence.governance and ledger.origin not in evidence.vouched:
            evidence.lacks(f"ledgers/{name}.jsonl", "no roster of the governance given names its key")


def _roster(evidence: Evidence, data: bytes, run: str, allowed: list[str]) -> dict[str, str]:
    """The members, name to key, of a roster and permit that the governance has signed for this run.

    What settings the permit allows is added to ``allowed``.
    """
    found = _ROSTER_FILE(read.parse_canonical(data))
    governance = bytes.fromhex(found["governance"])
    told = "".join((evidence.governance or found["governance"]).split()).lower()
    if told not in (governance.hex(), sha(_enc(b"confide/governance-fingerprint/v1", governance)).hex()[:32]):
        raise Refused("is not of the governance key that was given")
    roster = _ROSTER(_unseal("roster", found["roster"], governance))
    permit = _PERMIT(_unseal("permit", found["permit"], governance))
    federation = sha(_enc(b"confide/federation/v1", governance)).hex()
    if (permit["run"], permit["roster_version"]) != (run, roster["version"]):
        raise Refused("has the permit of another run, or for another roster")
    if not roster["federation"] == permit["federation"] == federation:
        raise Refused("is of another federation than its governance key's")
    members = {member["name"]: member["key"] for member in roster["members"]}
    if len(members) < len(roster["members"]):
        raise Refused("has two members of one name")
    allowed.append(permit["policy"])
    return members


def read_models(evidence: Evidence) -> list[Json]:
    """Return a row a model: whether what went into it is in the ledgers."""
    rows = []
    for file, run in evidence.named("models/", ".json"):
        ranges = evidence.guarded(file, _ranges)
        if ranges == {}:
            evidence.lacks(file, "names no ledgers, so nothing shows what went into the model")
        departments = [
            {**{key: claimed[key] for key in ("origin", "size", "rounds")}, "department": department}
            | {"covered": _covers(evidence, file, run, department, claimed)}
            for department, claimed in (ranges or {}).items()
        ]
        rows.append({"run": run, "departments": departments})
        known = {ledger.department for ledger in evidence.ledgers.values()}
        for member in evidence.members.get(run, {}).keys() - known - (ranges or {}).keys():
            evidence.lacks(f"rosters/{run}.json", f"the ledger of its member {shown(member)} is not in the bundle")
    return rows


def _covers(evidence: Evidence, file: str, run: str, department: str, claimed: Json) -> bool:
    """Whether a ledger covers what a manifest says of it."""
    ledger = next((one for one in evidence.ledgers.values() if one.origin == claimed["origin"]), None)
    size, rounds, who = claimed["size"], claimed["rounds"], shown(department)
    if ledger is None:
        evidence.lacks(file, f"names ledger {claimed['origin']} of {who}, which is not in the bundle")
    elif ledger.department != department:
        evidence.say(file, f"takes the ledger of {shown(ledger.department)} for that of {who}")
    elif not ledger.whole:
        return False
    elif size > ledger.size or claimed["root"] != ledger.tree.root(size).hex():
        evidence.say(file, f"names {size} entries of {who} that are not those of its ledger")
    elif any(one >= two for one, two in pairwise(rounds)):
        evidence.say(file, f"does not list the rounds of {who} in order, each once")
    else:
        train = ledger.runs[run].train if run in ledger.runs else {}
        missing = [one for one in rounds if train.get(one, size) >= size]
        if not missing:
            return True
        evidence.say(file, f"has round {shown(missing[0])} of {who}, which the ledger had not released by entry {size}")
    return False


def _ranges(data: bytes) -> Json:
    """What a manifest says of ledgers; empty if nothing."""
    manifest = read.parse_json(data)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("ledgers", {}), dict):
        raise Refused("is no manifest of a model")
    found = manifest.get("ledgers", {})
    return {name: _RANGE(claimed) for name, claimed in found.items()}


def _enc(*parts: bytes) -> bytes:
    """``enc`` of docs/secagg-spec.md."""
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part))


def _unseal(what: str, envelope: str, governance: bytes) -> Any:
    """The payload of a signed document, its signature checked (docs/secagg-spec.md, "Identities, roster, permit")."""
    outer = _ENVELOPE(read.parse_json(envelope.encode()))
    payload = outer["payload"].encode()
    message = _enc(f"confide/{what}/v1".encode(), bytes(32), bytes(4), b"\xff" * 4, payload)
    if not read.signed(governance, bytes.fromhex(outer["signature"]), message):
        raise Refused(f"has a {what} that is not signed by the governance key")
    found = read.parse_json(payload)
    if not isinstance(found, dict) or found.get("type") != what:
        raise Refused(f"has no {what}")
    return found
