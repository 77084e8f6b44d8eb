"""From a finished run to a registered version: gates, compression, a signed bundle, the registry.

A bundle is made beside the place where it is to be and renamed when it is whole and signed; a version is registered
only after what was uploaded has been read back and verified. So whatever stops a publication, nothing half-made can be
served, and it can simply be started again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.bundle import seal, verify
from models.bundle_document import FORMAT, Variant
from models.card import card
from models.compress.plan import FULL, CompressionPlan
from models.compress.run import Compressed, compress
from models.errors import ModelError
from models.files import write_atomic
from models.inputs.resolve import feature_names
from models.inputs.schema import DataSettings
from models.public import PublicRecords
from models.reference import reference
from models.store import MANIFEST, WEIGHTS, load
from server.errors import PublishError
from server.publishing.gates import Gate, evaluation_gate, run_gates
from server.publishing.public_data import PublicData, public_data
from server.publishing.signing import Signer
from server.runs import RunDirectory, now
from strategies.runfile import parse
from strategies.settings import PublishSettings, RunSettings

if TYPE_CHECKING:
    from torch import nn

    from models.compress.measure import Measured
    from models.task import Task

BUNDLES = "bundles"
TRUST = (
    "Every department clips and noises its own steps on its own machine and trusts nobody for it; what is not proven "
    "is listed in the audit of its ledger."
)

Watch = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A run that went through its gates, and the signed bundle that came of it if all of them passed."""

    name: str
    gates: list[Gate]
    compressed: Compressed | None
    bundle: Path | None
    digest: str | None

    @property
    def passed(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)


def make(
    directory: RunDirectory,
    signer: Signer,
    *,
    settings: PublishSettings | None = None,
    evidence: Path | None = None,
    governance: bytes | None = None,
    calibration: str | None = None,
    without_privacy: bool = False,
    watch: Watch = lambda _: None,
) -> Draft:
    """Judge a run, and make its signed bundle under ``bundles/`` in its folder.

    Args:
        directory: a finished run.
        signer: the key to sign with.
        settings: in the place of the run file's ``[publish]``.
        evidence, governance, without_privacy: as for :func:`server.publishing.gates.run_gates`.
        calibration: a public source to calibrate and distil with.
        watch: is told what is being done.

    Raises:
        PublishError: the bundle cannot be written.
        ModelError, DataError, RunError: what is read is missing, damaged or private.
    """
    run = parse(directory.document()["settings"], where=str(directory.path / "run.json"))
    wanted = settings or run.publish
    # A plan that cannot be is found out before anything is measured.
    plan = (
        CompressionPlan.parse(wanted.variants, tolerance=wanted.tolerance)
        if wanted.variants
        else CompressionPlan.usual(run.model.name, tolerance=wanted.tolerance)
    )
    model, task, manifest = load(directory.model_directory)
    name = wanted.name or str(manifest["name"])
    watch("verifying the ledgers")
    gates = run_gates(directory, manifest, evidence=evidence, governance=governance, without_privacy=without_privacy)
    if not all(gate.passed for gate in gates):
        return Draft(name=name, gates=gates, compressed=None, bundle=None, digest=None)
    simulated = directory.document()["engine"] != "federation"
    data = public_data(run.data, task.signature, simulated=simulated, calibration=calibration)
    folder = directory.path / BUNDLES
    draft = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        (draft / "model").mkdir(parents=True)
        compressed = compress(
            model,
            name=run.model.name,
            task=task,
            hyperparameters=manifest["hyperparameters"],
            plan=plan,
            calibration=data.calibration,
            evaluation=data.evaluation,
            folder=draft,
            watch=watch,
        )
        float32 = next(one for one in compressed.kept if one.name == FULL)
        gates.append(
            evaluation_gate(
                float32.metric,
                float32.score,
                records=data.evaluation,
                released=manifest["metrics"],
                floor=wanted.min_accuracy,
            )
        )
        if not gates[-1].passed:
            return Draft(name=name, gates=gates, compressed=compressed, bundle=None, digest=None)
        watch("writing and signing the bundle")
        parts = Parts(
            directory=directory, run=run, name=name, description=wanted.description or run.publish.description
        )
        parts.write(draft, model=model, task=task, manifest=manifest, compressed=compressed, data=data, gates=gates)
        digest = seal(draft, signer.key)
        verify(draft, [signer.public])
        bundle = folder / digest[:16]
        draft.rename(bundle)
    except OSError as error:
        raise PublishError(
            f"{error.filename or folder}: {error.strerror or error}; nothing was published: free some space, then again"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Draft(name=name, gates=gates, compressed=compressed, bundle=bundle, digest=digest)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Writes what is in a bundle beside its variants; docs/bundle-spec.md says what each file holds."""

    directory: RunDirectory
    run: RunSettings
    name: str
    description: str

    def write(
        self,
        folder: Path,
        *,
        model: nn.Module,
        task: Task,
        manifest: Mapping[str, Any],
        compressed: Compressed,
        data: PublicData,
        gates: list[Gate],
    ) -> None:
        """Write every document; raises :class:`ModelError` or OSError where one cannot be."""
        for file in (WEIGHTS, MANIFEST):
            write_atomic(folder / "model" / file, (self.directory.model_directory / file).read_bytes())
        created = now()
        document = self._document(task, manifest, compressed.kept, created)
        privacy = dict(manifest["privacy"]) | {"trust_model": TRUST if self.run.privacy.on else "none"}
        evaluation = {
            "metric": document["variants"][0]["metric"],
            "records": 0 if data.evaluation is None else len(data.evaluation.inputs),
            "source": None if data.evaluation is None else data.evaluation.source,
            "run": manifest["metrics"],
            "variants": [one.to_dict() for one in compressed.kept],
            "dropped": [one.to_dict() for one in compressed.dropped],
            "gates": [gate.to_dict() for gate in gates],
        }
        lineage = self._lineage(manifest, data, created)
        described = data.evaluation or data.calibration
        scores = scores_of(model, described)
        text, table = card(document, privacy, evaluation, lineage)
        written = {
            "bundle.json": document,
            "privacy.json": privacy,
            "evaluation.json": evaluation,
            "lineage.json": lineage,
            "reference.json": reference(
                described.inputs,
                scores,
                origin=described.origin,
                features=_features(self.run.data),
                task=document["task"] | {"signature": document["signature"]},
            ),
            "card.json": table,
        }
        for file, content in written.items():
            write_atomic(folder / file, encoded(content))
        write_atomic(folder / "card.md", text.encode())

    def _document(
        self, task: Task, manifest: Mapping[str, Any], kept: tuple[Measured, ...], created: str
    ) -> dict[str, Any]:
        """``bundle.json``."""
        scoring = task.to_dict()
        return {
            "format": FORMAT,
            "name": self.name,
            "description": self.description,
            "created": created,
            "run": self.directory.name,
            "signature": scoring.pop("signature"),
            "task": scoring,
            "model": {
                "name": manifest["model"],
                "hyperparameters": manifest["hyperparameters"],
                "file": f"model/{WEIGHTS}",
            },
            "data": manifest["data"],
            "default": FULL,
            "variants": [_variant(one) for one in kept],
        }

    def _lineage(self, manifest: Mapping[str, Any], data: PublicData, created: str) -> dict[str, Any]:
        """``lineage.json``: from which run, ledgers and software this came."""
        envelopes = self.directory.sealing()
        calibration = data.calibration
        return {
            "created": created,
            "run": self.directory.name,
            "engine": self.directory.document()["engine"],
            "rounds": manifest["rounds"],
            "spec_digest": manifest["spec_digest"],
            "weights_sha256": manifest["weights_sha256"],
            "versions": manifest["versions"],
            "ledgers": manifest.get("ledgers", {}),
            "roster_sha256": None if envelopes is None else hashlib.sha256(envelopes.roster).hexdigest(),
            "permit_sha256": None if envelopes is None else hashlib.sha256(envelopes.permit).hexdigest(),
            "calibration": {
                "origin": calibration.origin,
                "source": calibration.source,
                "digest": calibration.digest,
                "records": len(calibration.inputs),
            },
        }


def _variant(measured: Measured) -> dict[str, Any]:
    """A variant as ``bundle.json`` has it."""
    known = measured.to_dict() | {"format": "onnx"}
    return {field: known[field] for field in Variant.model_fields}


def scores_of(model: nn.Module, records: PublicRecords) -> Any:
    """A model's raw scores on public records: float32 ``(N, outputs)``."""
    import torch  # noqa: PLC0415 - slow to import

    model.eval()
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(records.inputs[i : i + 512].copy())) for i in range(0, len(records.inputs), 512)
        ]
    return torch.cat(parts).numpy()


def encoded(document: Mapping[str, Any]) -> bytes:
    """A document for people and diffs; raises :class:`ModelError` where it is not plain JSON."""
    try:
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ModelError(f"bundle: a field is not plain JSON ({error})") from None


def _features(settings: DataSettings) -> list[str] | None:
    """Names of a table's features."""
    return feature_names(settings) if settings.kind == "tabular" else None
