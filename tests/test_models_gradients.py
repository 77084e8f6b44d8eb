"""Per-record gradients of every model agree with training on one record at a time."""

from __future__ import annotations

import warnings

import pytest
import torch
from models_cases import CASES, Case, records_of, targets_of
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from models import zoo

RECURRENT = ("lstm", "gru")
FEEDFORWARD = [case for case in CASES if case.name not in RECURRENT]


def batch_of(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    model = zoo.build(case.name, case.signature, seed=5)
    records = records_of(case.signature, 6, seed=2)
    targets = targets_of(case.signature, records)
    if case.signature.vocabulary is not None:
        records[0, 3:] = 0
        records[1] = 0
        records[2] = records[2, 0]  # one token used several times
    return model, records, targets


def one_at_a_time(case: Case, model: nn.Module, records: Tensor, targets: Tensor) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    parameters = dict(model.named_parameters())
    for record, target in zip(records, targets, strict=True):
        loss = case.task.losses(model(record[None]), target[None]).sum()
        for name, each in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            rows[name].append(each)
    return {name: torch.stack(each) for name, each in rows.items()}


@pytest.mark.parametrize("case", FEEDFORWARD, ids=lambda case: case.label)
def test_hooks(case: Case) -> None:
    model, records, targets = batch_of(case)
    expected = one_at_a_time(case, model, records, targets)
    with warnings.catch_warnings():
        # Integer inputs get no gradient, which torch's full backward hooks remark on.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        hooked = GradSampleModule(model, loss_reduction="sum")
        case.task.losses(hooked(records), targets).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name, parameter in model.named_parameters():
        assert (parameter.grad_sample - expected[name]).abs().max() <= 1e-5, name  # type: ignore[attr-defined]  # set by Opacus
    assert max(each.abs().max().item() for each in expected.values()) > 1e-3


@pytest.mark.parametrize("case", FEEDFORWARD, ids=lambda case: case.label)
def test_vectorised_functional_call(case: Case) -> None:
    model, records, targets = batch_of(case)
    expected = one_at_a_time(case, model, records, targets)

    def loss(parameters: dict[str, Tensor], record: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(model, parameters, (record[None],))
        return case.task.losses(outputs, target[None]).squeeze(0)

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, records, targets)
    for name, each in expected.items():
        assert (found[name] - each).abs().max() <= 1e-5, name
