"""Verifier, part 3 of 5: one ledger, replayed entry by entry (``docs/ledger-spec.md``, "Entries" and "Spending")."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from privacy import verify_spending as spending
from privacy import verify_values as read
from privacy.verify_spending import PER_MILLION, Policy, Spend, compartments, spend
from privacy.verify_values import Json, Note, Refused, Severity, demand, fit, noted, shown

DAY, LATE = 86_400, 600  # seconds
MOST_LINE = 1 << 16

_MECHANISM = {
    "unit": "record",
    "adjacency": "zero-out",
    "sampler": "poisson",
    "sampling_rate": read.rate,
    "noise_multiplier": read.above_0,
    "max_grad_norm": read.above_0,
    "steps_per_round": read.positive,
    "rounds": read.integer,
    "declared_size": read.positive,
    "delta": read.delta,
    "metric_noise": (read.above_0, None),
    "evaluations": read.integer,
}
_COST = {"orders": [read.integer], "rdp": {"training": [read.real], "validation": [read.real]}}
_ENTRY = {
    "v": "1",
    "origin": read.ledger_name,
    "seq": read.integer,
    "prev": read.bytes_32,
    "id": str,
    "time": read.time,
    "policy_digest": (read.digest, None),
    **dict.fromkeys(("dataset", "run", "mechanism", "cost")),  # null where the kind does not use them
}
_DATASET = {"dataset": read.name}
_RUN = _DATASET | {"run": read.name}
_PAID = _RUN | {"mechanism": _MECHANISM, "cost": _COST}
_CONTENT = {"declared_size": read.integer, "commitment": read.digest, "split": read.digest}
_VERSION = {"lineage": read.lineage, "version": read.positive} | _CONTENT
_RELEASE = {"round": read.integer, "train": bool, "evaluate": bool, "model": read.digest, "update": read.digest}
_COSIGNED = {"witness": read.signer, "key": read.bytes_32, "cosignature": read.unbase64}
# By kind: the id, the fields that it uses, those of its `ref`.
_KINDS: dict[str, tuple[str, Json, Json]] = {
    "genesis": ("genesis", {}, {"name": read.name, "key": read.bytes_32}),
    "key": ("key:{key}", {}, {"key": read.bytes_32, "proof": read.bytes_64}),
    "policy": ("policy:{seq}", {}, {"digest": read.digest, "supersedes": (read.digest, None)}),
    "dataset": ("dataset:{dataset}:{version}", _DATASET, _VERSION),
    "reserve": ("reserve:{run}", _PAID, {"spec": read.digest, "model": str, "dataset_version": read.integer}),
    "release": ("release:{run}:{round}", _RUN, _RELEASE),
    "settle": ("settle:{run}", _PAID, {"reservation": read.integer}),
    "abandon": ("abandon:{run}:{round}", _RUN, {"round": read.integer, "reason": str}),
    "override": ("override:{run}", _RUN, {"spec": read.digest, "reason": "privacy-off"}),
    "checkpoint": ("checkpoint:{size}:{witness}", {}, {"size": read.positive, "root": read.bytes_32} | _COSIGNED),
}


def _parse(value: Json) -> Json:
    """An entry as it is read, if it has the form of its kind."""
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Refused(f"{shown(kind)} is no kind of entry")
    template, used, ref = _KINDS[kind]
    entry: Json = fit({**_ENTRY, **used, "kind": kind, "ref": ref}, value)
    wanted = template.format(**value["ref"], **value)
    demand(entry["id"] == wanted, f"id: {shown(entry['id'])} in place of {shown(wanted)}")
    mechanism, cost = entry["mechanism"], entry["cost"]
    if mechanism and mechanism["metric_noise"] is None:
        demand(mechanism["evaluations"] == 0, "mechanism: evaluations without metric_noise")
    if cost and {len(part) for part in cost["rdp"].values()} != {len(cost["orders"])}:
        raise Refused("cost: not one figure an order")
    return entry


@dataclass(kw_only=True)
class Run:
    """One run: ``mechanism`` is what counts: what it reserved, and once it is settled, used (None: an override)."""

    dataset: str
    seq: int
    mechanism: Json | None
    spec: str
    keys: set[bytes] = field(default_factory=set)
    settled: bool = False
    released: bool = False
    train: dict[int, int] = field(default_factory=dict)  # round to entry
    evaluated: int = 0


@dataclass(kw_only=True)
class Dataset:
    """One data set of a ledger."""

    entries: int = 0
    versions: list[Json] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    tables: list[Json] = field(default_factory=list)  # every one that it ever had, in order
    counted: int = 0  # reservations but those that were settled without a release
    paid: Spend = field(default_factory=Spend)
    # Of runs that are over: when each was settled, and what all of them had come to by then.
    past: dict[tuple[str, float, float], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))


class Ledger:
    """A ledger after its entries so far, under policies by digest; ``tell`` takes findings (with the entry's place)."""

    def __init__(self, policies: Mapping[str, Policy], tell: Callable[[str, Severity, int], None]) -> None:
        self.origin = self.department = ""
        self.whole = True  # all of it could be read
        self.tree, self.head, self.clock = read.Tree(), bytes(32), 0
        self.times: list[int] = []  # the latest so far, so that no entry is dated later than its own
        self.keys: list[tuple[int, bytes]] = []  # place of the entry, key in force after it
        self.digest: str | None = None
        self.policy: Policy | None = None  # the one in force, if it could be read
        self.rebased = False  # orders or mode changed after a run was reserved
        self.signers: dict[str, set[bytes]] = defaultdict(set)  # policy to keys that may have signed it
        self.datasets: dict[str, Dataset] = defaultdict(Dataset)
        self.runs: dict[str, Run] = {}
        self.witnesses: dict[str, tuple[bytes, int]] = {}  # key, largest size that it cosigned
        self._policies, self._tell = policies, tell
        self._ids: set[str] = set()
        self._lineages: dict[str, str] = {}
        self._signatures: list[tuple[int, bytes, bytes, bytes]] = []  # entry, key, signature, what it is of

    def replay(self, lines: Iterable[bytes]) -> None:
        """Take all lines, up to the first that is no entry's: nothing after it can be placed."""
        try:
            for line in lines:
                self._take(line)
        except Refused as error:
            self.whole = False
            self._say(f"{error}; this line and what follows were not read")
        # Most of the work, and done on all cores. (Beside the rest it would only wait for the interpreter's lock.)
        unsigned = "the signature is not by the ledger key then in force: the entry is another's, or was changed"
        with ThreadPoolExecutor() as pool:
            batches = (self._signatures[i : i + 256] for i in range(0, len(self._signatures), 256))
            for wrong in pool.map(lambda batch: [seq for seq, *of in batch if not read.signed(*of)], batches):
                for seq in wrong:
                    self._tell(unsigned, "violation", seq)

    def _say(self, what: str, severity: Severity = "violation") -> None:
        """A finding about the entry at hand."""
        self._tell(what, severity, len(self.tree))

    def _check(self, holds: bool, otherwise: str) -> bool:
        """Say what does not hold."""
        if not holds:
            self._say(otherwise)
        return holds

    def _take(self, line: bytes) -> None:
        """One line."""
        bounded = line.endswith(b"\n") and len(line) <= MOST_LINE
        demand(bounded, f"does not end in a line feed, or has more than {MOST_LINE} bytes")
        outer = fit({"entry": dict, "signature": read.bytes_64}, read.parse_canonical(line[:-1]))
        # The line is canonical, so the entry stands in it as it was signed.
        raw = line[len('{"entry":') : -len(',"signature":""}\n') - 128]
        try:
            entry = _parse(outer["entry"])
        except Refused as error:
            self._say(f"the entry is malformed: {error}")
            self.whole = False
        else:
            if not self.tree and entry["kind"] == "genesis":
                self.origin, self.department = entry["origin"], entry["ref"]["name"]
                self.keys.append((0, entry["ref"]["key"]))
            demand(bool(self.keys), "is not the genesis of a ledger")
            message = b"confide/ledger-entry/v1\n" + raw
            self._signatures.append((len(self.tree), self.keys[-1][1], outer["signature"], message))
            self._apply(entry)
        self.head = read.sha(b"\0", raw)
        self.tree.append(self.head)
        self.times.append(self.clock)

    def _apply(self, entry: Json) -> None:
        """An entry in its place: nowhere else, not before its time, and what its kind demands."""
        check, seq, name = self._check, entry["seq"], entry["id"]
        follows = seq == len(self.tree) and entry["prev"] == self.head
        check(entry["origin"] == self.origin, f"the entry is of another ledger, {entry['origin']}")
        check(follows, f"seq {seq} does not continue the entry before: one was removed, changed, moved or put in")
        check(name not in self._ids, f"id {shown(name)} is there twice")
        check(entry["time"] >= self.clock, "the entry is dated before the one before it: a clock was moved back")
        self._ids.add(name)
        self.clock = max(self.clock, entry["time"])
        getattr(self, f"_on_{entry['kind']}")(entry, entry["ref"])
        check(entry["policy_digest"] == self.digest, "policy_digest is not the policy then in force")
        if entry["dataset"] is not None:
            self.datasets[entry["dataset"]].entries += 1

    def _on_genesis(self, entry: Json, ref: Json) -> None:
        self._check(not self.tree, "a second genesis")
        named = entry["origin"].split("/")[1] == read.slug(ref["name"])
        self._check(named, "the ledger's name is not made from the department's")

    def _on_key(self, entry: Json, ref: Json) -> None:
        message = f"confide/ledger-key/v1\n{self.origin}\n{entry['seq']}".encode()
        self._check(read.signed(ref["key"], ref["proof"], message), "the new key's own signature does not hold")
        self._check(ref["key"] not in {key for _, key in self.keys}, "the new key has been this ledger's before")
        self.keys.append((len(self.tree), ref["key"]))

    def _on_policy(self, entry: Json, ref: Json) -> None:
        self._check(ref["digest"] == entry["policy_digest"], "the digest is not the entry's policy_digest")
        self._check(ref["supersedes"] == self.digest, "it supersedes another policy than the one in force")
        before, self.digest, self.policy = self.policy, ref["digest"], self._policies.get(ref["digest"])
        self.signers[ref["digest"]].add(self.keys[-1][1])
        if self.policy:
            if before and self.runs:
                self.rebased |= (before.pinned, before.orders) != (self.policy.pinned, self.policy.orders)
            for name, table in self.policy.tables.items():
                self.datasets[name].tables.append(table)

    def _on_dataset(self, entry: Json, ref: Json) -> None:
        versions = self.datasets[entry["dataset"]].versions
        versions.append(ref)
        self._check(ref["version"] == len(versions), "versions of the data set are not in order")
        owner = self._lineages.setdefault(ref["lineage"], entry["dataset"])
        own = owner == entry["dataset"] and ref["lineage"] == versions[0]["lineage"]
        self._check(own, "the lineage is not the data set's own")

    def _on_reserve(self, entry: Json, ref: Json) -> None:
        mechanism = entry["mechanism"]
        planned = 0 if mechanism["metric_noise"] is None else mechanism["rounds"] + 1
        self._check(mechanism["evaluations"] == planned, "evaluations are not rounds + 1, or 0 without metric_noise")
        self._check_cost(entry)
        if self._open(entry):
            self._admit(entry)

    def _on_override(self, entry: Json, ref: Json) -> None:
        self._say("an override: the run trains without differential privacy, and no cap of its data set holds")
        self._open(entry)
        self._check(self.digest is not None, "no policy is in force, so every run is denied")
        if self.policy:
            allowed = self.policy.tables.get(entry["dataset"], {}).get("allow_without_privacy", False)
            self._check(allowed, "the policy does not allow runs without privacy on this data set")

    def _on_release(self, entry: Json, ref: Json) -> None:
        if run := self._running(entry):
            run.released = True
            run.evaluated += ref["evaluate"]
            if ref["train"]:
                run.train[ref["round"]] = len(self.tree)
            if reserved := run.mechanism:
                self._check(len(run.train) <= reserved["rounds"], "more rounds were released than were reserved")
                within = run.evaluated <= reserved["evaluations"]
                self._check(within, "more metrics were released than were reserved")

    def _on_abandon(self, entry: Json, ref: Json) -> None:
        self._running(entry)

    def _on_settle(self, entry: Json, ref: Json) -> None:
        self._check_cost(entry)
        if not (run := self._running(entry)):
            return
        run.settled = True
        if run.mechanism is None:
            self._say("a run without privacy cannot be settled")
            return
        self._check(ref["reservation"] == run.seq, "it settles another reservation")
        done = run.mechanism | {"rounds": len(run.train), "evaluations": run.evaluated}
        for name, stated in entry["mechanism"].items():
            what = f"settled with {name} = {stated}, but reserved and released were {done[name]}"
            self._check(stated == done[name], what)
        mine = self.datasets[run.dataset]
        mine.counted -= not run.released
        mine.paid.subtract(spend(run.mechanism))
        mine.paid.update(spend(done))
        run.mechanism = done
        for setting, count in spend(done).items():
            over = mine.past[setting]
            over.append((self.clock, count + (over[-1][1] if over else 0)))

    def _on_checkpoint(self, entry: Json, ref: Json) -> None:
        size, witness, key = ref["size"], ref["witness"], ref["key"]
        if not self._check(size <= len(self.tree), "a checkpoint of more entries than there were"):
            return
        self._check(ref["root"] == self.tree.root(size), f"the root is not that of the first {size} entries")
        with noted(self._say):
            note = Note(origin=self.origin, size=size, root=ref["root"])
            self.demand_covered(size, note.cosigned(witness, key, ref["cosignature"]))
        pinned, largest = self.witnesses.get(witness, (key, 0))
        self._check(key == pinned, f"witness {shown(witness)} has another key than in an earlier checkpoint")
        self.witnesses[witness] = (pinned, max(largest, size))

    def demand_covered(self, size: int, cosigned: int) -> None:
        """Refuse entries that are dated after the cosignature that covers them."""
        late = self.times[size - 1] > cosigned + LATE
        demand(not late, "entries are dated more than ten minutes after the cosignature that covers them")

    def _open(self, entry: Json) -> bool:
        """Begin a run, and charge it in full; False where it has begun already."""
        if not self._check(entry["run"] not in self.runs, "the run was reserved, or overridden, before"):
            return False
        name, mechanism = entry["dataset"], entry["mechanism"]
        run = Run(dataset=name, seq=len(self.tree), mechanism=mechanism, spec=entry["ref"]["spec"])
        run.keys.add(self.keys[-1][1])
        self.runs[entry["run"]] = run
        self.datasets[name].runs.append(run)
        if mechanism:
            self.datasets[name].counted += 1
            self.datasets[name].paid.update(spend(mechanism))
        return True

    def _running(self, entry: Json) -> Run | None:
        """The open run that an entry is of."""
        run = self.runs.get(entry["run"])
        if run is None or run.dataset != entry["dataset"]:
            self._say("this run has no reservation on this data set")
            return None
        self._check(not run.settled, "the run was settled before")
        run.keys.add(self.keys[-1][1])
        return run

    def _check_cost(self, entry: Json) -> None:
        """A cost is at the orders of the policy in force, and is what its mechanism costs."""
        cost = entry["cost"]
        orders = list(self.policy.orders) if self.policy else cost["orders"]
        if not self._check(cost["orders"] == orders, "the cost is not at the policy's orders"):
            return
        if not (len(orders) <= 32 and all(2 <= order <= 256 for order in orders)):
            return  # no policy could be read, and none has such orders
        for name, part in zip(("training", "validation"), compartments(spend(entry["mechanism"])), strict=True):
            for order, stated in zip(orders, cost["rdp"][name], strict=True):
                found = spending.rdp(part, order)
                if not math.isclose(stated, found, rel_tol=1e-6):
                    self._say(f"the {name} cost at order {order} is stated as {stated:.6g}, and is {found:.6g}")
                    return

    def _admit(self, entry: Json) -> None:
        """Judge a reservation that has just been charged."""
        name, mechanism, check = entry["dataset"], entry["mechanism"], self._check
        mine, policy = self.datasets[name], self.policy
        check(self.digest is not None, "no policy is in force, so every run is denied")
        if not check(bool(mine.versions), "the data set is not registered"):
            return
        newest = entry["ref"]["dataset_version"] == len(mine.versions)
        check(newest, "it is not of the data set's newest version")
        table = policy.tables.get(name) if policy else None
        if policy is None or table is None:
            check(policy is None, "the policy has no table for this data set, so every run on it is denied")
            return
        size, registered = mechanism["declared_size"], mine.versions[-1]["declared_size"]
        allowed = {
            "declared_size": size == registered == table.get("declared_size", registered),
            "sigma_min": mechanism["noise_multiplier"] >= table.get("sigma_min", 0),
            "sampling_rate_max": mechanism["sampling_rate"] <= table.get("sampling_rate_max", 1),
            "metrics": table.get("metrics") != "off" or mechanism["metric_noise"] is None,
            "models": entry["ref"]["model"] in table.get("models", [entry["ref"]["model"]]),
        }
        for key, holds in allowed.items():
            check(holds, f"the policy's {key} does not allow this run")
        over = mine.counted > table.get("max_runs", mine.counted)
        check(not over, f"max_runs: this is reservation number {mine.counted} that counts")
        delta, group = table["lifetime"]["delta"], policy.group(name)
        add = self.added(group)
        if policy.pinned:
            spent, most = self.paid(group), spending.pinned(table)
            steps, evaluations = (sum(part.values()) for part in compartments(spent))
            pinned = steps <= table["max_steps"] and evaluations <= table.get("max_evaluations", 0)
            check(pinned, f"{steps} steps and {evaluations} evaluations in all are more than is pinned")
            check(spending.bounded(spent, most), "there are runs with less noise, or more sampling, than is pinned")
            with noted(self._say):
                what = "the lifetime cap is below the epsilon of all that is pinned"
                spending.demand_within(compartments(most, add=add), delta, table["lifetime"]["epsilon"], what)
        for which in ("lifetime", "period") if not policy.pinned else ():
            if cap := table.get(which):
                since = entry["time"] - cap["days"] * DAY if "days" in cap else None
                figure = policy.enforced(self.paid(group, since), delta, add=add)
                what = f"the {which} cap does not hold: epsilon {figure:.6g} is above {cap['epsilon']:g}"
                check(figure <= cap["epsilon"] * PER_MILLION, what)
        if "per_run" in table:
            with noted(self._say):
                cap = table["per_run"]["epsilon"]
                what = f"the per_run cap does not hold: epsilon is above {cap:g}"
                spending.demand_within(compartments(spend(mechanism)), delta, cap, what)

    def paid(self, group: Iterable[str], since: float | None = None) -> Spend:
        """Return what data sets have paid; with ``since``, only for open runs and those that were settled later."""
        total = Spend()
        for mine in (self.datasets[name] for name in group if name in self.datasets):
            total.update(mine.paid)
            for setting, over in mine.past.items() if since is not None else ():
                before = bisect_right(over, (since, math.inf))
                total[setting] -= over[before - 1][1] if before else 0
        return total

    def added(self, group: Iterable[str]) -> bool:
        """Return whether a record may have been trained on in one run and evaluated on in another."""
        known = [self.datasets[name] for name in group if name in self.datasets]
        return len({version["split"] for mine in known for version in mine.versions}) > 1
