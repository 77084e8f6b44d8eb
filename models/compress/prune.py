"""Structured pruning: a smaller model of the same family that keeps the most important units' weights.

What is pruned is gone: the result is an ordinary model of the zoo, with narrower layers. Hidden units of an MLP, an
LSTM or a GRU, channels of a CNN and feed-forward units of a transformer are ranked by the size of their weights, in
times out (He et al. 2014, "Reshaping deep neural network for fast decoding by node-pruning", section 2). Which units
go is read off the weights alone; no record is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from models import zoo
from models.errors import CompressionError, SignatureMismatch
from models.signature import Signature

State: TypeAlias = dict[str, Tensor]
Values: TypeAlias = dict[str, Any]


def prune(
    model: nn.Module, *, name: str, signature: Signature, hyperparameters: Mapping[str, object], sparsity: float
) -> tuple[nn.Module, dict[str, object]]:
    """Return a new model with a share ``sparsity`` of the units of every layer left out, and its hyper-parameters.

    Raises:
        CompressionError: the model has no units, or too few, to leave any out.
        SignatureMismatch: the model is not what the other arguments say.
    """
    cut = _CUTS.get(name)
    if cut is None:
        raise CompressionError(
            f"model={name!r}: cannot be pruned, as it has no hidden units; models that can: {', '.join(_CUTS)}"
        )
    state = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
    values = zoo.validate_hyperparameters(name, hyperparameters)
    full = dict(values)
    values.update(cut(state, full, 1 - sparsity))
    if values == full:
        raise CompressionError(
            f"model={name!r}: has no unit to spare at prune:{sparsity:g}; prune more, or leave it out"
        )
    smaller = zoo.build(name, signature, values, seed=0)
    try:
        smaller.load_state_dict(state)
    except RuntimeError as error:
        raise SignatureMismatch(f"model: is no {name!r} with these hyper-parameters; fix them") from error
    return smaller, values


def _mlp(state: State, values: Values, share: float) -> Values:
    """Leave out hidden units."""
    layers = _named(state)
    for here, after in pairwise(layers):
        rank = _norms(state[f"{here}.weight"], 0) * _norms(state[f"{after}.weight"], 1)
        kept = _best(rank, _count(len(rank), share))
        _take(state, here, kept)
        state[f"{after}.weight"] = state[f"{after}.weight"][:, kept]
    return {"hidden": tuple(len(state[f"{layer}.bias"]) for layer in layers[:-1])}


def _cnn(state: State, values: Values, share: float) -> Values:
    """Leave out channels, as many of every group that is normalised together."""
    layers = _named(state)
    convolutions = [layer for layer in layers if state[f"{layer}.weight"].dim() == 4]
    consumers = [*convolutions[1:], layers[-1]]
    for here, after in zip(convolutions, consumers, strict=True):
        weight = state[f"{here}.weight"]
        channels = len(weight)
        # The last consumer is linear: each channel is a run of its columns.
        onward = state[f"{after}.weight"].reshape(len(state[f"{after}.weight"]), channels, -1)
        rank = _norms(weight, 0) * _norms(onward, 1)
        groups = math.gcd(channels, 4) if values["norm"] == "group" else 1
        each = channels // groups
        count = _grouped(each, groups, share) if values["norm"] == "group" else _count(channels, share)
        kept = torch.cat([_best(part, count) + start * each for start, part in enumerate(rank.view(groups, each))])
        _take(state, here, kept)
        position = layers.index(here)
        if values["norm"] == "group":
            _take(state, layers[position + 1], kept)
        narrowed = onward[:, kept]
        shape = state[f"{after}.weight"].shape
        state[f"{after}.weight"] = narrowed.reshape(shape[0], -1, *shape[2:])
    return {"channels": tuple(len(state[f"{layer}.bias"]) for layer in convolutions)}


def _transformer(state: State, values: Values, share: float) -> Values:
    """Leave out feed-forward units; heads share the model's width, so they stay."""
    count = _count(values["feedforward"], share)
    for block in range(values["layers"]):
        inward, outward = f"blocks.{block}.feedforward.1", f"blocks.{block}.feedforward.3"
        rank = _norms(state[f"{inward}.weight"], 0) * _norms(state[f"{outward}.weight"], 1)
        kept = _best(rank, count)
        _take(state, inward, kept)
        state[f"{outward}.weight"] = state[f"{outward}.weight"][:, kept]
    return {"feedforward": count}


def _recurrent(state: State, values: Values, share: float) -> Values:
    """Leave out hidden units: as if their output were always 0."""
    hidden = values["hidden"]
    count = _count(hidden, share)
    for layer in range(values["layers"]):
        onward = f"recurrent.weight_ih_l{layer + 1}" if layer + 1 < values["layers"] else "head.weight"
        again = f"recurrent.weight_hh_l{layer}"
        # A hidden unit's output is bounded, so what it can do is a matter of what reads it.
        kept = _best(_norms(torch.cat([state[again], state[onward]]), 1), count)
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            key = f"recurrent.{part}_l{layer}"
            gates = state[key].reshape(-1, hidden, *state[key].shape[1:])
            state[key] = gates[:, kept].reshape(-1, *state[key].shape[1:])
        state[again] = state[again][:, kept]
        state[onward] = state[onward][:, kept]
    return {"hidden": count}


_CUTS: Final[Mapping[str, Callable[[State, Values, float], Values]]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "lstm": _recurrent,
    "gru": _recurrent,
    "transformer": _transformer,
}


def _named(state: State) -> list[str]:
    """The layers of a sequence, in order."""
    return [key.removesuffix(".weight") for key in state if key.endswith(".weight")]


def _norms(weight: Tensor, axis: int) -> Tensor:
    """The length of each unit's weights along an axis."""
    lengths: Tensor = torch.linalg.vector_norm(weight.transpose(0, axis).flatten(1), dim=1)
    return lengths


def _best(rank: Tensor, count: int) -> Tensor:
    """The positions of the largest, in their old order."""
    return torch.sort(torch.argsort(rank, descending=True, stable=True)[:count])[0]


def _take(state: State, layer: str, kept: Tensor) -> None:
    """Keep some of a layer's outputs."""
    for part in ("weight", "bias"):
        state[f"{layer}.{part}"] = state[f"{layer}.{part}"][kept]


def _count(units: int, share: float) -> int:
    """How many of so many units stay."""
    return max(1, round(units * share))


def _grouped(each: int, groups: int, share: float) -> int:
    """How many channels of each group stay, so that the smaller model has the same groups."""
    fitting = [count for count in range(1, each + 1) if math.gcd(groups * count, 4) == groups]
    return min(fitting, key=lambda count: abs(count - each * share))
