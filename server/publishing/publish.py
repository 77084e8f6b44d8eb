"""A publication as a whole: the bundle, the registry's version, the aliases; what ``confide publish`` reports."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from models.bundle import verify
from models.compress.measure import Measured
from models.errors import BundleError
from server.errors import PublishError, RegistryError
from server.publishing.draft import Draft, Watch, make
from server.publishing.promotion import CHAMPION, promote
from server.publishing.registry import Registry
from server.publishing.signing import Signer
from server.runs import RunDirectory
from strategies.settings import PublishSettings

CANDIDATE = "candidate"


def publish_run(
    directory: RunDirectory,
    settings: PublishSettings,
    *,
    key: Signer,
    registry: str,
    artifacts: str | None = None,
    governance: bytes | None = None,
    evidence: Path | None = None,
    calibration: str | None = None,
    without_privacy: bool = False,
    watch: Watch = lambda _: None,
) -> tuple[dict[str, Any], Draft]:
    """Publish a run; return what ``--json`` writes, and the draft with its gates.

    Nothing is registered where a gate failed: ``version`` and ``bundle`` are then None.

    Args:
        directory: a finished run.
        settings: what is published, and how.
        key: to sign with.
        registry, artifacts: as for :meth:`server.publishing.registry.Registry.at`.
        governance, evidence, calibration, without_privacy, watch: as for :func:`server.publishing.draft.make`.

    Raises:
        PublishError, RegistryError: nothing was registered, and why.
        ModelError, DataError, RunError: as :func:`server.publishing.draft.make`.
    """
    # Before the work, so that an unreachable registry costs nobody's time.
    store = Registry.at(registry, artifacts=artifacts, keys=[key.public])
    store.ready()
    rounds = directory.metrics()
    draft = make(
        directory,
        key,
        settings=settings,
        evidence=evidence,
        governance=governance,
        calibration=calibration,
        without_privacy=without_privacy,
        watch=watch,
    )
    result = _reported(draft, key, store.place.shown)
    if draft.bundle is not None:
        watch("registering the version, and reading it back")
        bundle = verify(draft.bundle, [key.public])
        try:
            result["version"] = store.publish(draft.bundle, bundle, run_metrics=rounds)
        except BaseException:
            shutil.rmtree(draft.bundle, ignore_errors=True)  # a publication is made whole, or leaves nothing
            raise
        try:
            result["aliases"], result["not_promoted"] = _aliases(store, draft.name, result["version"], settings)
        except (BundleError, RegistryError) as error:
            made = f"{draft.name}/{result['version']}"
            raise PublishError(
                f'{made}: is registered, but has no alias ({error}); "confide models promote {made}" gives it one'
            ) from None
    return result, draft


def _aliases(store: Registry, name: str, version: int, settings: PublishSettings) -> tuple[list[str], list[str]]:
    """Call a version the candidate, and the champion if that is wanted and it is no worse; say why not."""
    store.set_alias(name, CANDIDATE, version)
    if not settings.promote:
        return [CANDIDATE], []
    try:
        promote(store, name, version, alias=CHAMPION)
    except PublishError as error:
        return [CANDIDATE], [str(error)]
    return [CANDIDATE, CHAMPION], []


def _reported(draft: Draft, key: Signer, registry: str) -> dict[str, Any]:
    """What is known before anything is registered."""
    compressed = draft.compressed
    return {
        "name": draft.name,
        "version": None,
        "bundle": None if draft.bundle is None else str(draft.bundle),
        "digest": draft.digest,
        "registry": registry,
        "gates": [gate.to_dict() for gate in draft.gates],
        "variants": [] if compressed is None else [_variant(one, draft.bundle) for one in compressed.kept],
        "dropped": [] if compressed is None else [one.to_dict() for one in compressed.dropped],
        "aliases": [],
        "not_promoted": [],
        "key": key.public.hex(),
        "fingerprint": key.fingerprint,
        "signed_by": key.whose,
    }


def _variant(measured: Measured, bundle: Path | None) -> dict[str, Any]:
    """A variant, and where its file lies."""
    path = None if bundle is None or measured.file is None else str(bundle / measured.file)
    return measured.to_dict() | {"path": path}
