"""Opacus' three ways to per-record gradients, behind the same interface as ours."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights
from torch import Tensor, nn

from privacy.errors import UnsupportedModule
from privacy.gradients import twins
from privacy.gradients.base import (
    Losses,
    PerRecord,
    Sum,
    clip_factors,
    per_record_losses,
    shared_parameter,
    trainable_layers,
)
from privacy.gradients.pieces import Piece, Whole

_HOOKED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.Embedding,
)
_TWINNED = (nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)
# nn.MultiheadAttention keeps its output projection in a linear layer of this type.
_INSIDE_TWINNED = (nn.modules.linear.NonDynamicallyQuantizableLinear,)
_EXPANDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm, nn.Embedding)


class _Wrapped(PerRecord):
    """A model's twin inside one of Opacus' modules, made once."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__(model, losses)
        self._twin = twins.Twin(model, recurrent=True)
        self._trained = [p for p in self._twin.module.parameters() if p.requires_grad]
        self._opacus = self._wrap(self._twin.module)

    def _wrap(self, module: nn.Module) -> Any:
        """Return Opacus' module around ``module``."""
        raise NotImplementedError

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One forward pass with the model's present parameters."""
        self._twin.refresh()
        for p in self._trained:
            p.grad = None
            p.grad_sample = None  # type: ignore[attr-defined]  # Opacus keeps its results on the parameters
        with torch.enable_grad():
            try:
                outputs = self._opacus(inputs)
            except RuntimeError as error:
                raise UnsupportedModule(
                    f"method={self.name!r}: Opacus cannot run this model; in-place operations on layer "
                    "outputs are "
                    "one cause"
                ) from error
            return per_record_losses(self.losses, outputs, targets)

    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite and the clipped sum; see :class:`PerRecord`."""
        losses = self._losses(inputs, targets)
        _backward(losses.sum())
        self._refuse_other_layouts([p.grad_sample for p in self._trained], len(inputs))  # type: ignore[attr-defined]  # set by Opacus
        with torch.no_grad():
            pieces: list[tuple[nn.Parameter, Piece]] = [
                (p, Whole(p.grad_sample))  # type: ignore[attr-defined]  # set by Opacus
                for p in self._trained
                if p.grad_sample is not None  # type: ignore[attr-defined]  # ditto
            ]
            squares = sum((piece.squares() for _, piece in pieces), torch.zeros(len(inputs)))
            finite, factors = clip_factors(squares, losses, max_grad_norm)
            sums = {id(p): piece.weighted_sum(factors) for p, piece in pieces}
            for p in self._trained:
                p.grad_sample = None  # type: ignore[attr-defined]  # frees as much memory as the batch took
            return finite, self.align(self._twin.gather(sums))

    def _refuse_other_layouts(self, found: list[Tensor | None], batch: int) -> None:
        """Refuse results along another axis than the batch, which Opacus takes the first one to be."""
        if any(each is not None and len(each) != batch for each in found):
            raise UnsupportedModule(
                f"method={self.name!r}: a layer's first axis is not the batch, so records cannot be told "
                "apart; put the "
                "batch axis first or choose method='vmap'"
            )


class Hooks(_Wrapped):
    """Opacus' default: gradients of every record written out by module hooks."""

    name: ClassVar[str] = "hooks"
    chunk = 64

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return which layer Opacus has no exact hook for, or None."""
        return _unlisted(model, (*_HOOKED, *_TWINNED, *_INSIDE_TWINNED)) or shared_parameter(model)

    def _wrap(self, module: nn.Module) -> Any:
        return GradSampleModule(module, loss_reduction="sum", strict=False)


class ExpandedWeights(_Wrapped):
    """Opacus' ``grad_sample_mode="ew"``: PyTorch's own expanded weights."""

    name: ClassVar[str] = "ew"
    chunk = 64

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return which layer expanded weights do not know, or None."""
        return _unlisted(model, (*_EXPANDED, nn.MultiheadAttention, *_INSIDE_TWINNED)) or shared_parameter(model)

    def _wrap(self, module: nn.Module) -> Any:
        return GradSampleModuleExpandedWeights(module, loss_reduction="sum")


class Ghost(_Wrapped):
    """Opacus' ghost clipping: norms in one backward pass, the weighted sum in a second.

    Its norms come from Gram matrices without a margin for cancellation (``pieces.GRAM_MARGIN``), so it is
    offered for comparison and never chosen.
    """

    name: ClassVar[str] = "ghost"
    chunk = 64

    @staticmethod
    def unsupported(model: nn.Module) -> str | None:
        """Return which layer Opacus has no exact norm for, or None."""
        return Hooks.unsupported(model)

    def _wrap(self, module: nn.Module) -> Any:
        return GradSampleModuleFastGradientClipping(module, loss_reduction="sum", strict=False)

    def clip(self, inputs: Tensor, targets: Tensor, max_grad_norm: float) -> tuple[Tensor, Sum]:
        """Return which records are finite and the clipped sum; see :class:`PerRecord`."""
        for p in self._trained:
            p._norm_sample = None  # type: ignore[attr-defined]  # Opacus keeps its results on the parameters
        losses = self._losses(inputs, targets)
        self._opacus.enable_hooks()
        _backward(losses.sum(), retain_graph=True)
        self._refuse_other_layouts([p._norm_sample for p in self._trained], len(inputs))  # type: ignore[attr-defined]  # ditto
        norms = [p._norm_sample for p in self._trained if p._norm_sample is not None]  # type: ignore[attr-defined]  # ditto
        squares = sum((norm.square() for norm in norms), torch.zeros(len(inputs)))
        finite, factors = clip_factors(squares, losses, max_grad_norm)
        for p in self._trained:
            p.grad = None
        self._opacus.disable_hooks()
        try:
            _backward(torch.where(finite, factors * losses, 0.0).sum())
        finally:
            self._opacus.enable_hooks()
        sums = {id(p): p.grad for p in self._trained if p.grad is not None}
        return finite, self.align(self._twin.gather(sums))


def _backward(loss: Tensor, *, retain_graph: bool = False) -> None:
    """Run Opacus' hooks; torch's remark that first layers' inputs need no gradient is beside the point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # torch


def _unlisted(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Return the first layer whose type is not one of ``kinds``, or whose options its twin lacks."""
    for path, module in trainable_layers(model):
        if type(module) not in kinds:
            return f"{path} ({type(module).__name__}): no exact per-record gradient for its type"
        if reason := twins.restriction(module):
            return f"{path} ({type(module).__name__}): {reason} has no per-record twin"
        if isinstance(module, nn.Embedding) and (
            module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        ):
            return f"{path} (Embedding): max_norm, scale_grad_by_freq and sparse change what the gradient is"
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return f"{path} (Embedding): Opacus gives its row padding_idx={module.padding_idx} a gradient"
    return None
