"""A model on many records, in chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.task import Task

CHUNK = 1024


def summed_lanes(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Return the metric lanes of ``model`` summed over records: float64 ``(L,)``, exact and without noise.

    Leaves the model in evaluation mode. Raises :class:`models.errors.SignatureMismatch` as ``Task.lanes``.
    """
    lanes = torch.zeros(len(task.lane_names), dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(inputs), CHUNK):
            chunk = slice(start, start + CHUNK)
            lanes += task.lanes(model(inputs[chunk]), targets[chunk])
    return lanes.numpy()


def scores_of(model: nn.Module, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Return a model's raw scores, float32 ``(N, outputs)``, of inputs ``(N, *shape)``; leaves its mode as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            # torch.tensor copies: the arrays of public records cannot be written to.
            parts = [model(torch.tensor(inputs[at : at + CHUNK])) for at in range(0, len(inputs), CHUNK)]
    finally:
        model.train(training)
    return np.asarray(torch.cat(parts).float().numpy())
