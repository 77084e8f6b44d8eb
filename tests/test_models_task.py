"""Losses and metrics against their definitions; lanes that one record cannot move by more than is claimed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    roc_auc_score,
)
from torch import Tensor

from models.errors import BadTask, SignatureMismatch, UnknownModel
from models.signature import Signature
from models.task import Task, task_for


def classes(outputs: int) -> Signature:
    return Signature(kind="vector", shape=(4,), target="classes", outputs=outputs)


def values(outputs: int = 1) -> Signature:
    return Signature(kind="vector", shape=(4,), target="value", outputs=outputs)


def scored(outputs: int, count: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, outputs, (count,), generator=generator)
    scores = torch.randn(count, outputs, generator=generator)
    scores[torch.arange(count), targets] += 1
    return scores, targets


REGRESSION = Task(signature=values(2), loss_name="mse", target_bounds=(-10.0, 30.0))
TASKS = [
    Task(signature=classes(2), loss_name="cross-entropy"),
    Task(signature=classes(2), loss_name="hinge", auroc_bins=8),
    Task(signature=classes(7), loss_name="cross-entropy"),
    Task(signature=classes(60), loss_name="hinge", loss_bound=0.5),
    REGRESSION,
]


def predicted(scores: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return scores.double().softmax(dim=1).numpy()


@pytest.mark.parametrize("outputs", [2, 3, 10, 50])
def test_classification_metrics_are_scikit_learns(outputs: int) -> None:
    scores, targets = scored(outputs)
    task = Task(signature=classes(outputs), loss_name="cross-entropy", loss_bound=100.0)
    metrics = task.metrics(task.lanes(scores, targets).numpy())
    guesses = scores.argmax(dim=1)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(targets, guesses), abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, guesses, average="macro"), abs=1e-12)
    expected = log_loss(targets, predicted(scores), labels=range(outputs))
    assert metrics["loss"] == pytest.approx(expected, abs=1e-5)


def test_macro_f1_is_over_the_classes_that_occur() -> None:
    scores, targets = torch.eye(5)[torch.tensor([0, 1, 1, 3])], torch.tensor([0, 1, 0, 0])
    task = Task(signature=classes(5), loss_name="hinge")
    expected = f1_score(targets, scores.argmax(dim=1), average="macro", zero_division=0)
    assert task.metrics(task.lanes(scores, targets).numpy())["macro_f1"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bins", [8, 32, 512])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_scikit_learns_within_a_bin(bins: int, seed: int) -> None:
    scores, targets = scored(2, seed=seed)
    task = Task(signature=classes(2), loss_name="cross-entropy", auroc_bins=bins)
    metrics = task.metrics(task.lanes(scores, targets).numpy())
    expected = roc_auc_score(targets, predicted(scores)[:, 1])
    assert abs(metrics["auroc"] - expected) <= 1 / bins
    binned = np.floor(predicted(scores)[:, 1] * bins)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(targets, binned), abs=1e-12)


def test_many_classes_have_accuracy_alone() -> None:
    scores, targets = scored(60)
    task = Task(signature=classes(60), loss_name="cross-entropy")
    assert task.lane_names == ("records", "loss", "correct")
    metrics = task.metrics(task.lanes(scores, targets).numpy())
    assert metrics.keys() == {"loss", "accuracy"}
    assert metrics["accuracy"] == pytest.approx(accuracy_score(targets, scores.argmax(dim=1)), abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_metrics_are_scikit_learns_in_original_units(outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(300, outputs, generator=generator) * 40 - 10
    scaled = torch.randn(300, outputs, generator=generator)
    task = Task(signature=values(outputs), loss_name="mse", target_bounds=(-10.0, 30.0))
    metrics = task.metrics(task.lanes(scaled, targets).numpy())
    guesses = task.unscale(scaled)
    assert guesses.min() >= -10
    assert guesses.max() <= 30
    assert metrics["mse"] == pytest.approx(mean_squared_error(targets, guesses), rel=1e-5)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(targets, guesses), rel=1e-5)
    if outputs == 1:
        assert torch.equal(task.lanes(scaled, targets[:, 0]), task.lanes(scaled, targets))
        assert torch.equal(task.losses(scaled, targets[:, 0]), task.losses(scaled, targets))


@given(low=st.floats(-1e3, 1e3), span=st.floats(1e-2, 1e6), share=st.floats(0, 1))
def test_scaling_and_back(low: float, span: float, share: float) -> None:
    task = Task(signature=values(), loss_name="mse", target_bounds=(low, low + span))
    target = torch.tensor([low + share * span], dtype=torch.float64)
    scaled = task.scale_targets(target)
    assert scaled.shape == (1, 1)
    assert scaled.abs().max() <= 1 + 1e-6
    assert task.unscale(scaled).item() == pytest.approx(target.item(), abs=1e-6 * max(abs(low), span))


def test_targets_beyond_their_public_range_are_clipped() -> None:
    assert REGRESSION.scale_targets(torch.tensor([[1e9, -1e9]])).tolist() == [[1.0, -1.0]]


def test_hinge_by_its_definition() -> None:
    scores, targets = scored(4, count=50)
    task = Task(signature=classes(4), loss_name="hinge")
    for row, target, loss in zip(scores, targets, task.losses(scores, targets), strict=True):
        rivals = [1 + row[j] - row[target] for j in range(4) if j != target]
        assert loss.item() == pytest.approx(max(0.0, max(rivals).item()), abs=1e-6)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
def test_losses_are_per_record_and_differentiable(task: Task) -> None:
    outputs = task.signature.outputs
    scores, targets = scored(outputs, count=5)
    # A wrong guess, where the hinge is not flat.
    scores[2] = 0
    wanted: Tensor = torch.rand(5, outputs) if task.loss_name == "mse" else targets
    scores.requires_grad_()
    losses = task.losses(scores, wanted)
    assert losses.shape == (5,)
    losses[2].backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert scores.grad is not None
    assert scores.grad[2].any()
    assert not scores.grad[[0, 1, 3, 4]].any()
    assert task.losses(scores[:0], wanted[:0]).shape == (0,)


NUMBER = st.floats(width=32) | st.sampled_from([math.inf, -math.inf, math.nan, 0.0, 1e30, -1e30])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
@given(data=st.data())
@settings(max_examples=60)
def test_one_record_moves_the_lanes_by_no_more_than_the_sensitivity(task: Task, data: st.DataObject) -> None:
    outputs = task.signature.outputs
    row = data.draw(st.lists(NUMBER, min_size=outputs, max_size=outputs))
    if task.loss_name == "mse":
        targets = torch.tensor([data.draw(st.lists(NUMBER, min_size=outputs, max_size=outputs))])
    else:
        targets = torch.tensor([data.draw(st.integers(0, outputs - 1))])
    lanes = task.lanes(
        torch.tensor([row], dtype=torch.float32),
        targets.float() if outputs and task.loss_name == "mse" else targets,
    )
    assert lanes.dtype == torch.float64
    assert len(lanes) == len(task.lane_names) == len(set(task.lane_names))
    assert lanes.min() >= 0
    assert lanes.max() <= 1
    assert lanes.norm().item() <= task.lane_sensitivity + 1e-12


def test_the_sensitivity_is_reached() -> None:
    """No smaller claim would be true."""
    wrong = torch.tensor([[-1e4, 1e4]])
    task = TASKS[0]
    # A right guess has a small loss, so the joint maximum is approached with a tiny loss bound.
    tight = Task(signature=classes(2), loss_name="cross-entropy", loss_bound=1e-3)
    lanes = tight.lanes(torch.tensor([[0.0, 0.1]]), torch.tensor([1]))
    assert lanes.norm().item() == pytest.approx(task.lane_sensitivity)
    assert task.lanes(wrong, torch.tensor([0])).norm().item() == pytest.approx(math.sqrt(5))
    extreme = REGRESSION.lanes(torch.ones(1, 2), torch.full((1, 2), -10.0))
    assert extreme.norm().item() == pytest.approx(REGRESSION.lane_sensitivity)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
def test_lanes_add_up(task: Task) -> None:
    outputs = task.signature.outputs
    scores, labels = scored(outputs, count=30)
    targets = torch.linspace(-10, 30, 60).view(30, 2) if task.loss_name == "mse" else labels
    whole = task.lanes(scores, targets)
    parts = task.lanes(scores[:11], targets[:11]) + task.lanes(scores[11:], targets[11:])
    torch.testing.assert_close(whole, parts)
    assert whole[0] == 30
    assert not task.lanes(scores[:0], targets[:0]).any()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1.0, 1e6]))
@settings(max_examples=40)
def test_metrics_of_noise_are_in_range_and_never_nan(task: Task, seed: int, scale: float) -> None:
    lanes = np.random.default_rng(seed).normal(scale=scale, size=len(task.lane_names))
    limits = {"loss": task.loss_bound, "mse": 1600.0, "mae": 40.0}
    for name, value in task.metrics(lanes).items():
        assert 0 <= value <= limits.get(name, 1.0), name


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
def test_nothing_seen_gives_no_metrics(task: Task) -> None:
    assert task.metrics(np.zeros(len(task.lane_names))) == {}


def test_one_class_alone_has_no_auroc() -> None:
    scores, _ = scored(2)
    metrics = TASKS[0].metrics(TASKS[0].lanes(scores, torch.ones(400, dtype=torch.int64)).numpy())
    assert metrics.keys() == {"loss", "accuracy", "macro_f1"}


def test_a_diverged_model_gets_nothing_right() -> None:
    scores, targets = torch.full((8, 2), torch.nan), torch.zeros(8, dtype=torch.int64)
    metrics = TASKS[0].metrics(TASKS[0].lanes(scores, targets).numpy())
    assert metrics["accuracy"] == 0
    assert metrics["loss"] == TASKS[0].loss_bound
    lanes = dict(zip(TASKS[0].lane_names, TASKS[0].lanes(scores, targets).tolist(), strict=True))
    assert (lanes["predicted/0"], lanes["predicted/1"], lanes["actual/0"]) == (0, 0, 8)


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64)),
        (torch.tensor(0.0), torch.zeros(1, dtype=torch.int64)),
    ],
)
def test_shapes_that_broadcasting_would_take_are_refused(scores: Tensor, targets: Tensor) -> None:
    for call in (TASKS[0].losses, TASKS[0].lanes):
        with pytest.raises(SignatureMismatch, match=r"needs outputs \(B, 2\) and targets \(B,\)"):
            call(scores, targets)


def test_regression_targets_must_match() -> None:
    for targets in (torch.zeros(4), torch.zeros(4, 1), torch.zeros(2, 4)):
        with pytest.raises(SignatureMismatch, match=r"targets \(B, 2\)"):
            REGRESSION.losses(torch.zeros(4, 2), targets)


@pytest.mark.parametrize("label", [-100, -1, 2])
def test_a_label_outside_the_classes_is_refused_without_being_told(label: int) -> None:
    with pytest.raises(SignatureMismatch, match=r"a label lies outside \[0, 2\)") as caught:
        TASKS[0].lanes(torch.zeros(1, 2), torch.tensor([label]))
    assert str(label) not in str(caught.value).replace("[0, 2)", "")


@pytest.mark.parametrize("lanes", [np.zeros(3), np.zeros((2, 2)), np.full(4, np.nan), np.full(4, np.inf)])
def test_other_lanes_are_refused(lanes: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    with pytest.raises(SignatureMismatch, match="needs 4 finite numbers"):
        REGRESSION.metrics(lanes)


CLASSES: dict[str, Any] = {"signature": classes(2), "loss_name": "hinge"}
VALUES: dict[str, Any] = {"signature": values(), "loss_name": "mse", "target_bounds": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**CLASSES, "loss_name": "mse"}, "loss='mse': target='classes' needs one of cross-entropy, hinge"),
        ({**CLASSES, "loss_name": "log"}, "loss='log'"),
        ({**CLASSES, "loss_name": ["hinge"]}, "loss="),
        ({**VALUES, "loss_name": "hinge"}, "loss='hinge': target='value' needs one of mse"),
        ({**CLASSES, "loss_bound": 0}, "loss_bound=0"),
        ({**CLASSES, "loss_bound": math.nan}, "loss_bound=nan"),
        ({**CLASSES, "loss_bound": True}, "loss_bound=True"),
        ({**CLASSES, "auroc_bins": 1}, "auroc_bins=1"),
        ({**CLASSES, "auroc_bins": 32.0}, "auroc_bins=32.0"),
        ({**CLASSES, "target_bounds": (0.0, 1.0)}, "leave it out"),
        ({**VALUES, "target_bounds": None}, "public range"),
        ({**VALUES, "target_bounds": (1.0, 1.0)}, "low < high"),
        ({**VALUES, "target_bounds": (0.0, math.inf)}, "low < high"),
        ({**VALUES, "target_bounds": [0.0, 1.0]}, "low < high"),
        ({**VALUES, "target_bounds": (0, 10**400)}, "low < high"),
        ({**VALUES, "target_bounds": (0.0, 5e-324)}, "so narrow a range"),
        ({**VALUES, "target_bounds": (1e9, 1e9 + 1)}, "so narrow a range"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadTask, match=message):
        Task(**fields)


def test_only_values_are_scaled() -> None:
    with pytest.raises(BadTask, match="only regression targets are scaled"):
        TASKS[0].unscale(torch.zeros(1, 2))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.loss_name}-{task.signature.outputs}")
def test_json_round_trip(task: Task) -> None:
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
    with pytest.raises(BadTask, match="unknown fields colour"):
        Task.from_dict({**task.to_dict(), "colour": 1})


def test_task_for() -> None:
    assert task_for("linear-svm", classes(3)).loss_name == "hinge"
    assert task_for("linear-svm", classes(3), loss="cross-entropy").loss_name == "cross-entropy"
    assert task_for("mlp", values(), target_bounds=(0.0, 2.0)).loss_name == "mse"
    with pytest.raises(BadTask, match="target_bounds=None"):
        task_for("linear", values())
    with pytest.raises(BadTask, match="loss='nll': must be one of"):
        task_for("mlp", classes(2), loss="nll")
    with pytest.raises(SignatureMismatch, match="use one of"):
        task_for("logistic", values(), target_bounds=(0.0, 1.0))
    with pytest.raises(UnknownModel, match="did you mean 'mlp'"):
        task_for("mpl", classes(2))
