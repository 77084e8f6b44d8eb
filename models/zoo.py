"""The models there are, by name.

A name and a mapping of hyper-parameters are all that travels between machines: every machine builds the
module from its own installed code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import nn

from models import hyperparameters as _hyperparameters
from models.cnn import cnn
from models.errors import BadHyperparameter, SignatureMismatch, UnknownModel, nearest
from models.rnn import gru, lstm
from models.signature import Kind, Signature, Target
from models.tabular import linear, mlp
from models.transformer import transformer

LossName: TypeAlias = Literal["cross-entropy", "hinge", "mse"]

MAX_PARAMETERS: Final = 50_000_000


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a model is built and what it can take.

    Attributes:
        factory: ``(signature, *, hyper-parameters) -> nn.Module`` on whatever device is the default.
        kinds: signature kinds it takes.
        losses: the default loss for each target it can have.
        summary: one line for people.
    """

    factory: Callable[..., nn.Module]
    kinds: tuple[Kind, ...]
    losses: Mapping[Target, LossName]
    summary: str


_EITHER: Final[Mapping[Target, LossName]] = {"classes": "cross-entropy", "value": "mse"}
_FLAT: Final[tuple[Kind, ...]] = ("vector", "image")
_STEPS: Final[tuple[Kind, ...]] = ("sequence", "tokens")

MODELS: Final[Mapping[str, ModelSpec]] = {
    "cnn": ModelSpec(factory=cnn, kinds=("image",), losses=_EITHER, summary="small convolutional network"),
    "lstm": ModelSpec(factory=lstm, kinds=_STEPS, losses=_EITHER, summary="long short-term memory network"),
    "gru": ModelSpec(factory=gru, kinds=_STEPS, losses=_EITHER, summary="gated recurrent unit network"),
    "transformer": ModelSpec(factory=transformer, kinds=_STEPS, losses=_EITHER, summary="small transformer encoder"),
    "mlp": ModelSpec(factory=mlp, kinds=_FLAT, losses=_EITHER, summary="multi-layer perceptron"),
    "logistic": ModelSpec(
        factory=linear, kinds=_FLAT, losses={"classes": "cross-entropy"}, summary="logistic regression"
    ),
    "linear-svm": ModelSpec(
        factory=linear, kinds=_FLAT, losses={"classes": "hinge"}, summary="linear support vector machine"
    ),
    "linear": ModelSpec(factory=linear, kinds=_FLAT, losses={"value": "mse"}, summary="linear regression"),
}


def spec(name: str) -> ModelSpec:
    """Return the entry of that name.

    Raises:
        UnknownModel: there is none; the message names the nearest.
    """
    found = MODELS.get(name) if isinstance(name, str) else None
    if found is None:
        raise UnknownModel(f"model={name!r}: {nearest(str(name), MODELS)}")
    return found


def hyperparameters(name: str) -> dict[str, object]:
    """Return the hyper-parameters of a model with their defaults.

    >>> hyperparameters("mlp")
    {'hidden': (64,), 'activation': 'tanh'}
    """
    return _hyperparameters.defaults(spec(name).factory)


def validate_hyperparameters(name: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return ``values`` checked, normalised and filled up with defaults.

    Raises:
        UnknownModel: there is no such model.
        BadHyperparameter: a key is unknown (the nearest is named), or a value of the wrong type or out of
            range.
    """
    return _hyperparameters.validate(spec(name).factory, values, model=name)


def default_loss(name: str, signature: Signature) -> LossName:
    """Return the loss a model is trained with on such targets.

    Raises:
        UnknownModel: there is no such model.
        SignatureMismatch: the model cannot have such targets.
    """
    losses = spec(name).losses
    if signature.target not in losses:
        fit = [other for other, entry in MODELS.items() if signature.target in entry.losses]
        raise SignatureMismatch(
            f"target={signature.target!r}: model {name!r} takes {', '.join(losses)} only; use one of {', '.join(fit)}"
        )
    return losses[signature.target]


def build(
    name: str,
    signature: Signature,
    hyperparameters: Mapping[str, object] | None = None,
    *,
    seed: int | None = None,
) -> nn.Module:
    """Build a model on the CPU: ``(B, *shape) -> (B, outputs)``, float32.

    Args:
        name: a key of :data:`MODELS`.
        signature: what it takes and returns.
        hyperparameters: values other than the defaults.
        seed: in ``[0, 2**63)``: makes the initial weights a function of the arguments, and leaves the
            global generator as it was. Without it they are drawn from the global generator.

    Raises:
        UnknownModel: there is no such model.
        BadHyperparameter: a hyper-parameter or the seed is refused, or the model would have more than
            50 million parameters (found before any is allocated).
        SignatureMismatch: the model cannot take such records or targets.
    """
    entry = spec(name)
    values = validate_hyperparameters(name, hyperparameters or {})
    if signature.kind not in entry.kinds:
        fit = [other for other, each in MODELS.items() if signature.kind in each.kinds]
        raise SignatureMismatch(
            f"kind={signature.kind!r}: model {name!r} takes {' or '.join(entry.kinds)}; use one of {', '.join(fit)}"
        )
    default_loss(name, signature)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise BadHyperparameter(f"seed={seed!r}: must be an integer in [0, 2**63)")
    skeleton = outline(name, signature, values)
    parameters = sum(p.numel() for p in skeleton.parameters())
    if parameters > MAX_PARAMETERS:
        raise BadHyperparameter(
            f"model {name!r} would have {parameters} parameters: at most {MAX_PARAMETERS} are allowed; "
            f"reduce {', '.join(values) or 'the signature'}"
        )
    # Only the CPU generator is set aside and seeded: torch.manual_seed would reach every accelerator's.
    with torch.device("cpu"), torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return entry.factory(signature, **values)


def outline(name: str, signature: Signature, hyperparameters: Mapping[str, object]) -> nn.Module:
    """Return the model without storage (on torch's ``meta`` device): its layout, at no cost in memory."""
    with torch.device("meta"):
        return spec(name).factory(signature, **hyperparameters)
