"""Teaching a smaller model to give the full model's scores (Hinton et al. 2015, arXiv 1503.02531).

The full model is asked on public records, and nothing else is learnt from: no label, and no private record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import zoo
from models.errors import CompressionError
from models.public import PublicRecords, public_only
from models.signature import Signature
from models.task import Task

_BATCH: Final = 128
_CHUNK: Final = 512
_TEMPERATURE: Final = 2.0
_RATE: Final = 3e-3


def student(
    *, name: str, signature: Signature, hyperparameters: Mapping[str, object], fraction: float, seed: int
) -> tuple[nn.Module, dict[str, object]]:
    """Return an untaught model of the same family with every width scaled by ``fraction``, and its hyper-parameters.

    Raises:
        CompressionError: the model has no width that could be smaller.
    """
    full = zoo.validate_hyperparameters(name, hyperparameters)
    values = {key: _scaled(key, value, full, fraction) for key, value in full.items()}
    if values == full:
        raise CompressionError(
            f"model={name!r}: cannot be distilled to {fraction:g} of its width; it has none to spare"
        )
    return zoo.build(name, signature, values, seed=seed), values


def teach(pupil: nn.Module, teacher: nn.Module, records: PublicRecords, *, task: Task, steps: int, seed: int) -> None:
    """Train ``pupil`` in place until it scores public records as ``teacher`` does; their targets are not used.

    Class scores are matched as probabilities at temperature 2, other scores by their squared difference. Both models
    are left in evaluation mode.

    Raises:
        PrivateDataRefused: the records are not :class:`models.public.PublicRecords`.
        CompressionError: the training diverges.
    """
    inputs = torch.tensor(public_only(records, "records").inputs)
    teacher.eval()
    with torch.no_grad():
        wanted = torch.cat([cast(Tensor, teacher(chunk)) for chunk in torch.split(inputs, _CHUNK)])
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(pupil.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    pupil.train()
    order = torch.randperm(len(inputs), generator=generator)
    start = 0
    for _ in range(steps):
        if start >= len(inputs):
            order, start = torch.randperm(len(inputs), generator=generator), 0
        chosen = order[start : start + _BATCH]
        start += _BATCH
        optimiser.zero_grad()
        loss = _difference(pupil(inputs[chosen]), wanted[chosen], task)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        torch.nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    pupil.eval()
    if not all(bool(parameter.isfinite().all()) for parameter in pupil.parameters()):
        raise CompressionError("distill: the training diverged; check that the public records are scaled as the run's")


def _difference(given: Tensor, wanted: Tensor, task: Task) -> Tensor:
    """How far scores are from those wanted."""
    if task.loss_name != "cross-entropy":
        return functional.mse_loss(given, wanted)
    return functional.kl_div(
        functional.log_softmax(given / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def _scaled(key: str, value: object, full: Mapping[str, object], fraction: float) -> object:
    """Return one hyper-parameter of the smaller model: widths scaled, whatever else as it is."""
    if isinstance(value, tuple):
        return tuple(max(1, round(each * fraction)) for each in value)
    if not isinstance(value, int) or key in ("layers", "heads"):
        return value
    if key == "width":
        heads = cast(int, full["heads"])
        return heads * max(1, round(value * fraction / heads))
    return max(1, round(value * fraction))
