"""Verifier, part 5 of 7: what is in a bundle beside entries, and whether it agrees with them.

Files, policies' signatures, checkpoints and witnesses: ``docs/ledger-spec.md``, "Bundle" and "Verdict".
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from privacy import verify_values as read
from privacy.verify_ledger import MOST_LINE, Ledger
from privacy.verify_spending import Policy
from privacy.verify_values import Note, Refused, sha, shown

MOST_FILES, MOST_ENTRIES, MOST_FINDINGS = 20_000, 1_000_000, 50
MOST_BYTES = {".toml": 1 << 16, ".sig": 1 << 14, ".note": 1 << 14, ".json": 1 << 23, "": 65}
_FOLDERS = {"ledgers", "policies", "checkpoints", "witnesses", "rosters", "models"}
_KNOWN = re.compile(
    r"bundle\.json|ledgers/[\w.-]+\.jsonl|policies/[0-9a-f]{64}\.(toml|sig)|checkpoints/[\w.-]+\.note"
    r"|witnesses/[\w.-]+/(key|[\w.-]+\.note)|(rosters|models)/[^/]+\.json",
    re.ASCII,
)
_BUNDLE = read.fields({"created": read.time, "format": read.one_of("confide/evidence/v1")})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A finding: the bundle's file, the place of the entry in it (from 0; None: all of it), what is wrong, how bad."""

    file: str
    seq: int | None
    what: str
    severity: Literal["violation", "incomplete"]


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
        self.root, self.witness_keys, self.governance = root, witness_keys, governance
        self.problems: list[Problem] = []
        self._said: Counter[tuple[str, str]] = Counter()
        self._texts: dict[str, bytes] = {}
        self.policies: dict[str, Policy] = {}
        self.ledgers: dict[str, Ledger] = {}  # by the name of the file
        self.witnessed: Counter[str] = Counter()  # largest size seen by a witness, by origin
        self.members: dict[str, dict[str, str]] = {}  # keys of a run's roster by department, by run
        self.vouched: set[str] = set()  # origins whose key a roster names
        self.files = self._walk()
        self.guarded("bundle.json", lambda data: _BUNDLE(read.parse_canonical(data)))
        self._read_policies()
        self._replay_ledgers()
        self._check_signers()
        self._compare_notes()

    def say(self, file: str, what: str, seq: int | None = None, severity: Any = "violation") -> None:
        """Note a finding; a file with thousands of them is told of once."""
        self._said[file, severity] += 1
        if (count := self._said[file, severity]) <= MOST_FINDINGS:
            self.problems.append(Problem(file=file, seq=seq, what=what, severity=severity))
        elif count == MOST_FINDINGS + 1:
            self.problems.append(Problem(file=file, seq=None, what="more findings are not listed", severity=severity))

    def lacks(self, file: str, what: str = "is missing") -> None:
        """Note that something to compare with is missing."""
        self.say(file, what, severity="incomplete")

    def _walk(self) -> dict[str, Path]:
        """Every file of the bundle; what is none is a finding."""
        try:
            found, others = walk(self.root)
        except OSError as error:
            self.lacks("", f"cannot be read: {error.strerror}")
            return {}
        for name in others:
            self.say(name, "is no file of a bundle, or a link, or one too many; it was not read")
        return found

    def _opened(self, file: str) -> BinaryIO:
        """A file, and not what a link put in its place leads to."""
        return os.fdopen(os.open(self.files[file], os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")

    def named(self, prefix: str, suffix: str) -> list[tuple[str, str]]:
        """Return files of one kind: the name, and what is between prefix and suffix."""
        return [
            (file, file[len(prefix) : -len(suffix)])
            for file in self.files
            if file.startswith(prefix) and file.endswith(suffix)
        ]

    def guarded(self, file: str, use: Callable[[bytes], Any]) -> Any:
        """Return what ``use`` makes of a file; None, and a finding, where it is missing or refused."""
        if file not in self.files:
            self.lacks(file)
            return None
        most = MOST_BYTES[Path(file).suffix]
        try:
            with self._opened(file) as opened:
                data = opened.read(most + 1)
            if len(data) > most:
                raise Refused(f"has more than {most} bytes")
            return use(data)
        except OSError as error:
            self.lacks(file, f"cannot be read: {error.strerror}")
        except Refused as error:
            self.say(file, str(error))
        return None

    def _lines(self, file: str) -> Iterator[bytes]:
        """The lines of a ledger."""
        with self._opened(file) as opened:
            for _ in range(MOST_ENTRIES):
                if not (line := opened.readline(MOST_LINE + 1)):
                    return
                yield line
        raise Refused(f"is one of more than {MOST_ENTRIES}")

    # --- Ledgers and policies ---

    def _read_policies(self) -> None:
        """Every policy under the digest of its own bytes."""

        def parse(data: bytes) -> Policy:
            if sha(data).hex() != digest:
                raise Refused("is not the policy that its name says: it was changed, or swapped for another")
            self._texts[digest] = data
            return Policy.parse(data)

        for file, digest in self.named("policies/", ".toml"):
            if policy := self.guarded(file, parse):
                self.policies[digest] = policy

    def _replay_ledgers(self) -> None:
        """Every ledger, by the name of its file."""
        for file, name in self.named("ledgers/", ".jsonl"):

            def say(what: str, seq: int, severity: str = "violation", file: str = file) -> None:
                self.say(file, what, seq, severity)

            ledger = self.ledgers[name] = Ledger(self.policies, say)
            try:
                ledger.replay(self._lines(file))
            except OSError as error:
                self.lacks(file, f"cannot be read: {error.strerror}")
            if ledger.origin.split("/")[1:2] != [name]:
                self.say(file, "holds no ledger of this name")
        if not self.ledgers:
            self.lacks("ledgers", "there is no ledger")

    def _check_signers(self) -> None:
        """Every policy that a ledger names is signed by the key that was that ledger's at the time."""
        named = {digest for ledger in self.ledgers.values() for digest in ledger.signers}
        for file, digest in [*self.named("policies/", ".toml"), *self.named("policies/", ".sig")]:
            if digest not in named:
                self.lacks(file, "is here, but no ledger that names it")
        for digest in sorted(named):
            if f"policies/{digest}.toml" not in self.files:
                self.lacks(f"policies/{digest}.toml")
            signatures = self.guarded(f"policies/{digest}.sig", _signatures)
            if signatures is None or digest not in self._texts:
                continue
            message, good = b"confide/policy/v1\n" + self._texts[digest], set()
            for ledger in self.ledgers.values():
                keys = ledger.signers.get(digest, set())
                mine = {one for one in signatures for key in keys if read.signed(key, one, message)}
                if keys and not mine:
                    self.say(f"policies/{digest}.sig", f"is not signed by the key of ledger {ledger.origin}")
                good |= mine
            if good != set(signatures):
                self.lacks(f"policies/{digest}.sig", "has a signature of a ledger that is not here")

    # --- Checkpoints and witnesses ---

    def _compare_notes(self) -> None:
        """Departments' newest checkpoints, and what witnesses have seen."""
        for file, name in self.named("checkpoints/", ".note"):
            note, ledger = self.guarded(file, Note.parse), self._ledger_of(file, name)
            if note and ledger and self._compare(file, ledger, note):
                if note.size < ledger.size:
                    self.say(file, f"is old: it covers {note.size} of {ledger.size} entries")
                if note.signatures.keys() != {ledger.origin}:
                    self.say(file, "has signatures of others")
        keys = {folder: self.guarded(file, _key) for file, folder in self.named("witnesses/", "/key")}
        seen = set()
        for file, path in self.named("witnesses/", ".note"):
            folder, name = path.split("/")
            note, ledger = self.guarded(file, Note.parse), self._ledger_of(file, name)
            if note and ledger and self._compare(file, ledger, note):
                seen.add((self._cosigned(file, folder, keys.get(folder), ledger, note), name))
        for name in self.ledgers:
            if f"checkpoints/{name}.note" not in self.files:
                self.lacks(f"checkpoints/{name}.note")
            if not any(witness and ledger == name for witness, ledger in seen):
                self.lacks(
                    f"witnesses/*/{name}.note",
                    "no witness has seen this ledger: its end may be cut off, or all of it forked",
                )
            for witness in self.witness_keys:
                if (witness, name) not in seen:
                    self.lacks(
                        f"witnesses/*/{name}.note", f"there is none of witness {shown(witness)}, whose key was given"
                    )

    def _ledger_of(self, file: str, name: str) -> Ledger | None:
        """The ledger that a note is of."""
        if name not in self.ledgers:
            self.lacks(f"ledgers/{name}.jsonl", f"is missing, and {file} is of it")
        return self.ledgers.get(name)

    def _compare(self, file: str, ledger: Ledger, note: Note) -> bool:
        """Whether a note's entries are the ledger's; what could not be read to its end is not compared."""
        if not ledger.whole:
            return False
        if note.origin != ledger.origin:
            self.say(file, f"is of another ledger, {note.origin}")
        elif note.size > ledger.size:
            self.say(file, f"covers {note.size} entries, and the ledger has {ledger.size}: its end was cut off")
        elif note.root != ledger.tree.root(note.size):
            self.say(file, f"has another root than the ledger's first {note.size} entries: it was forked or rewritten")
        elif not note.signed_by(ledger.key_at(note.size)):
            self.say(file, "is not signed by the ledger key then in force")
        else:
            return True
        return False

    def _cosigned(self, file: str, folder: str, key: bytes | None, ledger: Ledger, note: Note) -> str:
        """The name of the witness whose cosignature holds; empty if none does."""
        names = [name for name in note.signatures if name != ledger.origin]
        name = names[0] if len(names) == 1 else ""
        if re.sub(r"[^A-Za-z0-9._-]", "-", name) != folder:
            self.say(file, "is not cosigned by this witness, or by others, too")
            return ""
        if key is None:
            self.lacks(f"witnesses/{folder}/key")
        elif self.witness_keys.get(name, key) != key:
            self.say(f"witnesses/{folder}/key", "is not the key that was given for this witness")
        if (trusted := self.witness_keys.get(name, key)) is None:
            return ""
        try:
            ledger.covered(note.size, note.cosigned(name, trusted, note.signatures[name]))
        except Refused as error:
            self.say(file, str(error))
            return ""
        known, largest = ledger.witnesses.get(name, (trusted, 0))
        if known != trusted:
            self.say(file, "is by another key than the ledger's checkpoint entries of this witness")
        if largest > note.size:
            self.lacks(
                file, f"is old: the ledger has this witness's cosignature of {largest} entries; collect it again"
            )
        self.witnessed[ledger.origin] = max(self.witnessed[ledger.origin], note.size)
        return name


def _signatures(data: bytes) -> list[bytes]:
    """A signature a line; several where departments have the same policy."""
    return [bytes.fromhex(read.hex64(one)) for one in _ascii(data).removesuffix("\n").split("\n")]


def _key(data: bytes) -> bytes:
    """A witness's key: hexadecimal and a line feed."""
    if not data.endswith(b"\n"):
        raise Refused("does not end in a line feed")
    return bytes.fromhex(read.digest(_ascii(data[:-1])))


def _ascii(data: bytes) -> str:
    """Text of a file that holds nothing but hexadecimal digits."""
    try:
        return data.decode("ascii")
    except ValueError:
        raise Refused("is not hexadecimal") from None
