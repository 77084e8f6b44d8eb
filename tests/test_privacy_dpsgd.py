"""The private training step: what it adds, what it divides by, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from privacy_cases import batch, gap, losses, make, one_by_one
from scipy import stats
from torch import Tensor, nn

from privacy.dpsgd import PrivateTrainer, SecureOptimizer
from privacy.errors import NonFiniteModel, PlanExceeded, PrivacyError, UnsupportedModule
from privacy.gradients.methods import METHODS, build, supported
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan

PLAN = PrivacyPlan(
    sampling_rate=0.5,
    noise_multiplier=2.0,
    max_grad_norm=0.5,
    steps_per_round=3,
    rounds=2,
    declared_size=40,
    delta=1e-6,
)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", ["mlp", "lstm", "cnn"])
@pytest.mark.parametrize("method", ["bookkeeping", "hooks", "vmap"])
def test_steps_are_dp_sgd_written_out(name: str, method: str) -> None:
    """Against algorithm 1 of Abadi et al. in eight lines, from the same random stream."""
    model, reference = make(name), make(name)
    inputs, targets = batch(name, 12)
    trainer = PrivateTrainer(model, losses, PLAN, method=method)
    assert trainer.method == method
    done = trainer.train(inputs, targets, learning_rate=0.1, momentum=0.5, random=SecureRandom.seeded(3))
    assert done == 3
    random = SecureRandom.seeded(3)
    velocity = [torch.zeros_like(p) for p in reference.parameters()]
    for _ in range(3):
        rows = torch.from_numpy(random.bernoulli(12, 0.5).nonzero()[0])
        sums = one_by_one(reference, inputs[rows], targets[rows], 0.5)
        noise = random.normal64(sum(s.numel() for s in sums), 2.0 * 0.5)
        with torch.no_grad():
            for p, v, s, n in zip(
                reference.parameters(),
                velocity,
                sums,
                np.split(noise, np.cumsum([s.numel() for s in sums])[:-1]),
                strict=True,
            ):
                v.mul_(0.5).add_((s + torch.from_numpy(n).float().view_as(s)) / (0.5 * 40))
                p.sub_(0.1 * v)
    assert gap(weights(model), weights(reference)) <= 2e-6


def test_noise_alone_has_the_plans_scale_and_the_public_divisor() -> None:
    """With no records, the update is -lr * N(0, (sigma C)**2) / (q * declared_size), and all steps count."""
    model = nn.Linear(100, 200, bias=False)
    before = model.weight.detach().clone()
    seen: list[tuple[int, int]] = []
    done = PrivateTrainer(model, losses, PLAN).train(
        torch.zeros(0, 100),
        torch.zeros(0, dtype=torch.int64),
        learning_rate=0.5,
        random=SecureRandom.seeded(1),
        progress=lambda step, of: seen.append((step, of)),
    )
    assert done == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    update = (model.weight.detach() - before).double().flatten().numpy()
    assert stats.kstest(update / (0.5 * math.sqrt(3) * 2.0 * 0.5 / 20), "norm").pvalue > 0.01


def test_neither_rate_nor_divisor_depends_on_the_number_of_records() -> None:
    """Opacus divides by a size of its own reckoning (100 of 1000 records, 91 of 1001)."""
    updates = []
    for rows in (1000, 1001):
        model = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(0.0)
        plan = replace(PLAN, sampling_rate=1.0, steps_per_round=1, noise_multiplier=1e-6, declared_size=500)
        trainer = PrivateTrainer(model, lambda outputs, _: outputs[:, 0], plan)
        trainer.train(torch.ones(rows, 1), torch.zeros(rows), learning_rate=1.0, random=SecureRandom.seeded(0))
        updates.append(-model.weight.item() * 500)
    assert updates == pytest.approx([500.0, 500.5], rel=1e-5)  # C = 0.5 a record


def test_sampling_is_poisson_over_rows() -> None:
    sizes = []
    included = np.zeros(200)

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.layer(x * 0))

    def counting(outputs: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(targets))
        included[targets.numpy()] += 1
        return outputs[:, 0]

    plan = replace(PLAN, sampling_rate=0.3, steps_per_round=400)
    trainer = PrivateTrainer(Counting(), counting, plan, method="linear")
    trainer._checked = True  # leaves the first batch to be seen once
    trainer.train(torch.zeros(200, 1), torch.arange(200), learning_rate=1e-3, random=SecureRandom.seeded(5))
    assert len(sizes) == 400
    assert stats.binomtest(sum(sizes), 200 * 400, 0.3).pvalue > 0.001
    assert np.var(sizes) == pytest.approx(200 * 0.3 * 0.7, rel=0.3)
    assert stats.kstest(stats.binom.cdf(included, 400, 0.3), "uniform").statistic < 0.15


@pytest.mark.parametrize("method", list(METHODS))
def test_batches_may_be_empty_with_every_method(method: str) -> None:
    model = make("linear")
    plan = replace(PLAN, sampling_rate=1e-9, steps_per_round=2)
    trainer = PrivateTrainer(model, losses, plan, method=method)
    before = weights(model)
    assert trainer.train(*batch("linear", 6), learning_rate=1e-9, random=SecureRandom.seeded(2)) == 2
    assert gap(weights(model), before) > 0


def test_corrections_come_after_noise_and_division() -> None:
    for term in (0.0, 3.0):
        model = make("mlp")
        before = weights(model)
        plan = replace(PLAN, noise_multiplier=1e-6, max_grad_norm=1e-9, steps_per_round=1)

        def correction(parameters: list[nn.Parameter], term: float = term) -> list[Tensor]:
            return [torch.full_like(p, term) for p in parameters]

        PrivateTrainer(model, losses, plan).train(
            *batch("mlp", 6), learning_rate=0.1, random=SecureRandom.seeded(1), correction=correction
        )
        assert gap([b - 0.1 * term for b in before], weights(model)) <= 1e-6


def test_the_plan_bounds_the_steps() -> None:
    model = make("mlp")
    trainer = PrivateTrainer(model, losses, PLAN)
    inputs, targets = batch("mlp", 6)
    for steps in (4, -1):
        with pytest.raises(PlanExceeded, match="the plan pays for 3"):
            trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1), steps=steps)
    before = weights(model)
    assert trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1), steps=0) == 0
    assert gap(before, weights(model)) == 0.0
    assert trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1), steps=2) == 2
    with pytest.raises(ValueError, match="one target per record"):
        trainer.train(inputs, targets[:3], learning_rate=0.1, random=SecureRandom.seeded(1))


def test_one_batch_serves_one_step() -> None:
    model = make("mlp")
    optimizer = SecureOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        plan=PLAN,
        method=build(model, losses, "bookkeeping"),
        random=SecureRandom.seeded(1),
    )
    optimizer.batch = batch("mlp", 4)
    optimizer.step()
    with pytest.raises(PlanExceeded, match="fresh batch"):
        optimizer.step()


def test_the_model_is_left_clean_and_can_be_trained_again() -> None:
    model = make("lstm")
    model.eval()
    model.get_submodule("head").train()
    for _ in range(2):
        trainer = PrivateTrainer(model, losses, PLAN)
        trainer.train(*batch("lstm", 8), learning_rate=0.1, random=SecureRandom.seeded(1))
    assert not model.training
    assert model.get_submodule("head").training
    for p in model.parameters():
        assert p.grad is None
        assert not vars(p)
    assert trainer.method == "bookkeeping"


def test_frozen_parameters_get_no_noise() -> None:
    model = make("mlp")
    model.get_parameter("1.weight").requires_grad_(False)
    before = weights(model)
    PrivateTrainer(model, losses, PLAN).train(*batch("mlp", 6), learning_rate=0.1, random=SecureRandom.seeded(1))
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True)]
    assert moved == [False, True, True, True]


def test_a_record_that_overflows_moves_nothing() -> None:
    """The sampled rows differ by the record, the noise by nothing: the models must be equal."""
    results = []
    plan = replace(PLAN, sampling_rate=1.0)
    for value in (float("nan"), float("inf")):
        model = make("mlp")
        inputs, targets = batch("mlp", 6)
        inputs[2] = value
        PrivateTrainer(model, losses, plan).train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1))
        results.append(weights(model))
    model = make("mlp")
    inputs, targets = batch("mlp", 6)
    kept = [0, 1, 3, 4, 5]
    random = SecureRandom.seeded(1)
    # Five rows draw fewer words than six; the draw for the sixth is made up for by sampling all of them.
    random.bernoulli(0, 1.0)
    trainer = PrivateTrainer(model, losses, plan)
    trainer._sums = _Without(trainer._sums, kept)  # type: ignore[assignment]  # a stand-in with the same call
    trainer._checked = True
    trainer.train(inputs, targets, learning_rate=0.1, random=random)
    assert gap(results[0], results[1]) == 0.0
    assert gap(results[0], weights(model)) <= 1e-6


class _Without:
    """A method that sees only some rows of each batch."""

    name = "without"

    def __init__(self, inner: object, kept: list[int]) -> None:
        self.inner, self.kept = inner, kept
        self.parameters = inner.parameters  # type: ignore[attr-defined]  # any PerRecord

    def __call__(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> list[Tensor]:
        return cast("list[Tensor]", self.inner(inputs[self.kept], targets[self.kept], max_grad_norm))  # type: ignore[operator]  # ditto


def test_a_model_that_is_not_finite_is_never_returned() -> None:
    model = make("mlp")
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0] = float("nan")
    trainer = PrivateTrainer(model, losses, PLAN)
    with pytest.raises(NonFiniteModel, match=r"1\.weight"):
        trainer.train(*batch("mlp", 6), learning_rate=0.1, random=SecureRandom.seeded(1))
    model = make("mlp")
    loud = PrivateTrainer(model, losses, replace(PLAN, noise_multiplier=1e6))
    with pytest.raises(PrivacyError, match="learning_rate is too high"):
        loud.train(*batch("mlp", 6), learning_rate=3e38, random=SecureRandom.seeded(1))


class Counter(nn.Module):
    """Keeps a statistic of its inputs in a buffer."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.detach().sum()
        return cast(Tensor, self.layer(x))


def test_statistics_in_buffers_are_never_returned() -> None:
    trainer = PrivateTrainer(Counter(), losses, PLAN, method="bookkeeping")
    inputs, targets = batch("mlp", 8)
    with pytest.raises(UnsupportedModule, match="buffer total"):
        trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1))


class Outside(nn.Module):
    """Uses a weight outside its layer, which only torch.func sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(torch.tanh(self.layer(x)) @ self.layer.weight))


def test_an_inexact_method_is_given_up_or_refused() -> None:
    inputs, targets = batch("mlp", 8)
    trainer = PrivateTrainer(Outside(), losses, PLAN)
    assert trainer.method == "bookkeeping"
    trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1))
    assert trainer.method == "vmap"
    fixed = PrivateTrainer(Outside(), losses, PLAN, method="hooks")
    with pytest.raises(UnsupportedModule, match="uses a parameter outside its layer"):
        fixed.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1))


def test_mixing_layers_are_refused_before_training() -> None:
    with pytest.raises(UnsupportedModule, match="BatchNorm1d"):
        PrivateTrainer(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), losses, PLAN)
    assert supported(nn.Linear(6, 3), "linear") is None


def test_dropout_trains() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    for method in ("bookkeeping", "hooks", "vmap", "ghost", "ew"):
        trainer = PrivateTrainer(model, losses, PLAN, method=method)
        assert trainer.train(*batch("mlp", 6), learning_rate=0.1, random=SecureRandom.seeded(1)) == 3


def test_training_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 6, generator=generator)
    targets = (inputs[:, 0] > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    plan = replace(PLAN, sampling_rate=0.2, declared_size=600, steps_per_round=60, max_grad_norm=1.0)
    PrivateTrainer(model, losses, plan).train(inputs, targets, learning_rate=1.0, random=SecureRandom.seeded(4))
    assert float((model(inputs).argmax(1) == targets).float().mean()) > 0.9


@pytest.mark.parametrize("method", ["bookkeeping", "ew", "hooks", "linear"])
def test_records_that_are_already_learnt_are_no_reason_to_stop(method: str) -> None:
    """Gradients near zero say nothing about a method's exactness: the check must not refuse it for them."""
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([14.0, 0.0]))  # class 0 with probability 1 - 8e-7
    plan = PrivacyPlan(
        sampling_rate=1.0,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_round=1,
        rounds=1,
        declared_size=32,
        delta=1e-5,
    )
    inputs, targets = torch.ones(32, 4), torch.zeros(32, dtype=torch.int64)
    trainer = PrivateTrainer(model, losses, plan, method=method)
    assert trainer.train(inputs, targets, learning_rate=0.1, random=SecureRandom.seeded(1)) == 1
