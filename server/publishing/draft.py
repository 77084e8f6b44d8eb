"""From a finished run to a registered version: gates, compression, a signed bundle, the registry.

A bundle is made beside the place where it is to be and renamed when it is whole and signed; a version is registered
only after what was uploaded has been read back and verified. So whatever stops a publication, nothing half-made can be
served, and it can simply be started again.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import strict_json
from models.bundle import seal, verify
from models.bundle_document import FORMAT, Variant
from models.card import card
from models.compress.plan import FULL, CompressionPlan
from models.compress.run import Compressed, compress
from models.files import write_atomic
from models.inputs.resolve import feature_names
from models.inputs.schema import DataSettings
from models.measure import scores_of
from models.reference import reference
from models.store import MANIFEST, WEIGHTS, load, save
from server.errors import PublishError, RunError
from server.publishing.check import Check
from server.publishing.gates import evaluation_gate, run_gates
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

SIMULATED = (
    "A simulation: one process held every department's records, clipped and noised for them, and kept no ledger."
)

Watch = Callable[[str], None]

_OF_A_RUN = {"settings": dict, "engine": str, "status": str, "spec_digest": str}
_OF_A_MANIFEST = {
    "name": str,
    "data": dict,
    "privacy": dict,
    "metrics": dict,
    "rounds": int,
    "spec_digest": str,
    "versions": dict,
    "ledgers": dict,
}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A run that went through its gates, and the signed bundle that came of it if all of them passed."""

    name: str
    gates: list[Check]
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
        PublishError: the bundle cannot be written, or the model is not the run's.
        ModelError, DataError, RunError: what is read is missing, damaged or private.
    """
    document, run = read_run(directory)
    wanted = settings or run.publish
    # A plan that cannot be is found out before anything is measured.
    plan = (
        CompressionPlan.parse(wanted.variants, tolerance=wanted.tolerance)
        if wanted.variants
        else CompressionPlan.usual(run.model.name, tolerance=wanted.tolerance)
    )
    model, task, manifest = load(directory.model_directory)
    _complete({"ledgers": {}} | manifest, _OF_A_MANIFEST, directory.model_directory / MANIFEST)
    if manifest["spec_digest"] != document["spec_digest"]:
        raise PublishError(f"{directory.model_directory}: is the model of another run; restore this run's own")
    name = wanted.name or str(manifest["name"])
    simulated = document["engine"] == "simulation"
    if evidence is not None and simulated:
        raise PublishError(f"--evidence {evidence}: a simulation has no ledgers; leave it out")
    if evidence is not None and not evidence.is_dir():
        raise PublishError(f'--evidence {evidence}: no such folder; name what "confide audit bundle" made')
    watch("judging the run" if simulated else "verifying the ledgers")
    gates = run_gates(directory, manifest, evidence=evidence, governance=governance, without_privacy=without_privacy)
    if not all(gate.passed for gate in gates):
        return Draft(name=name, gates=gates, compressed=None, bundle=None, digest=None)
    data = public_data(run.data, task.signature, simulated=simulated, calibration=calibration)
    folder = directory.path / BUNDLES
    draft = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        draft.mkdir(parents=True)
        watch("compressing, and measuring every variant")
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


def read_run(directory: RunDirectory) -> tuple[dict[str, Any], RunSettings]:
    """Return ``run.json`` and the settings in it; raises :class:`RunError` or SettingsError where it is damaged."""
    document, file = directory.document(), directory.path / "run.json"
    _complete(document, _OF_A_RUN, file)
    return document, parse(document["settings"], where=str(file))


def _complete(document: Mapping[str, Any], fields: Mapping[str, type], file: Path) -> None:
    """Refuse a document in which a field is missing or of another type."""
    for field, kind in fields.items():
        if not isinstance(document.get(field), kind):
            raise RunError(f"{file}: damaged: {field} is missing or no {kind.__name__}; restore it, or train again")


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
        gates: list[Check],
    ) -> None:
        """Write every document; raises :class:`PublishError`, :class:`ModelError` or OSError where one cannot be."""
        # The very model that was judged and compressed, whatever lies in the run's folder by now.
        save(folder / "model", model, manifest=manifest)
        created = now()
        document = self._document(task, manifest, compressed.kept, created)
        label = manifest["privacy"]
        privacy = label | {"trust_model": self._trust(label)}
        evaluation = {
            "metric": document["variants"][0]["metric"],
            "records": 0 if data.evaluation is None else len(data.evaluation.inputs),
            "source": None if data.evaluation is None else data.evaluation.source,
            "digest": None if data.evaluation is None else data.evaluation.digest,
            "run": manifest["metrics"],
            "variants": [one.to_dict() for one in compressed.kept],
            "dropped": [one.to_dict() for one in compressed.dropped],
            "gates": [gate.to_dict() for gate in gates],
        }
        lineage = self._lineage(manifest, data, created)
        described = data.evaluation or data.calibration
        scores = scores_of(model, described.inputs)
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
            try:
                encoded = strict_json.encode(content)
            except (TypeError, ValueError) as error:
                raise PublishError(f"{file}: a field is not plain JSON ({error}); correct the run's texts") from None
            write_atomic(folder / file, encoded)
        write_atomic(folder / "card.md", text.encode())

    def _trust(self, label: Mapping[str, Any]) -> str:
        """Whom the departments had to trust."""
        if label.get("mode", "off") == "off":
            return "none"
        return SIMULATED if self.directory.document()["engine"] == "simulation" else TRUST

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


def _features(settings: DataSettings) -> list[str] | None:
    """Names of a table's features."""
    return feature_names(settings) if settings.kind == "tabular" else None
