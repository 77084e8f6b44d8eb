"""What a report is made from: a bundle, read without believing it.

A report is made of damaged evidence too, with the verdict on top, so nothing here raises for what a file holds:
a line that cannot be read is counted, a document that cannot be read is left out. Only regular files inside the
bundle are opened, and never through a link.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.canonical import CanonicalError, integer, real, unix
from privacy.errors import LedgerError, PolicyError
from privacy.plan import MAX_STEPS, MIN_DELTA
from privacy.policy import Policy

KINDS = (
    *("genesis", "key", "policy", "dataset", "reserve"),
    *("release", "settle", "abandon", "override", "checkpoint"),
)
_ABOUT_A_RUN = frozenset({"reserve", "release", "settle", "abandon", "override"})
_DEEPEST = 12


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A ``mechanism`` object of the ledger, as numbers; ``metric_noise`` is None where no metric leaves."""

    unit: str
    adjacency: str
    sampler: str
    sampling_rate: float
    noise_multiplier: float
    max_grad_norm: float
    steps_per_round: int
    rounds: int
    declared_size: int
    delta: float
    metric_noise: float | None
    evaluations: int

    @property
    def training(self) -> tuple[float, float, int]:
        """Sampling rate, noise multiplier and steps that a training record pays for."""
        return self.sampling_rate, self.noise_multiplier, self.steps_per_round * self.rounds

    @property
    def validation(self) -> tuple[float, float, int]:
        """The same for a validation record."""
        return 1.0, self.metric_noise or 1.0, self.evaluations if self.metric_noise else 0

    @staticmethod
    def read(value: object) -> Terms:
        """Return the terms in a JSON object; raises ValueError, KeyError or TypeError where there are none."""
        if not isinstance(value, dict):
            raise TypeError("mechanism: no object")
        noise = value["metric_noise"]
        terms = Terms(
            unit=_text(value["unit"]),
            adjacency=_text(value["adjacency"]),
            sampler=_text(value["sampler"]),
            sampling_rate=real(value["sampling_rate"]),
            noise_multiplier=real(value["noise_multiplier"]),
            max_grad_norm=real(value["max_grad_norm"]),
            delta=real(value["delta"]),
            steps_per_round=integer(value["steps_per_round"]),
            rounds=integer(value["rounds"]),
            declared_size=integer(value["declared_size"]),
            evaluations=integer(value["evaluations"]),
            metric_noise=None if noise is None else real(noise),
        )
        sound = (
            0 < terms.sampling_rate <= 1
            and terms.noise_multiplier > 0
            and (terms.metric_noise is None or terms.metric_noise > 0)
            and MIN_DELTA <= terms.delta < 1
            and max(terms.training[2], terms.evaluations) <= MAX_STEPS
        )
        if not sound:
            raise ValueError("mechanism: a field is out of range")
        return terms


@dataclass(frozen=True, kw_only=True)
class Line:
    """One entry of a ledger: what a report needs of it."""

    seq: int
    time: str
    kind: str
    dataset: str
    run: str
    policy: str | None
    terms: Terms | None
    ref: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LedgerText:
    """One ``ledgers/NAME.jsonl``; ``unreadable`` counts lines that are in no figure of the report."""

    file: str
    origin: str
    department: str
    key: str
    entries: tuple[Line, ...]
    unreadable: int


@dataclass(frozen=True, kw_only=True)
class PolicyText:
    """One ``policies/DIGEST.toml``; ``policy`` is None where it cannot be read, and ``problem`` says why."""

    digest: str
    text: str
    policy: Policy | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A whole bundle.

    Attributes:
        digest: SHA-256 of what ``sha256sum`` prints for all its files, sorted by path.
        created: when the bundle says that it was made.
        ledgers: sorted by department, then file.
        policies: by digest.
        models: manifests by run.
        rosters: by run: the signed roster's and permit's own fields, and the governance key.
        witnesses: names of those whose notes are there.
    """

    digest: str
    created: str
    ledgers: tuple[LedgerText, ...]
    policies: Mapping[str, PolicyText]
    models: Mapping[str, Mapping[str, Any]]
    rosters: Mapping[str, Mapping[str, Any]]
    witnesses: tuple[str, ...]


def read(bundle: Path) -> Evidence:
    """Return what is in a bundle.

    Raises:
        LedgerError: the folder is no bundle, or a file cannot be read.
    """
    try:
        if not (bundle / "bundle.json").is_file():
            raise LedgerError(
                f"{bundle}: no evidence bundle (it has no bundle.json); make one with `confide audit bundle`"
            )
        ledgers = [_ledger(path) for path in _files(bundle / "ledgers", ".jsonl")]
        return Evidence(
            digest=digest(bundle),
            created=str(_document(bundle / "bundle.json").get("created", "")),
            ledgers=tuple(sorted(ledgers, key=lambda ledger: (ledger.department, ledger.file))),
            policies={path.stem: _policy(path) for path in _files(bundle / "policies", ".toml")},
            models={path.stem: _document(path) for path in _files(bundle / "models", ".json")},
            rosters={path.stem: _roster(path) for path in _files(bundle / "rosters", ".json")},
            witnesses=tuple(sorted({path.parent.name for path in _files(bundle / "witnesses", ".note", below=True)})),
        )
    except OSError as error:
        raise LedgerError(f"{bundle}: cannot be read ({error.strerror or error}); fix its permissions") from None


def digest(bundle: Path) -> str:
    """Return what ``find . -type f | sort | xargs sha256sum | sha256sum`` prints in the bundle (bytewise order)."""
    lines = []
    for path in sorted(_files(bundle, "", below=True), key=lambda path: path.relative_to(bundle).as_posix().encode()):
        name = f"./{path.relative_to(bundle).as_posix()}".encode(errors="surrogateescape")
        quoted = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        start = b"\\" if quoted != name else b""  # as sha256sum marks a name that it had to quote
        lines.append(start + hashlib.sha256(path.read_bytes()).hexdigest().encode() + b"  " + quoted + b"\n")
    return hashlib.sha256(b"".join(lines)).hexdigest()


def plain(value: object, depth: int = 0) -> Any:
    """Return a value as JSON can hold it: no infinity, no lone surrogate, no object, no bottomless nesting."""
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {str(plain(str(key))): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode(errors="replace").decode()


def _files(folder: Path, suffix: str, *, below: bool = False) -> list[Path]:
    """Regular files of a folder, none of them reached through a link."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if below and path.is_dir():
            found += _files(path, suffix, below=True)
        elif path.is_file() and path.name.endswith(suffix):
            found.append(path)
    return found


def _ledger(path: Path) -> LedgerText:
    """One ledger; who it is of stands in its genesis."""
    lines = list(_lines(path.read_bytes()))
    entries = tuple(line for line in lines if line is not None)
    genesis = next((entry.ref for entry in entries if entry.kind == "genesis"), {})
    keys = [entry.ref for entry in entries if entry.kind in {"genesis", "key"}]
    return LedgerText(
        file=path.name,
        origin=str(plain(genesis.get("origin", ""))),
        department=str(plain(genesis.get("name") or path.stem)),
        key=str(plain(keys[-1].get("key", ""))) if keys else "",
        entries=entries,
        unreadable=len(lines) - len(entries),
    )


def _lines(data: bytes) -> Iterator[Line | None]:
    """Every line as an entry, or None where it is none."""
    for text in data.split(b"\n"):
        if text:
            try:
                yield _line(json.loads(text)["entry"])
            except (ValueError, KeyError, TypeError, RecursionError):
                yield None


def _line(entry: dict[str, Any]) -> Line:
    """What a report needs of an entry; raises as :func:`Terms.read` does."""
    kind, ref = entry["kind"], entry["ref"]
    if kind not in KINDS or not isinstance(ref, dict):
        raise CanonicalError(f"{kind!r}: no kind of entry")
    unix(entry["time"])
    if kind == "dataset":
        integer(ref["version"]), integer(ref["declared_size"])
    elif kind == "release":
        integer(ref["round"])
    return Line(
        seq=integer(entry["seq"]),
        time=entry["time"],
        kind=kind,
        dataset=_text(entry["dataset"]) if kind in _ABOUT_A_RUN | {"dataset"} else "",
        run=_text(entry["run"]) if kind in _ABOUT_A_RUN else "",
        policy=None if entry["policy_digest"] is None else _text(entry["policy_digest"]),
        terms=Terms.read(entry["mechanism"]) if kind in {"reserve", "settle"} else None,
        ref=ref | {"origin": entry["origin"]} if kind == "genesis" else ref,
    )


def _text(value: object) -> str:
    """A text that JSON and HTML can hold."""
    if not isinstance(value, str):
        raise TypeError("text expected")
    return str(plain(value))


def _policy(path: Path) -> PolicyText:
    """One policy, by the digest of its bytes and not by its name."""
    data = path.read_bytes()
    policy, problem = None, None
    try:
        policy = Policy.parse(data)
    except PolicyError as error:
        problem = str(error)
    found = hashlib.sha256(data).hexdigest()
    if found != path.stem:
        policy, problem = None, f"the file's digest is {found}, not the one in its name"
    return PolicyText(digest=path.stem, text=data.decode(errors="replace"), policy=policy, problem=problem)


def _document(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        value = plain(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _roster(path: Path) -> dict[str, Any]:
    """The fields inside a run's two envelopes."""
    outer, found = _document(path), {}
    for name in ("roster", "permit"):
        try:
            payload = plain(json.loads(json.loads(outer[name])["payload"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            payload = None
        found[name] = payload if isinstance(payload, dict) else {}
    return found | {"governance": str(outer.get("governance", ""))}
