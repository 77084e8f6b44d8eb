"""A model in a folder: ``model.safetensors`` and the ``manifest.json`` that says what it is.

Two files cannot be replaced in one step, so the manifest is the commit point: new weights are first laid
down as ``model.safetensors.next``, then the manifest is replaced, then the weights take their name. A
reader takes whichever of the two weight files has the digest in the manifest, so at every instant, and
after any crash, the folder holds one complete version. One writer per folder at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models import zoo
from models.errors import ModelError, SignatureMismatch, StoreError
from models.files import read_bounded, sync_folder, write_atomic
from models.task import Task
from models.vector import layout, layout_digest

FORMAT: Final = "confide-model/1"
WEIGHTS: Final = "model.safetensors"
MANIFEST: Final = "manifest.json"

_MANIFEST_LIMIT: Final = 2**20
_WEIGHTS_LIMIT: Final = 4 * zoo.MAX_PARAMETERS + 2**20
_OURS: Final = ("model", "hyperparameters", "signature", "task")


def describe(name: str, task: Task, hyperparameters: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the fields a manifest must have: ``model``, ``hyperparameters``, ``signature`` and ``task``.

    Raises:
        UnknownModel, BadHyperparameter: the zoo refuses the name or a value.
    """
    scoring = task.to_dict()
    return {
        "model": name,
        "hyperparameters": zoo.validate_hyperparameters(name, hyperparameters or {}),
        "signature": scoring.pop("signature"),
        "task": scoring,
    }


def save(directory: Path, model: nn.Module, *, manifest: Mapping[str, object]) -> Path:
    """Store a model, replacing the version there; on an error that version stays whole.

    Args:
        directory: the folder; made if missing.
        model: as :func:`models.zoo.build` made it.
        manifest: the fields of :func:`describe` and any others JSON can hold. ``format``, ``layout_sha256``
            and ``weights_sha256`` are written for it, so the manifest of :func:`load` can be given back.

    Returns:
        ``directory``.

    Raises:
        SignatureMismatch: the model is not the one the manifest describes, or holds a NaN or an infinity.
        StoreError: a manifest field is missing or not JSON, or the operating system refused to write.
    """
    name, values, task = _described(manifest, directory / MANIFEST)
    tensors = {key: p.detach().cpu().contiguous() for key, p in model.named_parameters()}
    if layout(model) != layout(zoo.outline(name, task.signature, values)):
        raise SignatureMismatch(
            f"model: is no {name!r} with these hyper-parameters and this signature; fix the manifest"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise SignatureMismatch("model: holds a NaN or an infinity; store the last sound version instead")
    weights = safetensors.torch.save(tensors)
    digests = {"layout_sha256": layout_digest(model), "weights_sha256": hashlib.sha256(weights).hexdigest()}
    encoded = _encode({**manifest, "format": FORMAT, **digests}, directory / MANIFEST)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be made ({error.strerror}); choose a writable folder") from error
    _commit(directory, weights, encoded)
    return directory


def load(directory: Path) -> tuple[nn.Module, Task, dict[str, Any]]:
    """Return a stored model on the CPU, its task and its manifest, all verified.

    Raises:
        StoreError: a file is missing, too large, malformed or not the one the manifest names.
        ModelError: the manifest describes a model this version cannot build.
    """
    path = directory / MANIFEST
    manifest = _decode(read_bounded(path, _MANIFEST_LIMIT), path)
    name, values, task = _described(manifest, path)
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{path}: format={manifest.get('format')!r}; this version reads {FORMAT!r} only")
    # A seed keeps the caller's generator as it was; the weights drawn are overwritten.
    model = zoo.build(name, task.signature, values, seed=0)
    if manifest.get("layout_sha256") != layout_digest(model):
        raise StoreError(f"{path}: describes another layout than {name!r} has here; use the version that saved it")
    _fill(model, *_weights(directory, manifest.get("weights_sha256")))
    return model, task, manifest


def _commit(directory: Path, weights: bytes, manifest: bytes) -> None:
    """Replace both files, the manifest being the commit point."""
    staged, path = directory / f"{WEIGHTS}.next", directory / MANIFEST
    _settle(directory)
    write_atomic(staged, weights)
    try:
        write_atomic(path, manifest)
    except StoreError:
        # A failed sync may come after the manifest was replaced: then the staged weights are the version.
        with contextlib.suppress(OSError):
            if not path.exists() or path.read_bytes() != manifest:
                staged.unlink()
        raise
    # From here the new version is complete; should the rename fail, readers find it under its staged name.
    with contextlib.suppress(OSError):
        os.replace(staged, directory / WEIGHTS)  # noqa: PTH105  # one seam for tests, beside os.fsync
        sync_folder(directory)


def _settle(directory: Path) -> None:
    """Finish a commit that stopped before its rename, lest staging overwrite the weights in use."""
    staged, path = directory / f"{WEIGHTS}.next", directory / MANIFEST
    if not (staged.exists() and path.exists()):
        return
    expected = _decode(read_bounded(path, _MANIFEST_LIMIT), path).get("weights_sha256")
    if hashlib.sha256(read_bounded(staged, _WEIGHTS_LIMIT)).hexdigest() == expected:
        try:
            os.replace(staged, directory / WEIGHTS)  # noqa: PTH105  # as above
        except OSError as error:
            raise StoreError(
                f"{directory / WEIGHTS}: cannot be replaced ({error.strerror or error}); "
                "free space or fix permissions, then try again"
            ) from error


def _weights(directory: Path, expected: object) -> tuple[bytes, Path]:
    """Return the weights the manifest names, under either name."""
    path, staged = directory / WEIGHTS, directory / f"{WEIGHTS}.next"
    for candidate in [each for each in (path, staged) if each.exists()] or [path]:
        data = read_bounded(candidate, _WEIGHTS_LIMIT)
        if hashlib.sha256(data).hexdigest() == expected:
            return data, candidate
    raise StoreError(f"{path}: not the weights {MANIFEST} names (SHA-256 differs); restore both files from one copy")


def _fill(model: nn.Module, data: bytes, path: Path) -> None:
    """Copy verified tensors into the model."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: no safetensors file; restore it from a copy") from error
    parameters = dict(model.named_parameters())
    if tensors.keys() != parameters.keys():
        raise StoreError(f"{path}: its tensors are not the model's parameters; restore both files from one copy")
    for name, parameter in parameters.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tensor.shape != parameter.shape or not bool(tensor.isfinite().all()):
            raise StoreError(
                f"{path}: tensor {name!r} must be finite float32 {tuple(parameter.shape)}; restore it from a copy"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _described(manifest: Mapping[str, Any], path: Path) -> tuple[str, dict[str, object], Task]:
    """Return the model, hyper-parameters and task a manifest names."""
    missing = [key for key in _OURS if key not in manifest]
    if missing:
        raise StoreError(f"{path}: no field {', '.join(missing)}; build the manifest with models.store.describe")
    name, values, scoring = manifest["model"], manifest["hyperparameters"], manifest["task"]
    if not isinstance(values, Mapping) or not isinstance(scoring, Mapping) or "signature" in scoring:
        raise StoreError(f"{path}: 'hyperparameters' and 'task' must be objects; build them with models.store.describe")
    try:
        values = zoo.validate_hyperparameters(name, values)
        return name, values, Task.from_dict({**scoring, "signature": manifest["signature"]})
    except StoreError:
        raise
    except ModelError as error:
        raise type(error)(f"{path}: {error}") from error


def _encode(manifest: Mapping[str, object], path: Path) -> bytes:
    """Return a manifest as JSON for people and diffs."""
    try:
        encoded = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: a manifest field is not plain JSON ({error}); use finite numbers and strings"
        ) from error
    if len(encoded) > _MANIFEST_LIMIT:
        raise StoreError(f"{path}: {len(encoded)} bytes; a manifest holds at most {_MANIFEST_LIMIT}, shorten a field")
    return encoded


def _decode(data: bytes, path: Path) -> dict[str, Any]:
    """Return a manifest's fields."""
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON; restore it from a copy") from error
    if not isinstance(manifest, dict):
        raise StoreError(f"{path}: must hold one JSON object; restore it from a copy")
    return manifest
