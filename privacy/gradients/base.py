"""What every way of computing clipped gradient sums has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from privacy.errors import UnsupportedModule

Losses: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``losses(outputs, targets) -> (B,)``: one loss per record, no reduction over the batch."""

Sum: TypeAlias = list[Tensor]
"""One tensor per entry of ``model.parameters()``, of its shape; zeros where a parameter is frozen."""

# Opacus' constant: with it all methods agree with its hooks to rounding.
TINY = 1e-6


class ClippedSum(Protocol):
    """The sum over a batch of per-record gradients, each scaled to a norm of at most ``max_grad_norm``."""

    name: ClassVar[str]

    def __call__(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> Sum:
        """Return the clipped sum for ``inputs (B, ...)`` and ``targets (B, ...)``; zeros if B is 0."""
        ...


class PerRecord(ABC):
    """Chunking, empty batches and non-finite records, the same for every method.

    A record whose loss or gradient norm is NaN or infinite (or whose squared norm overflows float32)
    contributes exactly zero: it is taken out and the others are computed again without it, because a factor
    of zero does not undo an infinity that is already in a product. Adding or removing such a record
    therefore changes nothing at all, and neither a huge nor a NaN sum ever reaches the noise.
    """

    name: ClassVar[str]
    chunk: int = 256

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        self.model = model
        self.losses = losses
        self.parameters = list(model.parameters())
        if reason := self.unsupported(model):
            raise UnsupportedModule(f"method={self.name!r}: {reason}")

    @staticmethod
    @abstractmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return why this method cannot do ``model`` exactly, or None."""

    @abstractmethod
    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite, bool (B,), and the clipped sum, which counts only if all are."""

    def __call__(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> Sum:
        """Return the clipped sum; see :class:`ClippedSum`."""
        total: Sum | None = None
        for start in range(0, len(inputs), self.chunk):
            part = self._finite(inputs[start : start + self.chunk], targets[start : start + self.chunk], max_grad_norm)
            if part is None:
                continue
            if total is None:
                total = part
            else:
                torch._foreach_add_(total, part)
        return [torch.zeros_like(p) for p in self.parameters] if total is None else total

    def _finite(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> Sum | None:
        """The sum over the finite records of one chunk; None if there is none."""
        while len(inputs):
            finite, total = self.clip(inputs, targets, max_grad_norm)
            if bool(finite.all()):
                return total
            inputs, targets = inputs[finite], targets[finite]
        return None

    def align(self, sums: dict[int, Tensor]) -> Sum:
        """Return sums by ``id(parameter)`` as a list along ``model.parameters()``."""
        return [sums[id(p)].view(p.shape) if id(p) in sums else torch.zeros_like(p) for p in self.parameters]


def clip_factors(squares: Tensor, losses: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    """Return which records are finite, bool (B,), and ``min(1, C / norm)``, float (B,)."""
    norms = squares.clamp(min=0.0).sqrt()  # clamp passes NaN on
    finite = norms.isfinite() & losses.detach().isfinite()
    return finite, (max_grad_norm / (norms + TINY)).clamp(max=1.0)


def per_record_losses(losses: Losses, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return ``losses(outputs, targets)``, refused unless there is one loss per record."""
    found = losses(outputs, targets)
    if found.shape != (len(targets),):
        raise UnsupportedModule(
            f"losses(outputs, targets) has {found.dim()} axes: must be (B,), one loss per record; use "
            "reduction='none' and average over the axes within a record"
        )
    return found


def trainable_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that own trainable parameters directly, by path."""
    return [
        (path or "model", module)
        for path, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]


def shared_parameter(model: nn.Module) -> str | None:
    """Return why tied parameters are a problem, if any trainable one belongs to two layers."""
    owner: dict[int, str] = {}
    for path, module in trainable_layers(model):
        for name, p in module.named_parameters(recurse=False):
            if id(p) in owner and p.requires_grad:
                return f"parameter {path}.{name} is shared with {owner[id(p)]}"
            owner[id(p)] = f"{path}.{name}"
    return None
