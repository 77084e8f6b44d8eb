"""Clipped sums by ``torch.func``: a gradient function of one record, mapped over the batch."""

from __future__ import annotations

import warnings
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from privacy.errors import UnsupportedModule
from privacy.gradients.base import Losses, PerRecord, Sum, clip_factors, per_record_losses
from privacy.gradients.pieces import Whole


class Vmap(PerRecord):
    """Clipped sums for any module that ``torch.func`` can map, own and shared parameters included.

    Chunks of 32 stay in cache, and writing gradients out for more records at once costs memory: 32 times the
    model. ``compile=True`` compiles the whole of it (13 s to minutes once, then about 1.4 times faster for
    convolutions); short batches are then padded to 32 so that one shape is compiled.
    """

    name: ClassVar[str] = "vmap"
    chunk = 32

    def __init__(self, model: nn.Module, losses: Losses, *, compile: bool = False) -> None:
        super().__init__(model, losses)
        self._compiled = compile
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._run = torch.compile(self._clipped, dynamic=False) if compile else self._clipped

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return which layer ``torch.func`` cannot map, or None; tensor code is only tried when it runs."""
        for path, module in model.named_modules():
            if isinstance(module, nn.GRU | nn.RNN):
                return f"{path or 'model'} ({type(module).__name__}): torch.func cannot map it"
        return None

    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite and the clipped sum; see :class:`PerRecord`."""
        count = len(inputs)
        counted = torch.ones(count, dtype=torch.bool)
        if self._compiled and count < self.chunk:
            rows = torch.arange(self.chunk).remainder(count)
            inputs, targets, counted = inputs[rows], targets[rows], torch.arange(self.chunk) < count
        trained = {name: p.detach() for name, p in self._trained.items()}
        with warnings.catch_warnings():
            # Attention without a batching rule is mapped by a loop: slower, and exact.
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            try:
                finite, sums = self._run(trained, inputs, targets, counted, torch.tensor(max_grad_norm))
            except RuntimeError as error:
                raise UnsupportedModule("method='vmap': torch.func cannot map this model") from error
        named = {id(self._trained[name]): total for name, total in sums.items()}
        return finite[:count], self.align(named)

    def _clipped(
        self,
        trained: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        counted: Tensor,
        max_grad_norm: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Everything between the batch and its clipped sum, as one function to compile."""

        def loss(parameters: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
            outputs = cast(Tensor, functional_call(self.model, parameters, (one[None],)))
            return per_record_losses(self.losses, outputs, target[None])[0]

        mapped = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
        gradients, losses = mapped(trained, inputs, targets)
        pieces = {name: Whole(gradient) for name, gradient in gradients.items()}
        squares = sum((piece.squares() for piece in pieces.values()), torch.zeros(len(inputs)))
        finite, factors = clip_factors(squares, losses, cast(float, max_grad_norm))
        factors = factors * counted
        return finite, {name: piece.weighted_sum(factors) for name, piece in pieces.items()}
