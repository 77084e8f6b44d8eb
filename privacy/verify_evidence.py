"""Verifier, part 4 of 5: the files of a bundle, and whether they agree (docs/ledger-spec.md, "Bundle" and "Verdict").

Policies' signatures, checkpoints, witnesses, rosters (docs/secagg-spec.md, "Identities, roster, permit"), manifests.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from privacy import verify_values as read
from privacy.verify_ledger import MOST_LINE, Ledger
from privacy.verify_spending import Policy
from privacy.verify_values import Json, Missing, Note, Refused, Severity, demand, fit, noted, sha, shown

MOST_FILES, MOST_ENTRIES, MOST_FINDINGS = 20_000, 1_000_000, 50
MOST_BYTES = {".toml": 1 << 16, ".sig": 1 << 14, ".note": 1 << 14, ".json": 1 << 23, "": 65}
_FOLDERS = {"ledgers", "policies", "checkpoints", "witnesses", "rosters", "models"}
_KNOWN = re.compile(
    r"bundle\.json|ledgers/[\w.-]+\.jsonl|policies/[0-9a-f]{64}\.(toml|sig)|checkpoints/[\w.-]+\.note"
    r"|witnesses/[\w.-]+/(key|[\w.-]+\.note)|(rosters|models)/[^/]+\.json",
    re.ASCII,
)
_BUNDLE = {"created": read.time, "format": "confide/evidence/v1"}
_NUMBER = range(10**18)
_SIGNED = {"type": str, "federation": read.digest, "issued": _NUMBER, "expires": _NUMBER}
_MEMBERS = [{"id": _NUMBER, "name": str, "key": read.bytes_32}]
# What nothing here depends on may be anything.
_SUMS = dict.fromkeys(("mode", "colluders", "min_honest", "range_max", "suite"), object)
_ROSTER = _SIGNED | _SUMS | {"version": _NUMBER, "members": _MEMBERS}
_RUN = {"run": str, "roster_version": _NUMBER, "policy": read.digest}
_PERMIT = _SIGNED | _RUN | {"serial": object, "max_rounds": object}
_CLAIM = {"origin": read.ledger_name, "size": range(1, 10**18), "root": read.bytes_32, "rounds": [_NUMBER]}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A finding: the bundle's file, the place of the entry in it (from 0; None: all of it), what is wrong, how bad."""

    file: str
    seq: int | None
    what: str
    severity: Severity


def walk(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return a bundle's regular files by name, and what else is there; links are not followed; may raise OSError."""
    found: dict[str, Path] = {}
    others: list[str] = []
    folders = [("", root)]
    while folders and len(others) < MOST_FILES:
        prefix, folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                inside = name in _FOLDERS or prefix == "witnesses/"
                room = len(found) + len(folders) < MOST_FILES
                if room and inside and entry.is_dir(follow_symlinks=False):
                    folders.append((f"{name}/", Path(entry.path)))
                elif room and entry.is_file(follow_symlinks=False) and _KNOWN.fullmatch(name) and name.isprintable():
                    found[name] = Path(entry.path)
                else:
                    others.append(shown(name))
    return dict(sorted(found.items())), sorted(others)


class Evidence:
    """One bundle, examined; ``problems`` are the findings, in the order in which they were met.

    Args:
        root: the bundle.
        witness_keys: the keys that the auditor has of witnesses, by name.
        governance: the governance key, hexadecimal, or its fingerprint, as the auditor has it; None if not.
    """

    def __init__(self, root: Path, witness_keys: dict[str, bytes], governance: str | None) -> None:
        self.witness_keys, self.governance = witness_keys, governance
        self.problems: list[Problem] = []
        self._said: Counter[tuple[str, str]] = Counter()
        self.files: dict[str, Path] = {}
        self._keys: dict[str, bytes] = {}  # of witnesses, by folder
        self.policies: dict[str, Policy] = {}
        self.ledgers: dict[str, Ledger] = {}  # by the name of the file
        self.witnessed: dict[str, dict[str, int]] = defaultdict(dict)  # by origin: the size that each witness has seen
        self.members: dict[str, dict[str, bytes]] = {}  # keys of a run's roster by department, by run
        self.vouched: set[str] = set()  # origins whose key a roster names
        with self._about(""):
            self.files, others = walk(root)
            for name in others:
                self.say(name, "is no file of a bundle, or a link, or one too many; it was not read")
        with self._about("bundle.json"):
            fit(_BUNDLE, read.parse_canonical(self._read("bundle.json")))
        self._read_ledgers()
        self._compare_notes()
        self._read_rosters()

    def say(self, file: str, what: str, severity: Severity = "violation", seq: int | None = None) -> None:
        """Note a finding; a file with thousands of them is told of once."""
        self._said[file, severity] += 1
        if self._said[file, severity] == MOST_FINDINGS + 1:
            what, seq = "more findings are not listed", None
        if self._said[file, severity] <= MOST_FINDINGS + 1:
            self.problems.append(Problem(file=file, seq=seq, what=what, severity=severity))

    def lacks(self, file: str, what: str = "is missing") -> None:
        """Note that something to compare with is missing."""
        self.say(file, what, "incomplete")

    def _about(self, file: str) -> AbstractContextManager[None]:
        """What is refused within is a finding about this file."""
        return noted(partial(self.say, file))

    def named(self, prefix: str, suffix: str) -> list[tuple[str, str]]:
        """Return files of one kind: the name, and what is between prefix and suffix."""
        names = [file for file in self.files if file.startswith(prefix) and file.endswith(suffix)]
        return [(file, file[len(prefix) : -len(suffix)]) for file in names]

    def _opened(self, file: str) -> BinaryIO:
        """A file, and not what a link put in its place leads to."""
        if file not in self.files:
            raise Missing("is missing")
        return os.fdopen(os.open(self.files[file], os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")

    def _read(self, file: str) -> bytes:
        """What a file holds."""
        most = MOST_BYTES[Path(file).suffix]
        with self._opened(file) as opened:
            data = opened.read(most + 1)
        demand(len(data) <= most, f"has more than {most} bytes")
        return data

    def _lines(self, file: str) -> Iterator[bytes]:
        """The lines of a ledger."""
        with self._opened(file) as opened:
            for _ in range(MOST_ENTRIES):
                if not (line := opened.readline(MOST_LINE + 1)):
                    return
                yield line
        raise Refused(f"is one of more than {MOST_ENTRIES}")

    def _read_ledgers(self) -> None:
        """Every policy under the digest of its own bytes, every ledger; who has signed the policies."""
        texts: dict[str, bytes] = {}
        for file, digest in self.named("policies/", ".toml"):
            with self._about(file):
                data = self._read(file)
                same = sha(data).hex() == digest
                demand(same, "is not the policy that its name says: it was changed, or swapped for another")
                texts[digest] = data
                self.policies[digest] = Policy.parse(data)
        for file, name in self.named("ledgers/", ".jsonl"):
            ledger = self.ledgers[name] = Ledger(self.policies, partial(self.say, file))
            with self._about(file):
                ledger.replay(self._lines(file))
            if ledger.origin.split("/")[1:2] != [name]:
                self.say(file, "holds no ledger of this name")
        if not self.ledgers:
            self.lacks("ledgers", "there is no ledger")
        named = {digest for ledger in self.ledgers.values() for digest in ledger.signers}
        for file, digest in [*self.named("policies/", ".toml"), *self.named("policies/", ".sig")]:
            if digest not in named:
                self.lacks(file, "is here, but no ledger that names it")
        for digest in sorted(named):
            if f"policies/{digest}.toml" not in self.files:
                self.lacks(f"policies/{digest}.toml")
            with self._about(f"policies/{digest}.sig"):
                self._check_signatures(f"policies/{digest}.sig", digest, texts.get(digest))

    def _check_signatures(self, file: str, digest: str, text: bytes | None) -> None:
        """A policy is signed by the key of every ledger that names it, at the time; by nobody else."""
        lines = self._read(file).decode("ascii", "replace").removesuffix("\n").split("\n")
        signatures = {read.bytes_64(line) for line in lines}
        if text is None:
            return
        others, message = set(signatures), b"confide/policy/v1\n" + text
        for ledger in self.ledgers.values():
            keys = ledger.signers.get(digest, set())
            mine = {one for one in signatures for key in keys if read.signed(key, one, message)}
            if keys and not mine:
                self.say(file, f"is not signed by the key of ledger {ledger.origin}")
            others -= mine
        if others:
            raise Missing("has a signature of a ledger that is not here")

    def _compare_notes(self) -> None:
        """Departments' newest checkpoints, and what witnesses have seen."""
        for file, folder in self.named("witnesses/", "/key"):
            with self._about(file):
                data = self._read(file).decode("ascii", "replace")
                demand(data.endswith("\n"), "does not end in a line feed")
                self._keys[folder] = read.bytes_32(data[:-1])
        expected = {f"checkpoints/{name}.note" for name in self.ledgers}
        for file in sorted(expected | {file for file in self.files if file.endswith(".note")}):
            with self._about(file):
                self._check_note(file)
        for name in self.ledgers:
            file, seen = f"witnesses/*/{name}.note", self.witnessed[self.ledgers[name].origin].keys()
            if not seen:
                self.lacks(file, "no witness has seen this ledger: its end may be cut off, or all of it forked")
            for witness in sorted(self.witness_keys.keys() - seen):
                self.lacks(file, f"there is none of witness {shown(witness)}, whose key was given")

    def _check_note(self, file: str) -> None:
        """A note's entries are the ledger's; what could not be read to its end is not compared."""
        folder, name = file.removesuffix(".note").rsplit("/", 1)
        if (ledger := self.ledgers.get(name)) is None:
            self.lacks(f"ledgers/{name}.jsonl", f"is missing, and {file} is of it")
        note = Note.parse(self._read(file))
        if ledger is None or not ledger.whole:
            return
        size, entries = note.size, len(ledger.tree)
        demand(note.origin == ledger.origin, f"is of another ledger, {note.origin}")
        demand(size <= entries, f"covers {size} entries, and the ledger has {entries}: its end was cut off")
        same = note.root == ledger.tree.root(size)
        demand(same, f"has another root than the ledger's first {size} entries: it was forked or rewritten")
        key = next(key for seq, key in reversed(ledger.keys) if seq < size)
        demand(note.signed_by(key), "is not signed by the ledger key then in force")
        if folder == "checkpoints":
            if size < entries:
                self.say(file, f"is old: it covers {size} of {entries} entries")
            demand(note.signatures.keys() == {ledger.origin}, "has signatures of others")
        else:
            self._check_cosigned(file, folder.removeprefix("witnesses/"), ledger, note)

    def _check_cosigned(self, file: str, folder: str, ledger: Ledger, note: Note) -> None:
        """A witness's note is cosigned under its key, in time, and is its newest."""
        names = [name for name in note.signatures if name != ledger.origin]
        witness = names[0] if len(names) == 1 else ""
        demand(read.slug(witness) == folder, "is not cosigned by this witness, or by others, too")
        key = self._keys.get(folder)
        trusted = self.witness_keys.get(witness, key)
        if key is None:
            self.lacks(f"witnesses/{folder}/key")
        elif key != trusted:
            self.say(f"witnesses/{folder}/key", "is not the key that was given for this witness")
        if trusted is None:
            return
        ledger.demand_covered(note.size, note.cosigned(witness, trusted, note.signatures[witness]))
        pinned, largest = ledger.witnesses.get(witness, (trusted, 0))
        if pinned != trusted:
            self.say(file, "is by another key than the ledger's checkpoint entries of this witness")
        if largest > note.size:
            self.lacks(file, f"is old: the ledger has its cosignature of {largest} entries; collect it again")
        self.witnessed[ledger.origin][witness] = note.size

    def _read_rosters(self) -> None:
        """Whether the keys of ledgers are those that the governance has signed."""
        for file, run in self.named("rosters/", ".json"):
            self.members[run] = {}
            with self._about(file):
                self.members[run], spec = self._roster(file, run)
                for ledger in self.ledgers.values():
                    mine, key, who = ledger.runs.get(run), self.members[run].get(ledger.department), ledger.department
                    if mine and mine.spec != spec:
                        self.say(file, f"permits other settings than {shown(who)} has reserved this run for")
                    if key in (mine.keys if mine else {one for _, one in ledger.keys}):
                        self.vouched.add(ledger.origin)
                    elif key is not None:
                        self.say(file, f"has another key for {shown(who)} than its ledger")
                    elif mine:
                        self.say(file, f"does not name {shown(who)}, whose ledger has this run")
        for name, ledger in self.ledgers.items():
            if self.governance and ledger.origin not in self.vouched:
                self.lacks(f"ledgers/{name}.jsonl", "no roster of the governance given names its key")

    def _roster(self, file: str, run: str) -> tuple[dict[str, bytes], str]:
        """The members, name to key, and the settings that the governance has signed for this run."""
        found = fit({"governance": read.bytes_32, "permit": str, "roster": str}, read.parse_canonical(self._read(file)))
        governance = found["governance"]
        told = "".join((self.governance or governance.hex()).split()).lower()
        fingerprint = sha(_enc(b"confide/governance-fingerprint/v1", governance)).hex()[:32]
        demand(told in (governance.hex(), fingerprint), "is not of the governance key that was given")
        roster = _unseal("roster", _ROSTER, found["roster"], governance)
        permit = _unseal("permit", _PERMIT, found["permit"], governance)
        same = (permit["run"], permit["roster_version"]) == (run, roster["version"])
        demand(same, "has the permit of another run, or for another roster")
        federation = sha(_enc(b"confide/federation/v1", governance)).hex()
        same = roster["federation"] == permit["federation"] == federation
        demand(same, "is of another federation than its governance key's")
        members = {member["name"]: member["key"] for member in roster["members"]}
        demand(len(members) == len(roster["members"]), "has two members of one name")
        return members, permit["policy"]

    def read_models(self) -> list[Json]:
        """Return a row a model: whether what went into it is in the ledgers."""
        rows, known = [], {ledger.department for ledger in self.ledgers.values()}
        for file, run in self.named("models/", ".json"):
            ranges: Json = {}
            rows.append({"run": run, "departments": (departments := [])})
            with self._about(file):
                named = fit(dict, fit(dict, read.parse_json(self._read(file))).get("ledgers", {}))
                ranges = {department: fit(_CLAIM, claimed) for department, claimed in named.items()}
                if not ranges:
                    raise Missing("names no ledgers, so nothing shows what went into the model")
            for department, claimed in ranges.items():
                row = {key: claimed[key] for key in ("origin", "size", "rounds")}
                row |= {"department": department, "covered": False}
                with self._about(file):
                    row["covered"] = self._covers(run, department, claimed)
                departments.append(row)
            for member in sorted(self.members.get(run, {}).keys() - known - ranges.keys()):
                self.lacks(f"rosters/{run}.json", f"the ledger of its member {shown(member)} is not in the bundle")
        return rows

    def _covers(self, run: str, department: str, claimed: Json) -> bool:
        """Whether a ledger covers what a manifest says of it; False where it could not be read to its end."""
        ledger = next((one for one in self.ledgers.values() if one.origin == claimed["origin"]), None)
        size, rounds, who = claimed["size"], claimed["rounds"], shown(department)
        if ledger is None:
            raise Missing(f"names ledger {claimed['origin']} of {who}, which is not in the bundle")
        same = ledger.department == department
        demand(same, f"takes the ledger of {shown(ledger.department)} for that of {who}")
        if ledger.whole:
            same = size <= len(ledger.tree) and claimed["root"] == ledger.tree.root(size)
            demand(same, f"names {size} entries of {who} that are not those of its ledger")
            rising = all(one < two for one, two in pairwise(rounds))
            demand(rising, f"does not list the rounds of {who} in order, each once")
            train = ledger.runs[run].train if run in ledger.runs else {}
            for one in rounds:
                released = train.get(one, size) < size
                demand(released, f"has round {one} of {who}, which the ledger had not released by entry {size}")
        return ledger.whole


def _enc(*parts: bytes) -> bytes:
    """``enc`` of docs/secagg-spec.md."""
    return b"".join(piece for part in parts for piece in (len(part).to_bytes(8, "big"), part))


def _unseal(what: str, schema: Json, envelope: str, governance: bytes) -> Json:
    """A document that the governance has signed."""
    outer = fit({"payload": str, "signature": read.bytes_64}, read.parse_json(envelope.encode()))
    payload = outer["payload"].encode()
    message = _enc(f"confide/{what}/v1".encode(), bytes(32), bytes(4), b"\xff" * 4, payload)
    signed = read.signed(governance, outer["signature"], message)
    demand(signed, f"has a {what} that is not signed by the governance key")
    document: Json = fit(schema | {"type": what}, read.parse_json(payload))
    return document
