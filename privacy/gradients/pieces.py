"""Per-record gradients of single parameters, in whatever form is cheapest to take norms and sums of.

A piece answers two questions: the squared norm of each record's gradient, and the sum of the gradients
weighted by one factor per record ("book-keeping": Bu et al. 2023, arXiv 2210.00038, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# A norm from Gram matrices cancels: sums of large products can leave a small rest that is mostly rounding
# error, and a record could pass unclipped. Adding a multiple of the triangle bound makes it an upper bound.
# The multiple covers float32 rounding (6e-8) of the sums in question several times over.
GRAM_MARGIN = 1e-6

# Weights written out per record at most: half a megabyte each.
WRITTEN_OUT_MOST = 2**17


class Piece(Protocol):
    """The per-record gradients of one parameter over a batch of B records."""

    def squares(self) -> Tensor:
        """Return the squared norm of each record's gradient, (B,)."""
        ...

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the sum over records of ``factors (B,)`` times the gradients, in the parameter's size."""
        ...


@dataclass(frozen=True)
class Whole:
    """Gradients written out: (B, ...)."""

    gradients: Tensor

    def squares(self) -> Tensor:
        """Return the squared norms, (B,)."""
        flat = self.gradients.flatten(1)
        return torch.bmm(flat[:, None, :], flat[:, :, None]).view(-1)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the weighted sum, flat."""
        return factors @ self.gradients.flatten(1)


@dataclass(frozen=True)
class Outer:
    """One outer product a record: ``output_gradients (B, p)`` times ``inputs (B, d)``."""

    inputs: Tensor
    output_gradients: Tensor

    def squares(self) -> Tensor:
        """Return the squared norms: those of the two factors multiplied."""
        return self.inputs.square().sum(1) * self.output_gradients.square().sum(1)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the weighted sum, (p, d)."""
        return (self.output_gradients * factors[:, None]).T @ self.inputs


@dataclass(frozen=True)
class Series:
    """A sum of T outer products a record, kept as factors: ``(B, T, p)`` and ``(B, T, d)``.

    The squared norm is the inner product of the factors' Gram matrices ("ghost norm": Li et al. 2022,
    arXiv 2110.05679, section 4), made an upper bound; see ``GRAM_MARGIN``.
    """

    inputs: Tensor
    output_gradients: Tensor

    def squares(self) -> Tensor:
        """Return upper bounds on the squared norms, exact to about T times 1e-6."""
        a, g = self.inputs, self.output_gradients
        gram_a, gram_g = torch.bmm(a, a.mT), torch.bmm(g, g.mT)
        return _guarded(gram_a * gram_g, gram_a, gram_g)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the weighted sum, (p, d)."""
        weighted = self.output_gradients * factors[:, None, None]
        return weighted.flatten(0, 1).T @ self.inputs.flatten(0, 1)


@dataclass(frozen=True)
class Rows:
    """Gradients of a table's rows: ``indices (B, T)`` and ``output_gradients (B, T, d)``."""

    indices: Tensor
    output_gradients: Tensor
    rows: int

    def squares(self) -> Tensor:
        """Return upper bounds on the squared norms; positions of equal index add up before squaring."""
        g = self.output_gradients
        same = (self.indices[:, :, None] == self.indices[:, None, :]).to(g.dtype)
        gram = torch.bmm(g, g.mT)
        return _guarded(same * gram, same, gram)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Return the weighted sum, (rows, d)."""
        weighted = (self.output_gradients * factors[:, None, None]).flatten(0, 1)
        total = weighted.new_zeros(self.rows, weighted.shape[1])
        return total.index_add_(0, self.indices.flatten(), weighted)


def _guarded(products: Tensor, gram_a: Tensor, gram_g: Tensor) -> Tensor:
    """The sum of (B, T, T) products, plus a margin from its largest value, ``(sum_t |a_t| |g_t|)**2``."""
    lengths = gram_a.diagonal(dim1=1, dim2=2) * gram_g.diagonal(dim1=1, dim2=2)
    triangle = lengths.sqrt().sum(1).square()
    return products.sum((1, 2)) + GRAM_MARGIN * triangle


def series(inputs: Tensor, output_gradients: Tensor) -> Piece:
    """Return the cheaper of :class:`Outer`, :class:`Whole` and :class:`Series` for a linear map's weight."""
    if inputs.dim() == 2:
        return Outer(inputs, output_gradients)
    steps, d, p = inputs.shape[1], inputs.shape[2], output_gradients.shape[2]
    # Gram matrices cost T*T*(d+p) products where writing out costs a pass over d*p numbers, and are the only
    # way once those numbers fill the memory; otherwise writing out is faster, and its norms cannot cancel.
    if steps * steps * (d + p) < d * p or d * p > WRITTEN_OUT_MOST:
        return Series(inputs, output_gradients)
    return Whole(torch.bmm(output_gradients.mT, inputs))
