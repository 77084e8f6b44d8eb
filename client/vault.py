"""Where a department keeps what sealed sums need: the record of runs, and one epoch's keys a run.

Written durably *before* a reply leaves, records first: a crash in between then costs a round, never a second
answer. A damaged epoch is as good as none, and a new one will be set up; a damaged record of runs stops
everything until the operator has looked, because it is what refuses a repeated round.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from client.errors import RefusalError
from models.errors import ModelError
from models.files import sync_folder, write_atomic
from secagg.client import EpochState
from secagg.errors import StateError
from secagg.records import Pins
from strategies.status import Status

logger = logging.getLogger("confide.client")

LOCK_SECONDS = 5.0
# Keys of other runs that nobody asked for in this time are erased; a run that goes on sets up anew.
KEEP_SECONDS = 86_400.0


class Vault(Protocol):
    """State of sealed sums; ``run`` is the run's 32-byte name."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile."""

    def load(self, run: bytes, *, upload: bool = False) -> tuple[Pins, EpochState | None]:
        """The record of runs, and the run's epoch if there is one; with its last ``upload`` if that is wanted."""

    def keep(self, run: bytes, pins: Pins, state: EpochState) -> None:
        """Make both durable."""


@dataclass
class MemoryVault:
    """State of a simulated department."""

    pins: Pins = field(default_factory=Pins)
    states: dict[bytes, EpochState] = field(default_factory=dict)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A simulated department is alone."""
        yield

    def load(self, run: bytes, *, upload: bool = False) -> tuple[Pins, EpochState | None]:
        """What was kept."""
        return self.pins, self.states.get(run)

    def keep(self, run: bytes, pins: Pins, state: EpochState) -> None:
        """Keep it as long as the simulation lasts."""
        self.pins = pins
        self.states[run] = state


@dataclass(frozen=True)
class DiskVault:
    """State of a real department: ``records``, and per run ``RUN/epoch`` with ``RUN/upload-DIGEST``, all 0600."""

    directory: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; raises :class:`RefusalError` where another process holds it."""
        with _durable():
            if not self.directory.exists():
                self.directory.mkdir(parents=True, mode=0o700)
                sync_folder(self.directory.parent)
        lock = FileLock(self.directory / "lock", mode=0o600)
        with _durable():
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except Timeout:
                raise RefusalError(
                    Status.STATE_NOT_DURABLE, f"{self.directory}: another process is using it; stop that one"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def load(self, run: bytes, *, upload: bool = False) -> tuple[Pins, EpochState | None]:
        """Read both. A damaged record of runs is a :class:`RefusalError`, a damaged epoch is none."""
        with _durable():
            file = self.directory / "records"
            if not file.exists() and any(path.is_dir() for path in self.directory.iterdir()):
                raise StateError("records: missing, while the keys of a run are there")
            pins = Pins.from_bytes(file.read_bytes()) if file.exists() else Pins()
        folder = self._folder(run)
        try:
            data = (folder / "epoch").read_bytes()
            state = EpochState.from_bytes(data)
            kept = _upload_file(folder, state)
            if upload and kept is not None and kept.exists():
                state = EpochState.from_bytes(data, upload_reply=kept.read_bytes())
        except FileNotFoundError:
            return pins, None
        except (OSError, StateError) as error:
            logger.error("%s: the keys of this run are damaged; a new set-up will be needed: %s", folder, error)
            return pins, None
        return pins, state

    def keep(self, run: bytes, pins: Pins, state: EpochState) -> None:
        """Write the record, the large reply, then the epoch that vouches for it."""
        folder = self._folder(run)
        with _durable():
            file, data = self.directory / "records", pins.to_bytes()
            # Most steps change the epoch alone, and making a file durable is the slow part of a small step.
            if not (file.exists() and file.read_bytes() == data):
                write_atomic(file, data, secret=True)
            if not folder.exists():
                self._erase_others(folder)
                folder.mkdir(mode=0o700)
                sync_folder(self.directory)
            kept = _upload_file(folder, state)
            if kept is not None and state.upload_reply and not kept.exists():
                write_atomic(kept, state.upload_reply, secret=True)
            write_atomic(folder / "epoch", state.to_bytes(), secret=True)
            for older in folder.glob("upload-*"):
                if older != kept:
                    older.unlink()

    def _folder(self, run: bytes) -> Path:
        """The run's folder."""
        return self.directory / run.hex()[:32]

    def _erase_others(self, own: Path) -> None:
        """Erase keys of runs that nobody has asked for lately."""
        for folder in self.directory.iterdir():
            if folder.is_dir() and folder != own and time.time() - folder.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _upload_file(folder: Path, state: EpochState) -> Path | None:
    """Where the upload of the state's round lies, if it made one."""
    return None if state.round is None else folder / f"upload-{state.round.upload.hex()[:32]}"


@contextmanager
def _durable() -> Iterator[None]:
    """Turn a failing disk or a damaged record into a refusal: never answer without a record."""
    try:
        yield
    except (OSError, ModelError) as error:
        raise RefusalError(Status.STATE_NOT_DURABLE, f"the state of sealed sums cannot be kept: {error}") from None
    except StateError as error:
        raise RefusalError(
            Status.STATE_NOT_DURABLE,
            f"the record of runs is damaged: {error}; restore it, or remove it and tell the governance: "
            "rounds answered before could be answered again",
        ) from None
