"""A model as one flat vector, in the order of ``named_parameters``: what is exchanged, summed and sealed."""

from __future__ import annotations

import hashlib
import json
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import SignatureMismatch

Layout: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


def layout(model: nn.Module) -> Layout:
    """Return the name and shape of every parameter, in the order of the vector.

    Raises:
        SignatureMismatch: the model holds something a vector of parameters would lose: a parameter that is
            not float32, or a persistent floating-point buffer (such as a running mean, which training
            changes).
    """
    stored = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        if name in stored and buffer.is_floating_point():
            raise SignatureMismatch(
                f"buffer {name!r}: statistics kept outside the parameters mix records and are not exchanged; "
                "use GroupNorm or LayerNorm instead of batch normalisation, "
                "or register a constant with persistent=False"
            )
    found: list[tuple[str, tuple[int, ...]]] = []
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise SignatureMismatch(f"parameter {name!r} is {parameter.dtype}: only float32 is exchanged; cast it")
        found.append((name, tuple(parameter.shape)))
    return tuple(found)


def layout_digest(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, that two models share when a vector of one fits the other."""
    canonical = json.dumps(layout(model), separators=(",", ":"))
    return hashlib.sha256(b"confide/layout/v1\n" + canonical.encode()).hexdigest()


def size(model: nn.Module) -> int:
    """Return the length of the model's vector."""
    return sum(parameter.numel() for parameter in model.parameters())


def to_vector(model: nn.Module) -> NDArray[np.float32]:
    """Return the parameters as one new float32 array ``(P,)``.

    Raises:
        SignatureMismatch: see :func:`layout`.
    """
    layout(model)
    vector = np.empty(size(model), dtype=np.float32)
    target = torch.from_numpy(vector)
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            end = start + parameter.numel()
            target[start:end].view(parameter.shape).copy_(parameter)
            start = end
    return vector


def load_vector(model: nn.Module, vector: NDArray[np.float32]) -> None:
    """Overwrite the parameters with a float32 array ``(P,)``; all of it is checked before any is written.

    Raises:
        SignatureMismatch: the vector has another shape or dtype, or holds a NaN or an infinity.
    """
    layout(model)
    wanted = size(model)
    if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.shape != (wanted,):
        given = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise SignatureMismatch(f"vector: needs a float32 array ({wanted},) for this model, got {given}")
    if not np.isfinite(vector).all():
        raise SignatureMismatch("vector: holds a NaN or an infinity; the update that made it must be rejected")
    # torch shares memory with writable arrays only, so an array over immutable bytes costs one copy.
    source = torch.from_numpy(np.require(vector, requirements=["C", "W"]))
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            end = start + parameter.numel()
            parameter.copy_(source[start:end].view(parameter.shape))
            start = end
