"""Scoring a model on many records, in chunks."""

from __future__ import annotations

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
