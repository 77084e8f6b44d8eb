"""Per-record gradients of single layers from their inputs and output gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy.gradients.pieces import Piece, Rows, Whole, series

Uses = list[tuple[Tensor, Tensor]]
"""What a layer saw in one pass: (input, output gradient) of each use, batch axis first."""


def linear(module: nn.Linear, uses: Uses) -> list[tuple[nn.Parameter, Piece]]:
    """Return the pieces of a linear layer; any axes between batch and features are summed over."""
    if len(uses) == 1 and uses[0][0].dim() == 2:
        a, g = uses[0]
        bias = g
    else:
        a = _joined([x.reshape(len(x), -1, x.shape[-1]) for x, _ in uses])
        g = _joined([x.reshape(len(x), -1, x.shape[-1]) for _, x in uses])
        bias = g.sum(1)
    return _weight_and_bias(module, lambda: series(a, g), lambda: Whole(bias))


def conv(module: nn.Conv1d | nn.Conv2d, uses: Uses) -> list[tuple[nn.Parameter, Piece]]:
    """Return the pieces of an ungrouped convolution, as a linear map on unfolded patches."""
    two = isinstance(module, nn.Conv2d)

    def pair(value: tuple[int, ...], fill: int) -> tuple[int, ...]:
        return value if two else (fill, *value)

    gradients = None
    for a, g in uses:
        patches = functional.unfold(
            a if two else a.unsqueeze(2),
            pair(module.kernel_size, 1),
            dilation=pair(module.dilation, 1),
            padding=pair(cast("tuple[int, ...]", module.padding), 0),
            stride=pair(module.stride, 1),
        )
        part = torch.bmm(g.flatten(2), patches.mT)
        gradients = part if gradients is None else gradients.add_(part)
    bias = sum(g.flatten(2).sum(2) for _, g in uses)
    return _weight_and_bias(module, lambda: Whole(cast(Tensor, gradients)), lambda: Whole(cast(Tensor, bias)))


def layer_norm(module: nn.LayerNorm, uses: Uses) -> list[tuple[nn.Parameter, Piece]]:
    """Return the pieces of a layer normalisation."""
    weight, bias = [], []
    for a, g in uses:
        inner = tuple(range(1, a.dim() - len(module.normalized_shape)))
        normal = functional.layer_norm(a, module.normalized_shape, eps=module.eps)
        weight.append((normal * g).sum(inner) if inner else normal * g)
        bias.append(g.sum(inner) if inner else g)
    return _weight_and_bias(module, lambda: Whole(sum(weight[1:], weight[0])), lambda: Whole(sum(bias[1:], bias[0])))


def group_norm(module: nn.GroupNorm, uses: Uses) -> list[tuple[nn.Parameter, Piece]]:
    """Return the pieces of a group normalisation."""
    weight, bias = [], []
    for a, g in uses:
        normal = functional.group_norm(a, module.num_groups, eps=module.eps)
        weight.append((normal * g).reshape(*a.shape[:2], -1).sum(2))
        bias.append(g.reshape(*a.shape[:2], -1).sum(2))
    return _weight_and_bias(module, lambda: Whole(sum(weight[1:], weight[0])), lambda: Whole(sum(bias[1:], bias[0])))


def embedding(module: nn.Embedding, uses: Uses) -> list[tuple[nn.Parameter, Piece]]:
    """Return the piece of a lookup table; the padding row has no gradient."""
    indices = _joined([i.reshape(len(i), -1) for i, _ in uses])
    g = _joined([x.reshape(len(x), -1, module.embedding_dim) for _, x in uses])
    if module.padding_idx is not None:
        g = g.masked_fill((indices == module.padding_idx)[:, :, None], 0.0)
    return _weight_and_bias(module, lambda: Rows(indices, g, module.num_embeddings), None)


LAYERS: dict[type[nn.Module], Callable[..., list[tuple[nn.Parameter, Piece]]]] = {
    nn.Linear: linear,
    nn.Conv1d: conv,
    nn.Conv2d: conv,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.Embedding: embedding,
}


def restriction(module: nn.Module) -> str | None:
    """Return why a layer of a known type is not handled here, or None."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        if module.groups != 1:
            return f"groups={module.groups}"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return f"padding={module.padding!r}, padding_mode={module.padding_mode!r}"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        return "max_norm, scale_grad_by_freq and sparse change what the gradient is"
    return None


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenate the uses of a layer along its inner axis."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _weight_and_bias(
    module: nn.Module, weight: Callable[[], Piece], bias: Callable[[], Piece] | None
) -> list[tuple[nn.Parameter, Piece]]:
    """The pieces of whichever of the two exists and is trained."""
    found: list[tuple[nn.Parameter, Piece]] = []
    for name, make in (("weight", weight), ("bias", bias)):
        parameter = getattr(module, name, None)
        if make is not None and parameter is not None and parameter.requires_grad:
            found.append((parameter, make()))
    return found
