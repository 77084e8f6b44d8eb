"""Every model with every kind of record and target it takes, and toy data for each."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models import zoo
from models.signature import Kind, Signature, Target
from models.task import Task, task_for

SHAPES: dict[Kind, tuple[int, ...]] = {
    "vector": (6,),
    "image": (1, 8, 8),
    "sequence": (5, 3),
    "tokens": (5,),
}


def signature_of(kind: Kind, target: Target = "classes", outputs: int = 3) -> Signature:
    vocabulary = 12 if kind == "tokens" else None
    return Signature(kind=kind, shape=SHAPES[kind], vocabulary=vocabulary, target=target, outputs=outputs)


class Case(NamedTuple):
    name: str
    signature: Signature

    @property
    def label(self) -> str:
        return f"{self.name}-{self.signature.kind}-{self.signature.target}"

    @property
    def task(self) -> Task:
        bounds = (-1.0, 1.0) if self.signature.target == "value" else None
        return task_for(self.name, self.signature, target_bounds=bounds)


CASES = [
    Case(name, signature_of(kind, target))
    for name, entry in zoo.MODELS.items()
    for kind in entry.kinds
    for target in entry.losses
]


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)


def records_of(signature: Signature, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if signature.vocabulary is not None:
        return torch.randint(1, signature.vocabulary, (count, *signature.shape), generator=generator)
    return torch.randn(count, *signature.shape, generator=generator)


def targets_of(signature: Signature, records: Tensor) -> Tensor:
    """A rule on the records that every model can learn."""
    if signature.vocabulary is not None:
        first = records[:, -1].double() / 6 - 1
    elif signature.kind == "sequence":
        first = records[:, -1, 0].double()
    else:
        first = records.double().flatten(1)[:, 0]
    if signature.target == "value":
        return first.tanh().float()[:, None].expand(-1, signature.outputs)
    return (first > -0.4).long() + (first > 0.4).long()
