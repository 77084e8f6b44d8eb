"""A run's directory: its agreement, its metrics, its checkpoint, its model.

::

    runs/NAME/
      run.json             settings, versions, digests, status, departments
      metrics.jsonl        one line a round
      checkpoint.safetensors   everything a resumed run needs, replaced atomically each round
      spec.json            what the governance is asked to permit, where that is another machine's
      sealing.json         the roster and the permit that sealed sums go by
      model/               model.safetensors + manifest.json, once the run has finished
      plots/*.png
      stop                 exists once somebody asked the run to stop
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.errors import ModelError
from models.files import write_atomic
from server.errors import RunError
from strategies.agreement import digest
from strategies.errors import SettingsError
from strategies.jsonfile import read_object
from strategies.sealed import Envelopes
from strategies.state import RunState

PACKAGES = ("confide", "flwr", "torch", "opacus", "dp-accounting", "numpy")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class RunDirectory:
    """Reads and writes one run's directory; every write is atomic or an append of one line."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, its folder's name."""
        return self.path.name

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def model_directory(self) -> Path:
        """Where the finished model lies."""
        return self.path / "model"

    def create(self, *, spec: str, settings: Mapping[str, Any], engine: str, private: str) -> None:
        """Make the directory and its ``run.json``; raises :class:`RunError` where it cannot."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise RunError(f"{self.path}: exists already; give another name or folder") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be created: {error.strerror}") from None
        self.update(
            name=self.name,
            status="created",
            engine=engine,
            privacy=private,
            created=now(),
            spec=spec,
            spec_digest=digest(spec),
            settings=settings,
            versions={package: _version(package) for package in PACKAGES},
        )

    def document(self) -> dict[str, Any]:
        """``run.json``; raises :class:`RunError` if there is none or it is damaged."""
        try:
            document = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path}: no run there (run.json is missing); give a run's folder or name") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.path / 'run.json'}: damaged: {error}") from None
        if not isinstance(document, dict):
            raise RunError(f"{self.path / 'run.json'}: damaged: not an object")
        return document

    def update(self, **changes: Any) -> None:
        """Merge ``changes`` into ``run.json``."""
        known = self.document() if (self.path / "run.json").exists() else {}
        self._write(self.path / "run.json", json.dumps(known | changes, indent=2, sort_keys=True).encode())

    def add_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one round's line, in the place of one that a killed process left half-written."""
        line = json.dumps(row, sort_keys=True) + "\n"
        try:
            with self.metrics_file.open("ab+") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                file.write(line.encode())
        except OSError as error:
            raise RunError(f"{self.metrics_file}: cannot be written: {error.strerror}; free some space") from None

    def metrics(self) -> list[dict[str, Any]]:
        """Every complete line of ``metrics.jsonl``; raises :class:`RunError` if one is damaged."""
        if not self.metrics_file.exists():
            return []
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines[:-1]]  # the last may still be in the writing
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.metrics_file}: damaged: {error}") from None
        if not all(isinstance(row, dict) for row in rows):
            raise RunError(f"{self.metrics_file}: damaged: a line is not an object")
        return rows

    def save_checkpoint(self, state: RunState, extra: Mapping[str, np.ndarray] | None = None) -> None:
        """Replace the checkpoint; on :class:`RunError` (disk full) the earlier one is still there."""
        arrays = {"model": state.model} | {f"optimizer.{k}": v for k, v in state.optimizer.items()}
        if state.control is not None:
            arrays["control"] = state.control
        arrays |= {f"extra.{k}": v for k, v in (extra or {}).items()}
        counters = {
            "round": state.round,
            "aggregated": state.aggregated,
            "asked": state.asked,
            "measured": state.measured,
            "epoch": state.epoch,
            "convicted": sorted(state.convicted),
            "apart": sorted(sorted(pair) for pair in state.apart),
        }
        self._write(self.path / "checkpoint.safetensors", save(arrays, metadata={"confide": json.dumps(counters)}))

    def load_checkpoint(self) -> tuple[RunState, dict[str, np.ndarray]]:
        """The last checkpoint and its extra arrays; raises :class:`RunError` if there is none."""
        file = self.path / "checkpoint.safetensors"
        if not file.exists():
            raise RunError(f"{file}: missing; this run has no checkpoint to resume from")
        try:
            with safe_open(file, framework="np") as stored:
                counters = json.loads(stored.metadata()["confide"])
                arrays = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
            state = RunState(
                model=arrays.pop("model"),
                round=int(counters["round"]),
                aggregated=int(counters["aggregated"]),
                control=arrays.pop("control", None),
                asked={str(k): int(v) for k, v in counters["asked"].items()},
                measured={str(k): int(v) for k, v in counters["measured"].items()},
                epoch=int(counters["epoch"]),
                convicted={str(name) for name in counters["convicted"]},
                apart={frozenset(map(str, pair)) for pair in counters["apart"]},
                optimizer={k[10:]: v for k, v in arrays.items() if k.startswith("optimizer.")},
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{file}: damaged: {error}") from None
        return state, {k[6:]: v for k, v in arrays.items() if k.startswith("extra.")}

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint was written."""
        return (self.path / "checkpoint.safetensors").exists()

    @property
    def spec_file(self) -> Path:
        """The spec alone: what ``confide federation permit`` is given."""
        return self.path / "spec.json"

    def save_spec(self) -> None:
        """Lay the spec out for the governance, to the byte as departments get it."""
        self._write(self.spec_file, str(self.document()["spec"]).encode())

    def save_sealing(self, envelopes: Envelopes) -> None:
        """Keep the signed roster and permit that this run goes by, both or neither."""
        self._write(self.path / "sealing.json", sealing_bytes(envelopes))

    def sealing(self) -> Envelopes | None:
        """The signed roster and permit, or None; raises :class:`RunError` if they are damaged."""
        file = self.path / "sealing.json"
        return read_sealing(file) if file.exists() else None

    def ask_to_stop(self) -> None:
        """Leave word for whoever runs this run."""
        self._write(self.path / "stop", b"")

    def asked_to_stop(self) -> bool:
        """Whether somebody asked."""
        return (self.path / "stop").exists()

    def clear_stop(self) -> None:
        """Forget an earlier wish to stop."""
        (self.path / "stop").unlink(missing_ok=True)

    def _write(self, file: Path, data: bytes) -> None:
        """Write atomically; a full disk is a :class:`RunError`."""
        try:
            write_atomic(file, data)
        except (OSError, ModelError) as error:
            raise RunError(f"{error}; the earlier version is intact: free some space and resume") from None


def sealing_bytes(envelopes: Envelopes) -> bytes:
    """The signed roster and permit of a run, with the governance's public key, as a file."""
    document = {
        "governance": envelopes.governance.hex(),
        "roster": envelopes.roster.decode(),
        "permit": envelopes.permit.decode(),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def read_sealing(file: Path) -> Envelopes:
    """What :func:`sealing_bytes` made, its signatures not yet checked; raises :class:`RunError`."""
    try:
        document = read_object(file)
        return Envelopes(
            governance=bytes.fromhex(document["governance"]),
            roster=document["roster"].encode(),
            permit=document["permit"].encode(),
        )
    except (SettingsError, KeyError, ValueError, TypeError, AttributeError) as error:
        said = "cannot be read" if isinstance(error, SettingsError) else "holds no roster and permit"
        raise RunError(f'{file}: {said}; give the file that "confide federation permit" wrote') from None


def _version(package: str) -> str:
    """An installed package's version; an app bundle under a stock SuperLink is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def new_name(settings_name: str) -> str:
    """A fresh run name: the run file's name, the time, and four random characters."""
    return f"{settings_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find(runs: Path, name: str) -> RunDirectory:
    """A run by name (or unique beginning) under ``runs``, or by path. Raises :class:`RunError`."""
    given = Path(name)
    if (given / "run.json").exists():
        return RunDirectory(given.resolve())
    if NAME.fullmatch(name) and runs.exists():
        matches = sorted(path.parent for path in runs.glob("*/run.json") if path.parent.name.startswith(name))
        exact = [path for path in matches if path.name == name]
        if exact or len(matches) == 1:
            return RunDirectory((exact or matches)[0])
        if matches:
            raise RunError(f"run {name}: {len(matches)} runs begin so; give more of the name: {matches[0].name}, …")
    raise RunError(f'run {name}: not found under {runs}; "confide run list" shows what is there')


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
