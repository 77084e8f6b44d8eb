"""The version that answers, and how it is exchanged for another while requests are in flight.

A model runs from the very bytes whose signature was checked: nothing is read again by its path. A version is
loaded and tried completely before it takes the place of the one before, in one assignment; a request keeps
the version it began with. One that cannot be verified or run never answers: the one before goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.inputs.errors import DataError
from models.inputs.requests import Requests
from models.onnx_session import INPUT, OUTPUT, open_session
from models.reference import read_reference
from server.errors import ServerError, ServingError
from server.serving.drift import Drift, DriftSettings
from server.serving.limits import Limits
from server.serving.rollback import Probation, RollbackRule

if TYPE_CHECKING:
    from models.bundle import Bundle
    from server.publishing.registry_version import Version

logger = logging.getLogger("confide.serving")

CHUNK_RECORDS: Final = 256
CHUNK_ELEMENTS: Final = 2**20
LONGEST_PAUSE: Final = 600.0
# What an operator, a registry, a disk or a bundle can get wrong; anything else is a mistake of ours.
EXPECTED: Final = (ServerError, ModelError, DataError, OSError)


class Versions(Protocol):
    """What is asked of a registry (``server.publishing.registry.Registry``)."""

    def version(self, name: str, spec: str) -> Version:
        """A version by its number or "@alias"."""

    def fetch(self, name: str, spec: str, into: Path) -> tuple[Version, Bundle]:
        """The same and its bundle, verified."""


class Watcher(Protocol):
    """Who is told what happens to versions (``server.serving.monitor.Monitor``)."""

    def swapped(self, model: ActiveModel) -> None:
        """It answers from now on."""

    def refused(self, reason: str) -> None:
        """A version could not be loaded; ``reason`` is the name of an exception."""

    def rolled_back(self) -> None:
        """The alias was moved back."""


class ActiveModel:
    """One verified version, ready to answer from any number of threads.

    Args:
        bundle: verified.
        version: as the registry has it.
        variant: which of the bundle's files; None takes its default.
        limits: on requests.
        drift: when windows of its traffic are judged.

    Raises:
        ServingError: ONNX Runtime refuses it, or it does not do what the bundle says.
        BundleError: no such variant, or a file is not what was signed.
    """

    def __init__(
        self, bundle: Bundle, version: Version, *, variant: str | None, limits: Limits, drift: DriftSettings
    ) -> None:
        chosen = bundle.variant(variant)
        self.name, self.version, self.digest, self.variant = version.name, version.version, bundle.digest, chosen.name
        self.signature = bundle.signature
        self.task = bundle.task
        self.classes: Sequence[str] | None = bundle.data.classes
        self.requests = Requests(bundle.data, bundle.signature, max_records=limits.records_for(bundle.signature))
        self.drift = Drift(read_reference(bundle.reference), bundle.signature, drift)
        self.probation: Probation | None = None
        self._chunk = max(1, min(CHUNK_RECORDS, CHUNK_ELEMENTS // bundle.signature.elements))
        self._session = _session(bundle.read(chosen.file), f"{version.name} {version.version} ({chosen.name})")
        self._warm_up()

    def scores(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return raw scores float32 ``(N, outputs)`` of float32 ``(N, *shape)`` or int64 ``(N, T)`` inputs.

        Records run in chunks, so that memory is bounded. Requests are never run together: a dynamically
        quantised model scales by the batch, and one caller's records would change another's answers.
        """
        rows = [
            self._session.run([OUTPUT], {INPUT: inputs[at : at + self._chunk]})[0]
            for at in range(0, len(inputs), self._chunk)
        ]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def tried(self, *, failed: bool) -> None:
        """Note how a request went, while the version is on probation."""
        probation = self.probation
        if probation is not None:
            probation.note(failed=failed)

    def to_dict(self) -> dict[str, Any]:
        """Which version this is."""
        return {"name": self.name, "version": self.version, "digest": self.digest, "variant": self.variant}

    def _warm_up(self) -> None:
        """Run the model once as requests will, and refuse one that does not answer as the bundle says."""
        kind = np.int64 if self.signature.kind == "tokens" else np.float32
        for records in (1, self._chunk):
            inputs = np.zeros((records, *self.signature.shape), kind)
            inputs.flat[0] = 1  # a text of padding alone is no record
            try:
                scores = self.scores(inputs)
            except Exception as error:  # noqa: BLE001  # ONNX Runtime's own exceptions share no other base
                raise self._unfit(f"ONNX Runtime cannot run it ({type(error).__name__})") from None
            if scores.shape != (records, self.signature.outputs) or scores.dtype != np.float32:
                raise self._unfit(f"its scores are {scores.dtype} {scores.shape}")
            if not np.isfinite(scores).all():
                raise self._unfit("its scores are not finite")

    def _unfit(self, problem: str) -> ServingError:
        """An error about this version."""
        return ServingError(f"{self.name} {self.version} ({self.variant}): {problem}; publish it again")


def _session(content: bytes, what: str) -> Any:
    """Return an ONNX Runtime session of verified bytes."""
    try:
        session = open_session(content)
    except ImportError:
        raise ServingError("serving needs ONNX Runtime: pip install 'confide[serve]'") from None
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's own exceptions share no other base
        raise ServingError(f"{what}: ONNX Runtime cannot load it ({type(error).__name__}); publish it again") from None
    given, returned = [[each.name for each in ends] for ends in (session.get_inputs(), session.get_outputs())]
    if given != [INPUT] or returned != [OUTPUT]:
        raise ServingError(f"{what}: takes {given} and returns {returned}, not {INPUT} and {OUTPUT}; publish it again")
    return session


class Swapper:
    """Follows an alias: ``load`` once, then ``start``; ``active`` is the version that answers.

    Args:
        registry: where versions come from.
        name: of the registered model.
        spec: a version's number, which never changes, or "@alias", which is looked at every ``poll_seconds``.
        variant: which file of a bundle; None takes each bundle's default.
        cache: a folder for downloaded bundles; what lies there is verified again whenever it is used.
        rule: when a new version is taken back, by ``roll_back``, which gets the alias without its "@".
    """

    def __init__(
        self,
        registry: Versions,
        name: str,
        spec: str,
        *,
        cache: Path,
        watcher: Watcher,
        variant: str | None = None,
        limits: Limits | None = None,
        drift: DriftSettings | None = None,
        poll_seconds: float = 10.0,
        rule: RollbackRule | None = None,
        roll_back: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.active: ActiveModel | None = None
        self._registry, self._name, self._spec, self._cache = registry, name, spec, cache
        self._watcher, self._variant = watcher, variant
        self._limits, self._drift, self._rule = limits or Limits(), drift or DriftSettings(), rule
        self._poll_seconds, self._roll_back = poll_seconds, roll_back
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="confide-versions", daemon=True)
        self._failures: dict[tuple[int, str], tuple[int, float]] = {}

    def load(self) -> ActiveModel:
        """Load the first version.

        Raises:
            RegistryError, BundleError, ServingError: it cannot be had, verified or run.
        """
        version, bundle = self._registry.fetch(self._name, self._spec, self._cache)
        model = self._made(bundle, version)
        self.active = model
        self._watcher.swapped(model)
        return model

    def start(self) -> None:
        """Follow the alias from now on, in a thread; a fixed version is not followed."""
        if self._spec.startswith("@"):
            self._thread.start()

    def stop(self) -> None:
        """Stop following; returns when the thread has, or after some seconds in which it did not."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def poll(self) -> bool:
        """Look at the alias once and exchange the version if it moved; returns whether it did. Never raises."""
        self._guarded(self._take_back, "the alias cannot be moved back")
        return bool(self._guarded(self._look, "the alias cannot be followed"))

    def _look(self) -> bool:
        """Exchange the version if the alias names another."""
        version = self._registry.version(self._name, self._spec)
        active = self.active
        if active is not None and (active.version, active.digest) == (version.version, version.digest):
            return False
        return self._exchange(version)

    def _guarded(self, work: Callable[[], bool], problem: str) -> bool:
        """Do something that may fail while the version in use goes on answering."""
        try:
            return work()
        except EXPECTED as error:
            reason, told = type(error).__name__, str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the version in use goes on answering
            reason = told = type(error).__name__
        self._watcher.refused(reason)
        logger.error("%s (%s): %s; the version in use goes on answering", problem, self._spec, told)
        return False

    def _exchange(self, version: Version) -> bool:
        """Load a version and let it answer; one that failed is tried again later and later."""
        key = (version.version, version.digest)
        tried, again = self._failures.get(key, (0, 0.0))
        if time.monotonic() < again:
            return False
        self._failures = {key: (tried + 1, time.monotonic() + min(self._poll_seconds * 2**tried, LONGEST_PAUSE))}
        # By its number: the alias may move on in between.
        version, bundle = self._registry.fetch(self._name, str(version.version), self._cache)
        model = self._made(bundle, version)
        if self._rule is not None:
            model.probation = Probation(self._rule, self._woken.set)
        self.active = model
        self._failures = {}
        self._watcher.swapped(model)
        logger.info("%s %d (%s) answers from now on; digest %s", model.name, model.version, model.variant, model.digest)
        return True

    def _take_back(self) -> bool:
        """Move the alias back if the version in use did not pass its probation."""
        active = self.active
        if active is None or active.probation is None or not active.probation.failed:
            return False
        # Another server may have done so already, and twice would go back two versions.
        if self._registry.version(self._name, self._spec).version == active.version:
            self._roll_back(self._spec.removeprefix("@"))
            self._watcher.rolled_back()
            logger.error("%s %d failed too many of its first requests and was taken back", active.name, active.version)
        active.probation = None
        return True

    def _made(self, bundle: Bundle, version: Version) -> ActiveModel:
        """Make a version ready."""
        return ActiveModel(bundle, version, variant=self._variant, limits=self._limits, drift=self._drift)

    def _follow(self) -> None:
        """Poll until stopped."""
        while not self._stopping.is_set():
            self._woken.wait(self._poll_seconds)
            self._woken.clear()
            if not self._stopping.is_set():
                self.poll()
