"""The empirical audit on the product as it is, and on the product with faults put into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.conformance_faults import EXPECTED_CHECK, FAULTS, noise_times
from privacy import audit
from privacy.audit import run_audit
from privacy.canaries import KINDS, Canaries, make, observe
from privacy.conformance import ALPHA, Check, Observed, conformance
from privacy.dpsgd import PrivateTrainer, SecureOptimizer
from privacy.errors import UnsupportedModule
from privacy.gradients.base import PerRecord
from privacy.gradients.methods import METHODS, supported
from privacy.noise import SecureRandom

torch.set_num_threads(1)

THRESHOLD = ALPHA / 4
# Fewer rounds than in a real audit: a fault has to show in these, too.
QUICK = replace(audit.READABLE, rounds=2)
SUPPORTED = [
    (method, kind) for kind, of in KINDS.items() for method in METHODS if supported(of.build(2), method) is None
]


@cache
def prepared(kind: str) -> tuple[Canaries, NDArray[np.float64]]:
    """Canaries of a kind and the directions of those present; observing leaves both as they are."""
    coins = np.random.default_rng(1)
    canaries = make(kind, audit.CANARIES[kind], share=audit.SHARE, max_grad_norm=QUICK.max_grad_norm, coins=coins)
    return canaries, canaries.directions(canaries.present.nonzero()[0])


def checks(method: str, kind: str = "linear", *, seed: int = 1) -> dict[str, Check]:
    """The four tests on one kind of model."""
    canaries, directions = prepared(kind)
    seen = Observed(
        sums=observe(canaries, QUICK, method=method, random=lambda purpose: SecureRandom.seeded(seed, purpose)),
        directions=directions,
        sampling_rate=QUICK.sampling_rate,
        noise_multiplier=QUICK.noise_multiplier,
    )
    return {check.name: check for check in conformance(seen, threshold=THRESHOLD)}


def failing(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.verdict == "FAIL"}


@pytest.mark.parametrize(("method", "kind"), SUPPORTED)
def test_correct_code_passes(method: str, kind: str) -> None:
    found = checks(method, kind)
    assert list(found) == ["noise", "clip", "sampling", "reuse"]
    assert {check.verdict for check in found.values()} == {"CONSISTENT"}, found


@pytest.mark.parametrize("method", METHODS)
def test_correct_code_passes_again(method: str) -> None:
    assert {check.verdict for check in checks(method, seed=2).values()} == {"CONSISTENT"}


@pytest.mark.parametrize("fault", EXPECTED_CHECK)
@pytest.mark.parametrize("method", METHODS)
def test_every_fault_is_caught_with_every_method(method: str, fault: str) -> None:
    with FAULTS[fault]():
        found = checks(method, seed=3)
    assert EXPECTED_CHECK[fault] in failing(found)
    if fault != "reused seed":  # which repeats batches and noise alike, so that other tests notice it, too
        assert failing(found) == {EXPECTED_CHECK[fault]}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [*(("images", fault) for fault in EXPECTED_CHECK), ("tokens", "noise x 0.9"), ("tokens", "clip x 5")],
)
def test_faults_are_caught_on_the_other_models(kind: str, fault: str) -> None:
    with FAULTS[fault]():
        assert EXPECTED_CHECK[fault] in failing(checks("bookkeeping", kind))


def no_noise_in_every_tenth_step() -> AbstractContextManager[object]:
    honest, steps = SecureOptimizer.add_noise, count()

    def add_noise(self: SecureOptimizer) -> None:
        self.noise_multiplier = QUICK.noise_multiplier if next(steps) % 10 else 0.0
        honest(self)

    return patch.object(SecureOptimizer, "add_noise", add_noise)


def no_noise_in_the_last_tensor() -> AbstractContextManager[object]:
    honest = SecureOptimizer.add_noise

    def add_noise(self: SecureOptimizer) -> None:
        bare = self.params[-1].summed_grad.clone()
        honest(self)
        self.params[-1].grad.copy_(bare)

    return patch.object(SecureOptimizer, "add_noise", add_noise)


def one_draw_for_all_coordinates() -> AbstractContextManager[object]:
    def add_normal_(self: SecureRandom, tensor: Tensor, std: float) -> Tensor:
        return tensor.add_(self.normal(1, std))

    return patch.object(SecureRandom, "add_normal_", add_normal_)


def laplace() -> AbstractContextManager[object]:
    def add_normal_(self: SecureRandom, tensor: Tensor, std: float) -> Tensor:
        u = torch.from_numpy(self.uniform(tensor.numel())).sub_(0.5)
        return tensor.sub_(u.sign() * (1 - 2 * u.abs()).log() * std / 2**0.5)

    return patch.object(SecureRandom, "add_normal_", add_normal_)


def noise_without_the_clipping_norm() -> AbstractContextManager[object]:
    return noise_times(1 / QUICK.max_grad_norm)


def each_tensor_clipped_by_itself() -> AbstractContextManager[object]:
    def call(self: PerRecord, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.parameters]
        for row in range(len(inputs)):
            loss = self.losses(self.model(inputs[row : row + 1]), targets[row : row + 1]).sum()
            for sums, g in zip(total, torch.autograd.grad(loss, self.parameters), strict=True):
                sums.add_(g, alpha=min(1.0, max_grad_norm / (float(g.norm()) + 1e-6)))
        return total

    return patch.object(PerRecord, "__call__", call)


def first_record_of_a_batch_not_clipped() -> AbstractContextManager[object]:
    honest = PerRecord.__call__

    def call(self: PerRecord, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> list[Tensor]:
        clipped = honest(self, inputs[1:], targets[1:], max_grad_norm)
        free = honest(self, inputs[:1], targets[:1], 1e6)
        return [a + b for a, b in zip(clipped, free, strict=True)]

    return patch.object(PerRecord, "__call__", call)


def batches_of_one_size() -> AbstractContextManager[object]:
    def bernoulli(self: SecureRandom, n: int, q: float) -> NDArray[np.bool_]:
        return self.permutation(n) < round(n * q)

    return patch.object(SecureRandom, "bernoulli", bernoulli)


def twice_the_sampling_rate() -> AbstractContextManager[object]:
    honest = SecureRandom.bernoulli

    def bernoulli(self: SecureRandom, n: int, q: float) -> NDArray[np.bool_]:
        return honest(self, n, 2 * q)

    return patch.object(SecureRandom, "bernoulli", bernoulli)


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the trainer's own comparison, which would refuse a wrong method before the audit sees it."""
    with patch("privacy.dpsgd.check_exact", return_value=True):
        yield


@pytest.mark.parametrize(
    ("fault", "check", "kind"),
    [
        (no_noise_in_every_tenth_step, "noise", "linear"),
        (no_noise_in_the_last_tensor, "noise", "linear"),
        (one_draw_for_all_coordinates, "reuse", "linear"),
        (laplace, "noise", "linear"),
        (noise_without_the_clipping_norm, "noise", "linear"),
        (each_tensor_clipped_by_itself, "clip", "images"),
        (first_record_of_a_batch_not_clipped, "clip", "linear"),
        (batches_of_one_size, "sampling", "linear"),
        (twice_the_sampling_rate, "sampling", "linear"),
    ],
)
def test_other_faults_are_caught(fault: object, check: str, kind: str) -> None:
    with unchecked(), fault():  # type: ignore[operator]  # one of the functions above
        assert check in failing(checks("bookkeeping", kind))


def test_the_trainer_refuses_a_wrong_method_before_the_audit_has_to() -> None:
    with each_tensor_clipped_by_itself(), patch.object(audit, "KINDS", {"images": KINDS["images"]}):
        (found,) = run_audit(method="bookkeeping", seed=1).methods
    assert found.verdict == "FAIL"
    assert "not that of single records" in str(found.cases[0].problem)
    assert found.one_run is None
    assert found.problem == found.cases[0].problem


def test_a_step_outside_the_plan_is_noticed() -> None:
    honest = PrivateTrainer.train

    def train(self: PrivateTrainer, *args: Tensor, **options: object) -> int:
        done = honest(self, *args, **options)  # type: ignore[arg-type]  # passed on
        with torch.no_grad():
            next(self._model.parameters()).add_(1e-3)
        return done

    with patch.object(PrivateTrainer, "train", train), pytest.raises(ValueError, match="round 1: the model moved"):
        checks("linear")


def test_the_divisor_is_the_plans_and_not_the_datas() -> None:
    with patch.object(type(QUICK), "expected_batch_size", property(lambda self: self.sampling_rate * 160)):
        divided = observe_sums()
    assert np.abs(divided - observe_sums()).max() < 1e-2  # the audit undoes whatever the plan says ...
    honest = SecureOptimizer.__init__

    def init(self: SecureOptimizer, *args: object, **options: object) -> None:
        honest(self, *args, **options)  # type: ignore[arg-type]  # passed on
        self.expected_batch_size = QUICK.sampling_rate * 160

    with patch.object(SecureOptimizer, "__init__", init):  # ... and nothing else
        assert "noise" in failing(checks("linear"))


def observe_sums() -> NDArray[np.float64]:
    canaries = make("linear", 20, share=0.9, max_grad_norm=0.5, coins=np.random.default_rng(0))
    return observe(canaries, QUICK, method="linear", random=lambda purpose: SecureRandom.seeded(0, purpose))


def test_a_whole_audit_is_ready_for_json_and_names_everything() -> None:
    steps: list[tuple[int, int, str]] = []
    found = run_audit(method="ew", seed=5, progress=lambda *step: steps.append(step))
    assert found.verdict == "CONSISTENT"
    assert found.seeded
    assert found.threshold == pytest.approx(ALPHA / 8)
    assert steps == [(0, 2, "ew: linear"), (1, 2, "ew: images"), (2, 2, "done")]
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "proved" not in text
    (method,) = json.loads(text)["methods"]
    assert [case["model"] for case in method["cases"]] == ["linear", "images"]
    assert {check["threshold"] for case in method["cases"] for check in case["checks"]} == {found.threshold}
    assert method["one_run"]["epsilon"] < method["one_run"]["claimed"] < method["one_run"]["highest"]
    assert method["one_run"]["epsilon"] == pytest.approx(method["one_run"]["expected"], abs=0.5)


def test_a_source_that_repeats_itself_is_caught() -> None:
    with patch.object(audit, "KINDS", {"linear": KINDS["linear"]}):
        found = run_audit(method="linear", random=lambda _: SecureRandom.seeded(8)).methods[0]
    assert "FAIL" in {check.verdict for check in found.cases[0].checks if check.name == "reuse"}


def test_without_a_seed_every_round_has_a_generator_keyed_by_the_operating_system() -> None:
    source = audit._Source(None, None, "linear")
    first, second = source("train/1"), source("train/1")
    assert first.private
    assert first.token(32) != second.token(32)


def test_a_loose_clip_shows_in_the_bound_on_epsilon_too() -> None:
    with FAULTS["clip x 5"](), patch.object(audit, "KINDS", {"linear": KINDS["linear"]}):
        (found,) = run_audit(method="linear", seed=1).methods
    assert found.one_run is not None
    assert found.one_run.verdict == "FAIL"
    assert found.one_run.epsilon > found.one_run.claimed


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UnsupportedModule, match="method='magic'"):
        run_audit(method="magic")
