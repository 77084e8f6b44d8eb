"""The end of the demo: the model is published, verified with the public key alone, served, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from models.bundle import verify
from server.publishing.draft import Watch
from server.publishing.promotion import CHAMPION
from server.publishing.publish import publish_run
from server.publishing.signing import Signer
from server.runs import RunDirectory
from simulations.federation import Federation, FederationError, tail
from strategies.settings import PublishSettings

SERVER = "models"  # the member that serves them
READY = " answers at "


def release(federation: Federation, directory: RunDirectory, test: Path, watch: Watch) -> dict[str, Any]:
    """Publish a finished run, and ask a server of the published model for one prediction.

    Args:
        federation: whose governance signs; its coordinator need not run any more.
        directory: the run, with ``evidence/`` in its folder.
        test: the public test set (``.npz``), of which the first record is asked about.
        watch: is told what is being done.

    Raises:
        FederationError: a gate failed, or the server did not start or answer.
    """
    governance = federation.governance
    key = Signer(key=governance.key(), whose=f"the federation {governance.settings().name}")
    registry = directory.path / "registry"
    torch.set_num_threads(1)  # more make a model of this size slower, not faster
    result, draft = publish_run(
        directory,
        PublishSettings(promote=True),
        key=key,
        registry=str(registry),
        governance=key.public,
        watch=watch,
    )
    if draft.bundle is None:
        failed = [f"{gate.name}: {gate.detail}" for gate in draft.gates if not gate.passed]
        raise FederationError(f"the model was not published: {'; '.join(failed)}")
    watch("verifying the bundle with the public key alone")
    verify(draft.bundle, [key.public])
    watch("serving the model, and asking it")
    which = f"{draft.name}@{CHAMPION}"
    federation.start_member(
        SERVER, "models", "serve", which, "--port", "0", "--registry", str(registry), "--key", key.public.hex()
    )
    federation.wait(SERVER, lambda: READY in _said(federation))
    address = _said(federation).split(READY)[1].split()[0]
    with np.load(test, allow_pickle=False) as arrays:
        record, truth = arrays["x"][0], arrays["y"][0]
    return result | {"prediction": ask(address, record.tolist()), "truth": str(truth)}


def ask(address: str, record: object) -> dict[str, Any]:
    """The server's answer to one record, by MLflow's scoring protocol; raises :class:`FederationError`."""
    try:
        reply = httpx.post(f"{address}/invocations", json={"inputs": [record]}, timeout=30.0)
        answer: dict[str, Any] = reply.raise_for_status().json()["predictions"][0]
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise FederationError(f"{address}: no prediction ({error})") from None
    return answer


def _said(federation: Federation) -> str:
    """What the model server has printed so far."""
    return tail(federation.home(SERVER) / "output.log")
