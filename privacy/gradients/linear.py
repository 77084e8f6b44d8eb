"""Clipped sums for models with one linear layer: norms in closed form, next to no overhead."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from privacy.errors import UnsupportedModule
from privacy.gradients.base import Losses, PerRecord, Sum, clip_factors, per_record_losses, trainable_layers
from privacy.gradients.layers import linear


class SingleLinear(PerRecord):
    """Logistic and linear regression, linear SVMs: a record's squared norm is ``|g|**2 * (|x|**2 + 1)``."""

    name: ClassVar[str] = "linear"
    chunk = 8192

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__(model, losses)
        self._layer = trainable_layers(model)[0][1]

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return why the model is not one linear layer, or None."""
        found = trainable_layers(model)
        if len(found) == 1 and type(found[0][1]) is nn.Linear:
            return None
        return f"needs exactly one trainable nn.Linear and nothing else; this model trains {len(found)} layers"

    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite and the clipped sum; see :class:`PerRecord`."""
        seen: list[tuple[Tensor, Tensor]] = []

        def note(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            seen.append((args[0].detach(), output))

        handle = self._layer.register_forward_hook(note)
        try:
            with torch.enable_grad():
                losses = per_record_losses(self.losses, self.model(inputs), targets)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0][0].dim() != 2 or len(seen[0][0]) != len(inputs):
            raise UnsupportedModule(
                "method='linear': the layer must be used once, on a matrix (batch, features); "
                "choose method='bookkeeping'"
            )
        a, output = seen[0]
        (g,) = torch.autograd.grad(losses.sum(), output)
        with torch.no_grad():
            pieces = linear(self._layer, [(a, g)])  # type: ignore[arg-type]  # unsupported() checked its type
            squares = sum((piece.squares() for _, piece in pieces), g.new_zeros(len(g)))
            finite, factors = clip_factors(squares, losses, max_grad_norm)
            return finite, self.align({id(p): piece.weighted_sum(factors) for p, piece in pieces})
