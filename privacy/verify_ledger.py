"""Verifier, part 4 of 7: one ledger, replayed entry by entry (``docs/ledger-spec.md``, "Entries" and "Spending")."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from privacy import verify_entries
from privacy import verify_spending as spending
from privacy import verify_values as read
from privacy.verify_entries import steps
from privacy.verify_spending import Policy, Steps
from privacy.verify_values import Json, Note, Refused, shown

Past = dict[tuple[float, float], list[tuple[float, int]]]
Say = Callable[..., None]  # say(what, seq, severity="violation")
DAY, LATE = 86_400, 600  # seconds
MOST_LINE = 1 << 16
_LINE = {"entry", "signature"}


Signed = tuple[int, bytes, bytes, bytes]  # number of an entry, key, signature, what it is of
_BATCH = 256
_UNSIGNED = "the signature is not by the ledger key then in force: the entry is another's, or was changed"


@dataclass(kw_only=True)
class Run:
    """One run: ``mechanism`` is what it reserved (None: an override), ``charged`` what counts."""

    dataset: str
    seq: int
    mechanism: Json | None
    spec: str
    charged: tuple[Steps, Steps]
    keys: set[bytes]
    settled: int | None = None
    train: dict[int, int] = field(default_factory=dict)  # round to entry
    evaluated: int = 0
    released: int = 0


@dataclass(kw_only=True)
class Dataset:
    """One data set of a ledger."""

    entries: int = 0
    versions: list[Json] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    overrides: int = 0
    tables: list[Json] = field(default_factory=list)  # every one that it ever had, in order
    counted: int = 0  # reservations but those that were settled without a release
    paid: tuple[Steps, Steps] = field(default_factory=lambda: (Steps(), Steps()))
    # Of runs that are over: when each was settled, and what all of them had come to by then.
    past: tuple[Past, Past] = field(default_factory=lambda: ({}, {}))


class Ledger:
    """A ledger after its entries so far; ``whole`` is whether all of them could be read.

    Args:
        policies: every readable policy of the bundle, by digest.
        say: takes findings: what, place of the entry, severity.
    """

    def __init__(self, policies: Mapping[str, Policy], say: Say) -> None:
        self.origin = self.department = ""
        self.keys: list[tuple[int, bytes]] = []  # place of the entry, key in force after it
        self.tree, self.head, self.clock = read.Tree(), "0" * 64, 0
        self.times: list[int] = []  # the latest so far, so that no entry is dated later than its own
        self.digest: str | None = None
        self.signers: dict[str, set[bytes]] = {}  # policy to keys that may have signed it
        self.datasets: dict[str, Dataset] = {}
        self.runs: dict[str, Run] = {}
        self.witnesses: dict[str, tuple[bytes, int]] = {}  # key, largest size that it cosigned
        self.whole = True
        self.rebased = False  # orders or mode changed after a run was reserved
        self._ids: set[str] = set()
        self._policies, self._tell = policies, say
        self._signatures: list[Signed] = []

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.tree.size

    @property
    def policy(self) -> Policy | None:
        """The policy in force, if there is one that could be read."""
        return self._policies.get(self.digest or "")

    def key_at(self, size: int) -> bytes:
        """Return the ledger key after so many entries."""
        return next((key for seq, key in reversed(self.keys) if seq < size), b"")

    def replay(self, lines: Iterable[bytes]) -> None:
        """Take all lines, up to the first that is no entry's: nothing after it can be placed."""
        try:
            for line in lines:
                self._take(line)
        except Refused as error:
            self.whole = False
            self._say(f"the line {error}; it and what follows were not read")
        # Most of the work, and done on all cores. (Beside the rest it would only wait for the interpreter's lock.)
        batches = [self._signatures[i : i + _BATCH] for i in range(0, len(self._signatures), _BATCH)]
        with ThreadPoolExecutor() as pool:
            for wrong in pool.map(_wrong, batches):
                for seq in wrong:
                    self._tell(_UNSIGNED, seq, "violation")

    def _say(self, what: str, severity: str = "violation") -> None:
        """A finding about the entry at hand."""
        self._tell(what, self.size, severity)

    def _demand(self, holds: bool, otherwise: str) -> bool:
        """Note what does not hold."""
        if not holds:
            self._say(otherwise)
        return holds

    def _take(self, line: bytes) -> None:
        """One line."""
        if not line.endswith(b"\n") or len(line) > MOST_LINE:
            raise Refused(f"does not end in a line feed, or has more than {MOST_LINE} bytes")
        value = read.parse_canonical(line[:-1])
        if not (isinstance(value, dict) and value.keys() == _LINE and isinstance(value["entry"], dict)):
            raise Refused("is not an entry and its signature")
        signature = bytes.fromhex(read.hex64(value["signature"]))
        # The line is canonical, so the entry stands in it as it was signed.
        raw = line[len('{"entry":') : -len(',"signature":""}\n') - 128]
        leaf = read.sha(b"\0", raw)
        try:
            entry = verify_entries.parse(value["entry"])
        except Refused as error:
            self._say(f"the entry is malformed: {error}")
            self.whole = False
        else:
            if not self.size and entry["kind"] == "genesis":
                self.origin, self.department = entry["origin"], entry["ref"]["name"]
                self.keys.append((0, bytes.fromhex(entry["ref"]["key"])))
            if not self.keys:
                raise Refused("is not the genesis of a ledger")
            self._place(entry)
            self._signatures.append((self.size, self.keys[-1][1], signature, b"confide/ledger-entry/v1\n" + raw))
            getattr(self, f"_on_{entry['kind']}")(entry, entry["ref"])
            self._demand(entry["policy_digest"] == self.digest, "policy_digest is not the policy then in force")
            if entry["dataset"] is not None:
                self._dataset(entry["dataset"]).entries += 1
        self.head = leaf.hex()
        self.times.append(self.clock)
        self.tree.append(leaf)

    def _place(self, entry: Json) -> None:
        """Where and when the entry stands, and that it stands nowhere else."""
        self._demand(entry["origin"] == self.origin, f"the entry is of another ledger, {entry['origin']}")
        self._demand(
            entry["seq"] == self.size and entry["prev"] == self.head,
            f"seq {entry['seq']} does not continue the entry before: one was removed, changed, moved or put in",
        )
        self._demand(entry["id"] not in self._ids, f"id {shown(entry['id'])} is there twice")
        self._demand(entry["time"] >= self.clock, "the entry is dated before the one before it: a clock was moved back")
        self._ids.add(entry["id"])
        self.clock = max(self.clock, entry["time"])

    def _dataset(self, name: str) -> Dataset:
        """A data set's state."""
        if name not in self.datasets:
            self.datasets[name] = Dataset()
        return self.datasets[name]

    # --- One method a kind ---

    def _on_genesis(self, entry: Json, ref: Json) -> None:
        slug = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in ref["name"])
        self._demand(self.size == 0, "a second genesis")
        self._demand(entry["origin"].split("/")[1] == slug, "the ledger's name is not made from the department's")

    def _on_key(self, entry: Json, ref: Json) -> None:
        new, message = bytes.fromhex(ref["key"]), f"confide/ledger-key/v1\n{self.origin}\n{entry['seq']}".encode()
        self._demand(
            read.signed(new, bytes.fromhex(ref["proof"]), message), "the new key's own signature does not hold"
        )
        self._demand(new not in {key for _, key in self.keys}, "the new key has been this ledger's before")
        self.keys.append((self.size, new))

    def _on_policy(self, entry: Json, ref: Json) -> None:
        self._demand(ref["digest"] == entry["policy_digest"], "the digest is not the entry's policy_digest")
        self._demand(ref["supersedes"] == self.digest, "it supersedes another policy than the one in force")
        before, self.digest = self.policy, ref["digest"]
        if before and self.policy and self.runs:
            self.rebased |= (before.pinned, before.orders) != (self.policy.pinned, self.policy.orders)
        self.signers.setdefault(ref["digest"], set()).add(self.keys[-1][1])
        for name, table in self.policy.tables.items() if self.policy else ():
            self._dataset(name).tables.append(table)

    def _on_dataset(self, entry: Json, ref: Json) -> None:
        mine = self._dataset(entry["dataset"]).versions
        self._demand(ref["version"] == len(mine) + 1, "versions of the data set are not in order")
        same = {
            name
            for name, other in self.datasets.items()
            if other.versions[:1] and other.versions[0]["lineage"] == ref["lineage"]
        }
        self._demand(same == ({entry["dataset"]} if mine else set()), "the lineage is not the data set's own")
        mine.append(ref)

    def _on_reserve(self, entry: Json, ref: Json) -> None:
        mechanism = entry["mechanism"]
        planned = 0 if mechanism["metric_noise"] is None else mechanism["rounds"] + 1
        self._demand(mechanism["evaluations"] == planned, "evaluations are not rounds + 1, or 0 without metric_noise")
        self._check_cost(entry)
        if self._open(entry, mechanism):
            self._admit(entry)

    def _on_override(self, entry: Json, ref: Json) -> None:
        self._say("an override: the run trains without differential privacy, and no cap of its data set holds")
        if self._open(entry, None):
            self._dataset(entry["dataset"]).overrides += 1
        if self.policy:
            allowed = self.policy.tables.get(entry["dataset"], {}).get("allow_without_privacy", False)
            self._demand(allowed, "the policy does not allow runs without privacy on this data set")
        self._demand(self.digest is not None, "no policy is in force, so every run is denied")

    def _on_release(self, entry: Json, ref: Json) -> None:
        if run := self._running(entry):
            run.released += 1
            run.evaluated += ref["evaluate"]
            if ref["train"]:
                run.train[ref["round"]] = self.size
            if run.mechanism:
                self._demand(len(run.train) <= run.mechanism["rounds"], "more rounds were released than were reserved")
                self._demand(
                    run.evaluated <= run.mechanism["evaluations"], "more metrics were released than were reserved"
                )

    def _on_abandon(self, entry: Json, ref: Json) -> None:
        self._running(entry)

    def _on_settle(self, entry: Json, ref: Json) -> None:
        self._check_cost(entry)
        if not (run := self._running(entry)):
            return
        run.settled = self.clock
        if not self._demand(run.mechanism is not None, "a run without privacy cannot be settled"):
            return
        self._demand(ref["reservation"] == run.seq, "it settles another reservation")
        done = {**(run.mechanism or {}), "rounds": len(run.train), "evaluations": run.evaluated}
        for name, value in entry["mechanism"].items():
            self._demand(
                value == done[name], f"settled with {name} = {value}, but reserved and released were {done[name]}"
            )
        self._charge(run, steps(done))
        mine = self._dataset(run.dataset)
        mine.counted -= not run.released
        for past, charged in zip(mine.past, run.charged, strict=True):
            for setting, count in charged.items():
                over = past.setdefault(setting, [])
                over.append((self.clock, count + (over[-1][1] if over else 0)))

    def _on_checkpoint(self, entry: Json, ref: Json) -> None:
        size, witness, key = ref["size"], ref["witness"], bytes.fromhex(ref["key"])
        if not self._demand(size <= self.size, "a checkpoint of more entries than there were"):
            return
        self._demand(ref["root"] == self.tree.root(size).hex(), f"the root is not that of the first {size} entries")
        note = Note(origin=self.origin, size=size, root=bytes.fromhex(ref["root"]), signatures={})
        try:
            self.covered(size, note.cosigned(witness, key, ref["cosignature"]))
        except Refused as error:
            self._say(str(error))
        pinned, largest = self.witnesses.get(witness, (key, 0))
        self._demand(key == pinned, f"witness {shown(witness)} has another key than in an earlier checkpoint")
        self.witnesses[witness] = (pinned, max(largest, size))

    # --- What several kinds need ---

    def covered(self, size: int, cosigned: int) -> None:
        """Refuse entries that are dated after the cosignature that covers them."""
        if self.times[size - 1] > cosigned + LATE:
            raise Refused("entries are dated more than ten minutes after the cosignature that covers them")

    def _open(self, entry: Json, mechanism: Json | None) -> bool:
        """Begin a run; False where it has begun already."""
        if not self._demand(entry["run"] not in self.runs, "the run was reserved, or overridden, before"):
            return False
        nothing = (Steps(), Steps())
        run = Run(
            dataset=entry["dataset"],
            seq=self.size,
            mechanism=mechanism,
            spec=entry["ref"]["spec"],
            charged=nothing,
            keys={self.keys[-1][1]},
        )
        self.runs[entry["run"]] = run
        self._dataset(run.dataset).runs.append(run)
        if mechanism:
            self._dataset(run.dataset).counted += 1
            self._charge(run, steps(mechanism))
        return True

    def _running(self, entry: Json) -> Run | None:
        """The open run that an entry is of."""
        run = self.runs.get(entry["run"])
        if run is None or run.dataset != entry["dataset"]:
            self._say("this run has no reservation on this data set")
            return None
        self._demand(run.settled is None, "the run was settled before")
        run.keys.add(self.keys[-1][1])
        return run

    def _charge(self, run: Run, charged: tuple[Steps, Steps]) -> None:
        """Put what a run costs in the place of what it cost before."""
        for paid, old, new in zip(self._dataset(run.dataset).paid, run.charged, charged, strict=True):
            paid.subtract(old)
            paid.update(new)
        run.charged = charged

    def _check_cost(self, entry: Json) -> None:
        """A cost is at the orders of the policy in force, and is what its mechanism costs."""
        cost = entry["cost"]
        orders = list(self.policy.orders) if self.policy else cost["orders"]
        if not self._demand(cost["orders"] == orders, "the cost is not at the policy's orders"):
            return
        if len(orders) > 32 or not all(2 <= order <= 256 for order in orders):
            return  # no policy could be read, and none has such orders
        for name, part in zip(("training", "validation"), steps(entry["mechanism"]), strict=True):
            for order, stated in zip(orders, cost["rdp"][name], strict=True):
                found = spending.rdp(part, order)
                if not math.isclose(stated, found, rel_tol=1e-6):
                    self._say(f"the {name} cost at order {order} is stated as {stated:.6g}, and is {found:.6g}")
                    return

    def _admit(self, entry: Json) -> None:
        """Judge a reservation that has just been charged."""
        name, mechanism, ref = entry["dataset"], entry["mechanism"], entry["ref"]
        mine, policy = self._dataset(name), self.policy
        self._demand(self.digest is not None, "no policy is in force, so every run is denied")
        if not self._demand(bool(mine.versions), "the data set is not registered"):
            return
        self._demand(ref["dataset_version"] == len(mine.versions), "it is not of the data set's newest version")
        if policy is None:
            return
        table = policy.tables.get(name)
        if table is None:
            self._say("the policy has no table for this data set, so every run on it is denied")
            return
        for objection in spending.objections(table, mechanism, ref["model"], mine.versions[-1]["declared_size"]):
            self._say(objection)
        over = mine.counted > table.get("max_runs", mine.counted)
        self._demand(not over, f"max_runs: this is reservation number {mine.counted} that counts")
        since = entry["time"] - table["period"]["days"] * DAY if "period" in table else math.inf
        group = policy.group(name)
        broken = list(
            spending.caps_broken(policy, table, self.paid(group), self.paid(group, since), add=self.added(group))
        )
        if "per_run" in table:
            cap = table["per_run"]["epsilon"]
            held = spending.within(steps(mechanism), table["lifetime"]["delta"], cap)
            if not held:
                broken.append((f"the per_run cap does not hold: epsilon is above {cap:g}", held))
        for what, held in broken:
            if held is None:
                self._say(f"cannot be checked without dp_accounting: {what}", "incomplete")
            else:
                self._say(what)

    def paid(self, group: Iterable[str], since: float | None = None) -> tuple[Steps, Steps]:
        """Return what data sets have paid, training and validation; with ``since``, only open runs and those later."""
        total = Steps(), Steps()
        for mine in (self.datasets[name] for name in group if name in self.datasets):
            for part, paid, past in zip(total, mine.paid, mine.past, strict=True):
                for setting, count in paid.items():
                    over = past.get(setting, [])
                    before = 0 if since is None else bisect_right(over, (since, math.inf))
                    part[setting] += count - (over[before - 1][1] if before else 0)
        return total

    def added(self, group: Iterable[str]) -> bool:
        """Return whether a record may have been trained on in one run and evaluated on in another."""
        return (
            len({one["split"] for name in group if name in self.datasets for one in self.datasets[name].versions}) > 1
        )


def _wrong(batch: list[Signed]) -> list[int]:
    """The entries whose signature does not hold."""
    return [seq for seq, key, signature, message in batch if not read.signed(key, signature, message)]


def raised(tables: Iterable[Json]) -> bool:
    """Return whether a cap went up, its delta did, or a data set left a budget that it shared."""
    caps = [(table["lifetime"]["epsilon"], table["lifetime"]["delta"], table.get("group")) for table in tables]
    return any(e > e0 or d > d0 or (g0 is not None and g != g0) for (e0, d0, g0), (e, d, g) in pairwise(caps))
