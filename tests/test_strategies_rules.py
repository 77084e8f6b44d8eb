"""Client rules and server optimisers against their papers' formulas, written out again here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from federation_cases import department, site
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from client.plain import PlainTrainer
from privacy.noise import SecureRandom
from simulations.engine import LocalGrid
from strategies import rules
from strategies.server_optimizers import OPTIMIZERS, apply
from strategies.settings import STRATEGIES, StrategySettings, TrainingSettings

SIZES = st.integers(1, 6)


def floats(size: int, bound: float = 10) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.float32, size, elements=st.floats(-bound, bound, width=32))


class TwoShapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.second = nn.Parameter(torch.tensor([10.0, 20.0]))


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([t.reshape(-1) for t in tensors]).numpy()


@given(anchor=floats(8), strength=st.floats(0, 100))
def test_fedprox_pulls_towards_the_received_model(anchor: np.ndarray, strength: float) -> None:
    model = TwoShapes()
    parameters = list(model.parameters())
    own = flat([p.detach() for p in parameters])
    pulled = rules.proximal(anchor, strength)(parameters)
    assert [p.shape for p in pulled] == [p.shape for p in parameters]
    np.testing.assert_allclose(flat(pulled), strength * (own - anchor), rtol=1e-6, atol=1e-6)


@given(server=floats(8), own=floats(8))
def test_scaffold_corrects_by_the_difference_of_variates(server: np.ndarray, own: np.ndarray) -> None:
    corrected = rules.control_variates(server, own)(list(TwoShapes().parameters()))
    assert flat(corrected).tolist() == (server - own).tolist()


@given(own=floats(5), server=floats(5), update=floats(5), steps=st.integers(1, 50), rate=st.floats(1e-3, 10))
def test_scaffold_s_second_option(
    own: np.ndarray, server: np.ndarray, update: np.ndarray, steps: int, rate: float
) -> None:
    # Karimireddy et al. 2020, algorithm 1, line 12 (ii): c_i - c + (x - y_i) / (K * lr)
    following = rules.next_control(own, server, update, steps=steps, learning_rate=rate)
    exact = own.astype(np.float64) - server + (0 - update.astype(np.float64)) / (steps * rate)
    assert following.dtype == np.float32
    np.testing.assert_allclose(following, exact, rtol=1e-5, atol=1e-5)


def test_a_correction_outlives_empty_batches() -> None:
    """The first batch may be empty; zeroing gradients must then not write into the correction."""
    training = TrainingSettings(local_steps=4, sampling_rate=1e-9, learning_rate=1.0)
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    data = department("north").train
    PlainTrainer(model, lambda outputs, _targets: outputs.sum(dim=1), training, 40).train(
        data.inputs,
        data.targets,
        learning_rate=1.0,
        random=SecureRandom.seeded(1),
        correction=rules.control_variates(np.ones(4, np.float32), np.zeros(4, np.float32)),
    )
    assert model.weight.detach().flatten().tolist() == [-4.0] * 4  # four steps, each by the whole correction


class Reference:
    """Reddi et al. 2021, algorithm 2, one step at a time in float64; FedAvgM after Hsu et al. 2019."""

    def __init__(self, name: str, settings: StrategySettings, size: int) -> None:
        self.name, self.s = name, settings
        self.m, self.v = np.zeros(size), np.full(size, settings.tau**2)
        self.velocity = np.zeros(size)

    def step(self, mean: np.ndarray) -> np.ndarray:
        s = self.s
        if self.name in {"fedavg", "fedprox", "scaffold"}:
            return s.server_learning_rate * mean
        if self.name == "fedavgm":
            self.velocity = s.server_momentum * self.velocity + mean
            return s.server_learning_rate * self.velocity
        self.m = s.beta1 * self.m + (1 - s.beta1) * mean
        if self.name == "fedadam":
            self.v = s.beta2 * self.v + (1 - s.beta2) * mean**2
        else:
            self.v = self.v - (1 - s.beta2) * mean**2 * np.sign(self.v - mean**2)
        return s.server_learning_rate * self.m / (np.sqrt(self.v) + s.tau)


@pytest.mark.parametrize("name", STRATEGIES)
@given(
    means=st.lists(hnp.arrays(np.float64, 4, elements=st.floats(-5, 5)), min_size=1, max_size=8),
    start=floats(4),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0, 0.999),
    momentum=st.floats(0, 0.99),
    rate=st.floats(1e-3, 2),
    tau=st.floats(1e-4, 0.1),
)
def test_server_optimisers_follow_the_paper(
    name: Any,
    means: list[np.ndarray],
    start: np.ndarray,
    beta1: float,
    beta2: float,
    momentum: float,
    rate: float,
    tau: float,
) -> None:
    settings = StrategySettings(
        name=name,
        beta1=beta1,
        beta2=beta2,
        server_momentum=momentum,
        server_learning_rate=rate,
        tau=tau,
    )
    reference, model, state = Reference(name, settings, 4), start, {}
    for mean in means:
        before = model.copy()
        expected = (model + reference.step(mean)).astype(np.float32)
        following, state = apply(settings, model, mean, state)
        assert following.dtype == np.float32
        np.testing.assert_allclose(following, expected, rtol=1e-6, atol=1e-7)
        assert (model == before).all()  # the given model is never written to
        model = following


def test_every_strategy_has_an_optimiser() -> None:
    assert set(OPTIMIZERS) == set(STRATEGIES)


@pytest.mark.filterwarnings("error")
def test_an_overflow_is_infinite_rather_than_a_warning() -> None:
    model = np.full(2, 3e38, np.float32)
    assert np.isinf(apply(StrategySettings(), model, np.full(2, 3e38), {})[0]).all()
    zeros = np.zeros(2, np.float32)
    assert np.isinf(rules.next_control(zeros, zeros, model, steps=1, learning_rate=1e-6)).all()


def test_scaffold_with_two_sites_is_the_loop_written_by_hand() -> None:
    from federation_cases import settings_of
    from test_strategies_rounds import conduct_rounds

    from strategies.agreement import model_of, task_of

    settings = settings_of(
        strategy={"name": "scaffold", "server_learning_rate": 0.7},
        training={"rounds": 4, "local_steps": 3, "sampling_rate": 1.0, "learning_rate": 0.3},
    )
    data = {name: department(name, count, seed) for name, count, seed in (("a", 24, 1), ("b", 60, 2))}
    state, _ = conduct_rounds(LocalGrid({name: site(own) for name, own in data.items()}), settings)

    task, model = task_of(settings), model_of(settings, seed=0)
    weights = list(model.parameters())
    x = flat([p.detach() for p in weights]).astype(np.float64)
    c, c_own = np.zeros_like(x), {name: np.zeros_like(x) for name in data}
    for _ in range(4):
        updates, controls = {}, {}
        for name, own in data.items():
            y = x.copy()
            for _ in range(3):
                torch.nn.utils.vector_to_parameters(torch.from_numpy(y).float(), weights)
                loss = task.losses(model(own.train.inputs), own.train.targets).sum() / own.declared_size
                gradient = flat(list(torch.autograd.grad(loss, weights))).astype(np.float64)
                y -= 0.3 * (gradient + c - c_own[name])
            updates[name] = y - x
            controls[name] = c_own[name] - c + (x - y) / (3 * 0.3)
        total = sum(own.declared_size for own in data.values())
        mean = sum(data[name].declared_size * updates[name] for name in data) / total
        c = c + sum(controls[name] - c_own[name] for name in data) / 2
        c_own, x = controls, x + 0.7 * mean
    np.testing.assert_allclose(state.model, x, atol=2e-5)
    assert state.control is not None
    np.testing.assert_allclose(state.control, c, atol=2e-5)
    assert np.abs(c).max() > 1e-3  # the variates do something here
