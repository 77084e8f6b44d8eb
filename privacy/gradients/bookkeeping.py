"""Our own clipped sums: one forward pass, one backward pass to layer outputs only, sums from what is at hand.

After Bu et al. 2023, "Differentially private optimization on large model at small cost" (arXiv 2210.00038):
the weight gradients that a plain backward pass would take are skipped, each record's norm comes from layer
inputs and output gradients, and the clipped sum from the same. See ``pieces`` for when gradients are written
out and ``recurrent`` for LSTM and GRU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from privacy.errors import UnsupportedModule
from privacy.gradients import layers, recurrent, twins
from privacy.gradients.base import (
    Losses,
    PerRecord,
    Sum,
    clip_factors,
    per_record_losses,
    shared_parameter,
    trainable_layers,
)
from privacy.gradients.pieces import Piece
from privacy.gradients.twins import Twin, needs_twin


class BookKeeping(PerRecord):
    """Clipped sums for linear, convolution, normalisation, embedding, LSTM and GRU layers; see the module."""

    name: ClassVar[str] = "bookkeeping"

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__(model, losses)
        self._twin = Twin(model, recurrent=False) if needs_twin(model) else None
        self._runs = self._twin.module if self._twin else model
        self._layers = trainable_layers(self._runs)
        # Written-out gradients of 64 records still fit the cache; purely linear models write out none.
        self.chunk = 512 if all(type(module) is nn.Linear for _, module in self._layers) else 64
        self._uses: list[tuple[nn.Module, Tensor, GradientEdge]] = []

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return why some layer's per-record gradient is not known in closed form, or None."""
        for path, module in trainable_layers(model):
            if isinstance(module, nn.LSTM | nn.GRU):
                reason = recurrent.restriction(module)
            elif isinstance(module, nn.MultiheadAttention):
                reason = twins.restriction(module)
            elif isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
                reason = None  # the output projection inside nn.MultiheadAttention
            elif type(module) in layers.LAYERS:
                reason = layers.restriction(module)
            else:
                reason = "no closed form for its type"
            if reason:
                return f"{path} ({type(module).__name__}): {reason}"
        return shared_parameter(model)

    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite and the clipped sum; see :class:`PerRecord`."""
        if self._twin:
            self._twin.refresh()
        probe = torch.zeros((), requires_grad=True)
        with torch.enable_grad(), self._watched(probe) as recurrences:
            losses = per_record_losses(self.losses, self._runs(inputs), targets)
            uses, self._uses = self._uses, []
            wanted: list[Tensor | GradientEdge] = [edge for _, _, edge in uses]
            if recurrences:
                wanted.append(probe)
            gradients = torch.autograd.grad(losses.sum(), cast("list[Tensor]", wanted), allow_unused=True)
        with torch.no_grad():
            found = self._pieces(uses, gradients, len(inputs))
            for recurrence in recurrences:
                found += recurrence.pieces()
            if not found:
                return losses.isfinite(), self.align({})
            squares = sum((piece.squares() for _, piece in found[1:]), found[0][1].squares())
            finite, factors = clip_factors(squares, losses, max_grad_norm)
            sums = {id(p): piece.weighted_sum(factors) for p, piece in found}
            return finite, self.align(self._twin.gather(sums) if self._twin else sums)

    def _pieces(
        self,
        uses: list[tuple[nn.Module, Tensor, GradientEdge]],
        gradients: tuple[Tensor | None, ...],
        batch: int,
    ) -> list[tuple[nn.Parameter, Piece]]:
        """Per-record gradients of every layer but the recurrent ones."""
        by_layer: dict[nn.Module, layers.Uses] = {}
        for (module, seen, _), gradient in zip(uses, gradients, strict=False):
            if gradient is None:
                continue
            if len(seen) != batch or len(gradient) != batch:
                raise UnsupportedModule(
                    f"{type(module).__name__}: the first axis of its input or output is not the batch, so "
                    "records "
                    "cannot be told apart; put the batch axis first or choose method='vmap'"
                )
            by_layer.setdefault(module, []).append((seen, gradient))
        found: list[tuple[nn.Parameter, Piece]] = []
        for module, seen_and_gradient in by_layer.items():
            found += layers.LAYERS[type(module)](module, seen_and_gradient)
        return found

    @contextmanager
    def _watched(self, probe: Tensor) -> Iterator[list[recurrent.Recurrence]]:
        """Record layer inputs and the graph edges of layer outputs during one pass."""
        self._uses = []
        handles = []
        recurrences: list[recurrent.Recurrence] = []
        try:
            for _, module in self._layers:
                if isinstance(module, nn.LSTM | nn.GRU):
                    stand_in = recurrent.Recurrence(module, probe)
                    recurrences.append(stand_in)
                    module.forward = stand_in  # type: ignore[method-assign, assignment]  # on the instance, for this pass
                else:
                    handles.append(module.register_forward_hook(self._note))
            yield recurrences
        finally:
            for handle in handles:
                handle.remove()
            for stand_in in recurrences:
                del stand_in.module.forward

    def _note(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook: the edge, unlike the tensor, survives an in-place operation on the output."""
        if output.requires_grad:
            self._uses.append((module, args[0].detach(), get_gradient_edge(output)))
