"""What a ledger's entries add up to: one :meth:`Book.apply` an entry, in order, and nothing else.

Whether something *may* be written is decided in ``privacy.admission``; here is only what *was*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

from privacy.costs import Cost, Mechanism
from privacy.entries import NO_HASH, Entry
from privacy.errors import LedgerDamaged
from privacy.merkle import Frontier


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One version of a data set; ``lineage`` (32 hexadecimal digits) is what its budget belongs to.

    ``commitment`` and ``split`` (32 bytes each) show that content, or how records are held out, has changed.
    """

    lineage: str
    version: int
    declared_size: int
    commitment: bytes
    split: bytes


@dataclass(frozen=True, kw_only=True)
class Released:
    """What left the machine in one round: digests of the model that came and of the bytes that went."""

    train: bool
    evaluate: bool
    model: str
    update: str


@dataclass
class Run:
    """One run of one data set; without ``mechanism`` and ``cost`` it is an override and has no privacy.

    ``mechanism`` and ``cost`` are what counts: the reservation's, and the settlement's once there is one.
    """

    name: str
    dataset: str
    seq: int
    spec: str
    model: str | None = None
    version: int | None = None  # of the data set, when it was reserved
    reserved: Mechanism | None = None
    mechanism: Mechanism | None = None
    cost: Cost | None = None
    settled: int | None = None  # Unix seconds
    releases: dict[int, Released] = field(default_factory=dict)
    trained: int = 0  # releases of an update
    evaluated: int = 0  # releases of metrics
    abandoned: set[int] = field(default_factory=set)

    def cost_at(self, orders: tuple[int, ...]) -> Cost:
        """What the run costs at these orders: as it stands in the ledger, or anew if the policy has changed them."""
        if self.cost is None or self.mechanism is None:
            raise ValueError(f"run {self.name} has no privacy, and so no cost")
        return self.cost if self.cost.orders == orders else Cost.of(self.mechanism, orders)


class Book:
    """The state of a ledger after its first ``size`` entries."""

    def __init__(self) -> None:
        self.origin = ""
        self.name = ""
        self.time = 0
        self.leaves: list[bytes] = []
        self.head = NO_HASH  # leaf hash of the last entry, hexadecimal
        self.keys: dict[bytes, int] = {}  # every key so far and the entry from which on it signed, newest last
        self.history: list[str] = []  # digests of the policies, in the order in which they came into force
        self.policies: dict[str, bytes] = {}  # every policy so far, and the key that signed it
        self.datasets: dict[str, list[Registration]] = {}
        self.runs: dict[str, Run] = {}
        self.checkpoints: set[int] = set()  # the entries that are checkpoints
        self._tree = Frontier()  # of as many leaves as a root was asked for
        self._of_dataset: dict[str, list[Run]] = {}

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.leaves)

    @property
    def key(self) -> bytes:
        """The public key that signs the next entry."""
        return next(reversed(self.keys))

    @property
    def policy(self) -> str | None:
        """Digest of the policy in force."""
        return self.history[-1] if self.history else None

    def root(self) -> bytes:
        """Merkle root of all entries so far."""
        for leaf in islice(self.leaves, self._tree.size, None):
            self._tree.append(leaf)
        return self._tree.root()

    def registration(self, dataset: str) -> Registration | None:
        """A data set's newest version."""
        versions = self.datasets.get(dataset)
        return versions[-1] if versions else None

    def runs_of(self, dataset: str) -> Collection[Run]:
        """A data set's runs, in the order in which they were reserved."""
        return self._of_dataset.get(dataset, ())

    def paying(self, datasets: Collection[str]) -> Iterator[Run]:
        """Yield the runs of several data sets that have a cost."""
        for dataset in datasets:
            for run in self.runs_of(dataset):
                if run.cost is not None:
                    yield run

    def open_runs(self, datasets: Collection[str]) -> list[str]:
        """Return the names of several data sets' runs that have a cost and are not settled."""
        return [run.name for run in self.paying(datasets) if run.settled is None]

    def splits(self, datasets: Collection[str]) -> set[bytes]:
        """Return every way in which records of several data sets were ever held out."""
        return {version.split for name in datasets for version in self.datasets.get(name, ())}

    def adds_compartments(self, datasets: Collection[str]) -> bool:
        """Tell whether one record may have been trained on in one run and evaluated in another."""
        return len(self.splits(datasets)) > 1

    def split_changed(self, run: Run) -> bool:
        """Tell whether records are held out in another way now than when a run was reserved."""
        versions = self.datasets[run.dataset]
        if run.version is None:  # without privacy nothing is promised that this could break
            return False
        return not 1 <= run.version <= len(versions) or versions[run.version - 1].split != versions[-1].split

    def apply(self, entry: Entry, leaf: bytes) -> None:
        """Take the next entry, whose leaf hash is ``leaf``.

        Raises:
            LedgerDamaged: it is not the next entry, or contradicts those before.
        """
        try:
            self._refuse_out_of_place(entry)
            self._take(entry)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise LedgerDamaged(f"entry {entry.seq} of the ledger contradicts itself: {error!r}") from None
        if entry.policy_digest != self.policy:
            raise LedgerDamaged(f"entry {entry.seq} of the ledger names another policy than the one in force")
        self.time = entry.time
        self.head = leaf.hex()
        self.leaves.append(leaf)

    def _refuse_out_of_place(self, entry: Entry) -> None:
        """Refuse an entry of another ledger, or from elsewhere in this one."""
        if entry.seq != len(self.leaves) or entry.prev != self.head:
            raise LedgerDamaged(
                f"entry {entry.seq} of the ledger does not follow entry {self.size - 1}: an entry was changed, moved "
                "or removed; restore the ledger from a backup and ask the coordinator for its newest checkpoint"
            )
        if (entry.kind == "genesis") != (entry.seq == 0) or (entry.seq and entry.origin != self.origin):
            raise LedgerDamaged(
                f"entry {entry.seq} belongs to ledger {entry.origin}, not to {self.origin or 'a new one'}"
            )
        if entry.time < self.time:
            raise LedgerDamaged(f"entry {entry.seq} of the ledger is older than the one before it")

    def _take(self, entry: Entry) -> None:
        """Remember what an entry says."""
        ref = entry.ref
        match entry.kind:
            case "genesis":
                self.origin, self.name = entry.origin, ref["name"]
                self.keys[bytes.fromhex(ref["key"])] = 0
            case "key":
                key = bytes.fromhex(ref["key"])
                _require(key not in self.keys, "a key returns that was replaced")
                self.keys[key] = entry.seq + 1
            case "policy":
                _require(ref["supersedes"] == self.policy, "it supersedes another policy than the one in force")
                self.history.append(ref["digest"])
                self.policies.setdefault(ref["digest"], self.key)
            case "dataset":
                self._register(entry)
            case "reserve" | "override":
                self._open(entry)
            case "release":
                self._release(entry)
            case "abandon":
                self._run(entry).abandoned.add(int(ref["round"]))
            case "settle":
                run = self._run(entry)
                _require(entry.cost is not None and run.cost is not None, "a settlement without a cost")
                _require(run.seq == int(ref["reservation"]), "it settles another reservation")
                run.mechanism, run.cost, run.settled = entry.mechanism, entry.cost, entry.time
            case "checkpoint":
                _require(int(ref["size"]) <= entry.seq, "a checkpoint of more entries than there were")
                self.checkpoints.add(entry.seq)
            case other:
                raise ValueError(f"unknown kind {other!r}")

    def _register(self, entry: Entry) -> None:
        """Take a data set's next version."""
        ref, versions = entry.ref, self.datasets.setdefault(_named(entry.dataset), [])
        _require(int(ref["version"]) == len(versions) + 1, "versions of a data set are not in order")
        _require(not versions or versions[0].lineage == ref["lineage"], "a data set changes its lineage")
        versions.append(
            Registration(
                lineage=ref["lineage"],
                version=int(ref["version"]),
                declared_size=int(ref["declared_size"]),
                commitment=bytes.fromhex(ref["commitment"]),
                split=bytes.fromhex(ref["split"]),
            )
        )

    def _open(self, entry: Entry) -> None:
        """Take a reservation or an override."""
        name, dataset = _named(entry.run), _named(entry.dataset)
        _require(name not in self.runs, f"run {name} is there twice")
        _require(dataset in self.datasets, f"data set {dataset} is not registered")
        _require((entry.kind == "reserve") == (entry.cost is not None), "a reservation without a cost")
        run = Run(
            name=name,
            dataset=dataset,
            seq=entry.seq,
            spec=entry.ref["spec"],
            model=entry.ref.get("model"),
            version=int(entry.ref["dataset_version"]) if entry.kind == "reserve" else None,
            reserved=entry.mechanism,
            mechanism=entry.mechanism,
            cost=entry.cost,
        )
        self.runs[name] = run
        self._of_dataset.setdefault(dataset, []).append(run)

    def _release(self, entry: Entry) -> None:
        """Take what left in a round."""
        run, ref = self._run(entry), entry.ref
        number, reserved = int(ref["round"]), run.reserved
        if number in run.releases:
            raise ValueError(f"round {number} of run {run.name} was released before")
        run.releases[number] = Released(
            train=ref["train"], evaluate=ref["evaluate"], model=ref["model"], update=ref["update"]
        )
        run.trained += ref["train"]
        run.evaluated += ref["evaluate"]
        if reserved is not None and (run.trained > reserved.rounds or run.evaluated > reserved.evaluations):
            raise ValueError(f"more was released than run {run.name} had reserved")

    def _run(self, entry: Entry) -> Run:
        """The open run that an entry is about."""
        run = self.runs[_named(entry.run)]
        if run.dataset != entry.dataset:
            raise ValueError(f"run {run.name} is of another data set")
        if run.settled is not None:
            raise ValueError(f"run {run.name} was settled before")
        return run


def _require(condition: bool, otherwise: str) -> None:
    """Refuse a contradiction."""
    if not condition:
        raise ValueError(otherwise)


def _named(name: str | None) -> str:
    """A name that must be there."""
    if not isinstance(name, str):
        raise TypeError("a name is missing")
    return name
