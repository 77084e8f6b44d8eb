"""The methods there are, which of them can do a model, and which one to take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from privacy.errors import UnsupportedModule
from privacy.gradients.base import Losses, PerRecord
from privacy.gradients.bookkeeping import BookKeeping
from privacy.gradients.check import check_module
from privacy.gradients.functional import Vmap
from privacy.gradients.linear import SingleLinear
from privacy.gradients.opacus_modes import ExpandedWeights, Ghost, Hooks

METHODS: Mapping[str, type[PerRecord]] = MappingProxyType(
    {method.name: method for method in (Hooks, ExpandedWeights, Ghost, BookKeeping, SingleLinear, Vmap)}
)


def supported(model: nn.Module, method: str) -> str | None:
    """Return why ``method`` cannot do ``model`` exactly, or None if it can.

    Raises:
        UnsupportedModule: there is no such method.
    """
    if method not in METHODS:
        raise UnsupportedModule(f"method={method!r}: must be one of {', '.join(METHODS)}")
    try:
        check_module(model)
    except UnsupportedModule as refusal:
        return str(refusal)
    return METHODS[method].unsupported(model)


def build(model: nn.Module, losses: Losses, method: str) -> PerRecord:
    """Return ``method`` for ``model``.

    Raises:
        UnsupportedModule: there is no such method, or it cannot do the model.
    """
    if reason := supported(model, method):
        raise UnsupportedModule(f"method={method!r}: {reason}")
    return METHODS[method](model, losses)
