"""Server optimisers: the mean update becomes the next global model.

Adaptive Federated Optimization (Reddi et al. 2021, algorithm 2), FedAvg (McMahan et al. 2017)
and FedAvgM (Hsu et al. 2019). Each is a pure function of the model, the mean update and its own
state; all vectors have shape (P,), the model float32 and the state float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from strategies.lanes import FloatVector
from strategies.settings import StrategySettings

Vector = npt.NDArray[np.float64]
State = dict[str, Vector]
Optimizer = Callable[[StrategySettings, Mapping[str, Vector], Vector], tuple[Vector, State]]


def apply(
    settings: StrategySettings, model: FloatVector, mean: Vector, state: Mapping[str, Vector]
) -> tuple[FloatVector, State]:
    """The next model and optimiser state."""
    step, following = OPTIMIZERS[settings.name](settings, state, mean)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and the caller refuses it
        return (model + settings.server_learning_rate * step).astype(np.float32), following


def _average(_settings: StrategySettings, _state: Mapping[str, Vector], mean: Vector) -> tuple[Vector, State]:
    """The mean update itself."""
    return mean, {}


def _momentum(settings: StrategySettings, state: Mapping[str, Vector], mean: Vector) -> tuple[Vector, State]:
    """Heavy-ball momentum over rounds."""
    velocity = settings.server_momentum * state.get("velocity", np.zeros_like(mean)) + mean
    return velocity, {"velocity": velocity}


def _adaptive(second_moment: Callable[[float, Vector, Vector], Vector]) -> Optimizer:
    """FedAdam and FedYogi differ in the second moment only."""

    def optimizer(settings: StrategySettings, state: Mapping[str, Vector], mean: Vector) -> tuple[Vector, State]:
        first = settings.beta1 * state.get("first", np.zeros_like(mean)) + (1 - settings.beta1) * mean
        before = state.get("second", np.full_like(mean, settings.tau**2))
        second = second_moment(settings.beta2, before, mean * mean)
        return first / (np.sqrt(second) + settings.tau), {"first": first, "second": second}

    return optimizer


def _adam(beta2: float, before: Vector, square: Vector) -> Vector:
    return beta2 * before + (1 - beta2) * square


def _yogi(beta2: float, before: Vector, square: Vector) -> Vector:
    return before - (1 - beta2) * square * np.sign(before - square)


OPTIMIZERS: dict[str, Optimizer] = {
    "fedavg": _average,
    "fedprox": _average,
    "scaffold": _average,
    "fedavgm": _momentum,
    "fedadam": _adaptive(_adam),
    "fedyogi": _adaptive(_yogi),
}
