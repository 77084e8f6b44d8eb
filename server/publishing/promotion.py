"""Which version is served: by rule, from signed figures, and back again in one command.

Nothing here believes the registry's database: what a version scored and which gates it passed is read from its
verified bundle. The database only says which version has the alias, and which had it before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.errors import BundleError
from server.errors import PublishError, RegistryError
from server.publishing import registry_files
from server.publishing.check import Check
from server.publishing.registry import Registry

CHAMPION = "champion"
TOLERANCE = 0.005
MOST_HISTORY = 50


def promote(
    registry: Registry,
    name: str,
    version: int | str,
    *,
    alias: str = CHAMPION,
    tolerance: float = TOLERANCE,
    force: bool = False,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Let an alias mean a version, if its signed figures allow it.

    Args:
        registry, name, version: which; ``version`` is a number or "@alias".
        alias: what it is to be called.
        tolerance: by how much its score may fall short of the present one's: absolute for accuracy, relative
            for the mean absolute error.
        force: promote it even though it breaks a rule; its signature must hold all the same.
        cache: a folder that keeps bundles; without it they are fetched anew.

    Returns:
        ``name``, ``version``, ``alias``, ``previous`` (a number or None), ``digest``, ``checks`` (as
        :class:`server.publishing.check.Check`) and ``forced`` (whether a rule was broken).

    Raises:
        PublishError: it breaks a rule; every reason is given.
        BundleError, RegistryError: as :meth:`server.publishing.registry.Registry.fetch`.
    """
    with registry.place.locked(), registry_files.scratch() as scratch:
        into = cache or scratch
        found, candidate = registry.fetch(name, version, into)
        previous = registry.alias(name, alias)
        champion, unknown = None, []
        if previous not in (None, found.version):
            try:
                _, champion = registry.fetch(name, f"@{alias}", into)
            except BundleError as error:
                unknown = [Check(name="champion", passed=False, detail=f"the present {alias} is damaged: {error}")]
        checks = [*unknown, *rules(candidate, champion, tolerance=tolerance)]
        broken = [check for check in checks if not check.passed]
        if broken and not force:
            reasons = "; ".join(f"{check.name}: {check.detail}" for check in broken)
            raise PublishError(f"{name} version {found.version}: not promoted to {alias}: {reasons}")
        if previous != found.version:
            history = _history(registry, name, alias) or []
            if previous is not None and history[-1:] != [previous]:
                history.append(previous)  # somebody set the alias by hand
            # The alias first: if the history is not written, a rollback still finds the one before.
            registry.set_alias(name, alias, found.version)
            _keep(registry, name, alias, [*history, found.version])
    return {
        "name": name,
        "version": found.version,
        "alias": alias,
        "previous": None if previous == found.version else previous,
        "digest": candidate.digest,
        "checks": [check.to_dict() for check in checks],
        "forced": bool(broken),
    }


def rollback(registry: Registry, name: str, alias: str = CHAMPION, *, cache: Path | None = None) -> dict[str, Any]:
    """Let an alias mean again what it meant before the last promotion; each further time one more back.

    Returns:
        ``name``, ``alias``, ``version`` (now), ``previous`` (until now) and ``digest``.

    Raises:
        RegistryError: there is nothing to go back to.
        BundleError: the version before is damaged; promote another one.
    """
    with registry.place.locked(), registry_files.scratch() as scratch:
        current, history = registry.alias(name, alias), _history(registry, name, alias)
        if current is None:
            raise RegistryError(f"{name}: no alias {alias!r} to roll back; promote a version first")
        if history is None:
            raise RegistryError(f"{name}: the history of {alias!r} is damaged; promote the version that is wanted")
        there = {version.version for version in registry.versions(name)}
        while history and (history[-1] == current or history[-1] not in there):
            history.pop()
        if not history:
            raise RegistryError(f"{name}: nothing before version {current} to roll {alias!r} back to; promote one")
        found, bundle = registry.fetch(name, history[-1], cache or scratch)
        # The history first: were the alias moved alone, the next rollback would go forward again.
        _keep(registry, name, alias, history)
        registry.set_alias(name, alias, found.version)
    return {"name": name, "alias": alias, "version": found.version, "previous": current, "digest": bundle.digest}


def rules(candidate: Bundle, champion: Bundle | None, *, tolerance: float = TOLERANCE) -> list[Check]:
    """Return every rule, applied to a candidate for the place of ``champion`` (None: of nobody)."""
    return [_gates(candidate), _privacy(candidate, champion), *_compared(candidate, champion, tolerance)]


def _gates(candidate: Bundle) -> Check:
    """All gates of the publication were passed."""
    gates = candidate.evaluation.get("gates")
    given = [gate for gate in gates if isinstance(gate, dict)] if isinstance(gates, list) else []
    failed = [str(gate.get("name"))[:80] for gate in given if gate.get("passed") is not True]
    if not given or len(given) != len(gates or ()):
        return Check(name="gates", passed=False, detail="none are recorded; publish the run again")
    if failed:
        return Check(name="gates", passed=False, detail=f"failed when it was published: {', '.join(failed)}")
    return Check(name="gates", passed=True, detail=f"{len(given)} of {len(given)} passed")


def _simulated(bundle: Bundle) -> bool:
    """Whether one process held all departments' records."""
    return bundle.lineage.get("engine") == "simulation"


def _privacy(candidate: Bundle, champion: Bundle | None) -> Check:
    """A model without differential privacy takes no place of one with it."""
    mode = candidate.privacy.get("mode")
    if champion is not None and (_simulated(candidate) and not _simulated(champion)):
        return Check(name="privacy", passed=False, detail="a simulation, and the present version is a federation's")
    if isinstance(mode, str) and mode not in ("", "off"):
        return Check(name="privacy", passed=True, detail=f"mode {mode[:40]}")
    if champion is not None and champion.privacy.get("mode") == "off":
        return Check(name="privacy", passed=True, detail="off, as the present version's")
    return Check(name="privacy", passed=False, detail="trained without differential privacy; force it if that is meant")


def _compared(candidate: Bundle, champion: Bundle | None, tolerance: float) -> Iterator[Check]:
    """It takes the same records, and scores no worse."""
    if champion is None:
        return
    same = candidate.signature == champion.signature and candidate.data.classes == champion.data.classes
    detail = "as the present version's" if same else "records or answers are not those of the present version"
    yield Check(name="schema", passed=same, detail=detail)
    new, old = candidate.variant(), champion.variant()
    if old.metric is None or old.score is None:
        yield Check(name="score", passed=True, detail="the present version was not measured")
    elif new.metric != old.metric or new.score is None:
        yield Check(name="score", passed=False, detail=f"{old.metric} was not measured; name a test set and publish")
    elif candidate.evaluation.get("digest") != champion.evaluation.get("digest"):
        detail = "measured on other public records than the present version's; compare the two, then force it"
        yield Check(name="score", passed=False, detail=detail)
    else:
        worst = old.score - tolerance if old.metric == "accuracy" else old.score * (1 + tolerance)
        passed = new.score >= worst if old.metric == "accuracy" else new.score <= worst
        yield Check(
            name="score",
            passed=passed,
            detail=f"{old.metric} {new.score:.4f}, the present version's {old.score:.4f}, tolerance {tolerance:g}",
        )


def _history(registry: Registry, name: str, alias: str) -> list[int] | None:
    """The versions that had an alias, oldest first; None if what is noted is no such list."""
    noted = registry.note(name, f"history.{alias}")
    try:
        history = [] if noted is None else json.loads(noted)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(history, list) and all(type(number) is int and number > 0 for number in history)
    return history[-MOST_HISTORY:] if sound else None


def _keep(registry: Registry, name: str, alias: str, history: list[int]) -> None:
    """Note the versions that had an alias."""
    registry.set_note(name, f"history.{alias}", json.dumps(history[-MOST_HISTORY:]))
