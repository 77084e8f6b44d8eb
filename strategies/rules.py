"""Client rules: what a strategy adds to a department's noised gradient.

A rule is a function of the current parameters that returns one tensor per parameter; the
training step adds it *after* clipping and noise, so it reads only what is already released.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from strategies.lanes import FloatVector

Correction = Callable[[list[nn.Parameter]], list[torch.Tensor]]


def proximal(anchor: FloatVector, strength: float) -> Correction:
    """FedProx (Li et al. 2020, eq. 2): ``strength * (w - anchor)``, anchor = received model (P,)."""
    received = torch.from_numpy(anchor)

    def correction(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        anchors = split_like(received, parameters)
        return [strength * (w.detach() - a) for w, a in zip(parameters, anchors, strict=True)]

    return correction


def control_variates(server: FloatVector, own: FloatVector) -> Correction:
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1 line 10): ``c - c_i``, both of shape (P,)."""
    difference = torch.from_numpy(server - own)

    def correction(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        return split_like(difference, parameters)

    return correction


def next_control(
    own: FloatVector, server: FloatVector, update: FloatVector, *, steps: int, learning_rate: float
) -> FloatVector:
    """SCAFFOLD's Option II: ``c_i - c - update / (K * lr)``, from the noised trajectory only."""
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and such a vector is never sent
        return (own - server - update.astype(np.float64) / (steps * learning_rate)).astype(np.float32)


def split_like(vector: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """Views of a flat vector in the shapes of ``parameters``."""
    pieces = torch.split(vector, [p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
