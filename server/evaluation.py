"""Measuring a global model on public test data: free of privacy cost, and the server's own work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs.prepare import Prepared, prepare_test
from models.inputs.schema import DataSettings
from models.measure import summed_lanes
from models.task import Task
from models.vector import load_vector
from strategies.lanes import FloatVector


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
        return task.metrics(summed_lanes(model, task, self.inputs, self.targets))


def load_test(settings: DataSettings) -> TestSet | None:
    """The run's public test set, or None if it names none. Raises :class:`models.inputs.errors.DataError`."""
    prepared = prepare_test(settings)
    return None if prepared is None else as_test_set(prepared)


def as_test_set(prepared: Prepared) -> TestSet:
    """Public records as a test set."""
    return TestSet(inputs=torch.from_numpy(prepared.inputs), targets=torch.from_numpy(prepared.targets))
