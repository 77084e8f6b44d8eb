"""What a department remembers of a run: which rounds it answered, and SCAFFOLD's own variate.

A round is recorded, durably, *before* training starts. A machine that crashes afterwards
refuses that round for ever: its noise may have been drawn, and two noisy answers to one round
would cost twice what was accounted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from client.errors import RefusalError
from models.errors import ModelError
from models.files import sync_folder, write_atomic
from strategies.lanes import FloatVector
from strategies.status import Status


class Journal(Protocol):
    """Where a department keeps its own state of runs."""

    def begin(self, run: str, digest: str, number: int) -> None:
        """Record that ``number`` is being answered; raises :class:`RefusalError` if it must not be."""

    def control(self, run: str, size: int) -> FloatVector:
        """SCAFFOLD's own control variate, float32 (P,); zeros at first."""

    def keep_control(self, run: str, control: FloatVector) -> None:
        """Remember the control variate."""


@dataclass
class MemoryJournal:
    """State of a simulated department: as long as the simulation lasts."""

    controls: dict[str, FloatVector] = field(default_factory=dict)

    def begin(self, run: str, digest: str, number: int) -> None:
        """A simulation may repeat a round: its randomness is seeded, or it is thrown away."""

    def control(self, run: str, size: int) -> FloatVector:
        """SCAFFOLD's own control variate."""
        return self.controls.get(run, np.zeros(size, np.float32))

    def keep_control(self, run: str, control: FloatVector) -> None:
        """Remember the control variate."""
        self.controls[run] = control


@dataclass(frozen=True)
class DiskJournal:
    """State of a real department: one JSON file and one array a run, written atomically."""

    directory: Path

    def begin(self, run: str, digest: str, number: int) -> None:
        """Record the round durably; refuse one that is not newer, or another agreement."""
        file = self._file(run, ".json")
        with _durable():
            if not self.directory.exists():
                self.directory.mkdir(parents=True, mode=0o700)
                sync_folder(self.directory.parent)
        with _durable(), FileLock(self.directory / "lock", mode=0o600):
            known: dict[str, Any] = {"digest": digest, "last_round": 0}
            if file.exists():
                known = json.loads(file.read_text())
            if known["digest"] != digest:
                raise RefusalError(Status.REFUSED_BY_POLICY, f"run {run}: its settings changed after it began")
            if number <= int(known["last_round"]):
                raise RefusalError(
                    Status.ROUND_ALREADY_ANSWERED,
                    f"run {run}: round {number} asked, but round {known['last_round']} was answered",
                )
            write_atomic(file, json.dumps({"digest": digest, "last_round": number}).encode(), secret=True)

    def control(self, run: str, size: int) -> FloatVector:
        """SCAFFOLD's own control variate; raises :class:`RefusalError` if its file is damaged."""
        file = self._file(run, ".safetensors")
        if not file.exists():
            return np.zeros(size, np.float32)
        with _durable():
            control: FloatVector = load_file(file)["control"]
        if control.shape != (size,) or control.dtype != np.float32:
            raise RefusalError(Status.STATE_NOT_DURABLE, f"{file}: holds {control.shape}, the model needs ({size},)")
        return control

    def keep_control(self, run: str, control: FloatVector) -> None:
        """Remember the control variate durably."""
        with _durable():
            write_atomic(self._file(run, ".safetensors"), save({"control": control}), secret=True)

    def _file(self, run: str, suffix: str) -> Path:
        """The run's file; a run's name comes from the server, so it must not choose the folder."""
        if not run or run.startswith(".") or not all(c.isalnum() or c in "._-" for c in run) or len(run) > 128:
            raise RefusalError(Status.BAD_MESSAGE, "the run's name is not made of letters, digits, '.', '_' and '-'")
        return self.directory / f"{run}{suffix}"


@contextmanager
def _durable() -> Iterator[None]:
    """Turn a failing disk or a damaged file into a refusal: never answer without a record."""
    try:
        yield
    except (OSError, ModelError) as error:
        raise RefusalError(Status.STATE_NOT_DURABLE, f"the run's state cannot be kept: {error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusalError(Status.STATE_NOT_DURABLE, f"the run's state is damaged: {error}") from None
