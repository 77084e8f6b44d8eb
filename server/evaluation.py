"""Measuring a global model on public test data: free of privacy cost, and the server's own work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs.prepare import prepare_test
from models.inputs.schema import DataSettings
from models.task import Task
from models.vector import load_vector
from strategies.wire import FloatVector

CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Public records: ``inputs`` as the model takes them, ``targets`` as the task does."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    inputs: Tensor
    targets: Tensor

    def metrics(self, model: nn.Module, task: Task, vector: FloatVector | None = None) -> dict[str, float]:
        """Metrics of ``model`` (with parameters ``vector``, if given) on these records."""
        if vector is not None:
            load_vector(model, vector)
        lanes = torch.zeros(len(task.lane_names), dtype=torch.float64)
        model.eval()
        with torch.no_grad():
            for start in range(0, len(self.inputs), CHUNK):
                chunk = slice(start, start + CHUNK)
                lanes += task.lanes(model(self.inputs[chunk]), self.targets[chunk])
        return task.metrics(lanes.numpy())


def load_test(settings: DataSettings) -> TestSet | None:
    """The run's public test set, or None if it names none. Raises :class:`models.inputs.errors.DataError`."""
    prepared = prepare_test(settings)
    if prepared is None:
        return None
    return TestSet(inputs=torch.from_numpy(prepared.inputs), targets=torch.from_numpy(prepared.targets))
