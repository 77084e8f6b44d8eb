"""Hyper-parameters as a factory declares them: keyword-only arguments, annotated with their bounds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from models.errors import BadHyperparameter, nearest


@dataclass(frozen=True)
class Between:
    """A number's inclusive bounds."""

    low: float
    high: float


@dataclass(frozen=True)
class Length:
    """A tuple's inclusive length bounds."""

    low: int
    high: int


Width: TypeAlias = Annotated[int, Between(1, 8192)]
Depth: TypeAlias = Annotated[int, Between(1, 16)]
Widths: TypeAlias = Annotated[tuple[Width, ...], Length(1, 8)]
Activation: TypeAlias = Literal["tanh", "relu"]


def defaults(factory: Callable[..., object]) -> dict[str, object]:
    """Return the keyword-only arguments of ``factory`` with their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def validate(factory: Callable[..., object], values: Mapping[str, object], *, model: str) -> dict[str, object]:
    """Return the full set of hyper-parameters: ``values`` checked and normalised over the defaults.

    Lists become tuples and integers become floats where the annotation says so, since both survive a trip
    through JSON or TOML only in that form.

    Raises:
        BadHyperparameter: a key is unknown, or a value is of the wrong type or out of range.
    """
    result = defaults(factory)
    hints = get_type_hints(factory, include_extras=True)
    for name, value in values.items():
        if name not in result:
            raise BadHyperparameter(f"{name!r} is no hyper-parameter of {model!r}: {nearest(str(name), result)}")
        result[name] = _checked(f"{model}.{name}", hints[name], value)
    return result


def _checked(field: str, annotation: Any, value: object) -> object:
    """Return ``value`` as the annotation wants it, or refuse it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *constraints = get_args(annotation)
        value = _checked(field, inner, value)
        for constraint in constraints:
            _constrain(field, constraint, value)
        return value
    if origin is Literal:
        choices = get_args(annotation)
        if not isinstance(value, str) or value not in choices:
            raise BadHyperparameter(f"{field}={value!r}: must be one of {', '.join(map(repr, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadHyperparameter(f"{field}={value!r}: must be a list, such as [16, 32]")
        element = get_args(annotation)[0]
        return tuple(_checked(f"{field}[{i}]", element, v) for i, v in enumerate(value))
    if annotation is bool:
        if not isinstance(value, bool):
            raise BadHyperparameter(f"{field}={value!r}: must be true or false")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float:
        # An integer too large for a float fails here as out of range, not with an OverflowError.
        if not number or not -1e308 <= value <= 1e308:  # type: ignore[operator]  # `number` has narrowed it
            raise BadHyperparameter(f"{field}={value!r}: must be a finite number")
        return float(value)  # type: ignore[arg-type]  # as above
    if not number or isinstance(value, float):
        raise BadHyperparameter(f"{field}={value!r}: must be an integer")
    return value


def _constrain(field: str, constraint: object, value: Any) -> None:
    """Apply one bound to a value already of the right type."""
    if isinstance(constraint, Between) and not constraint.low <= value <= constraint.high:
        raise BadHyperparameter(f"{field}={value!r}: must lie in [{constraint.low}, {constraint.high}]")
    if isinstance(constraint, Length) and not constraint.low <= len(value) <= constraint.high:
        raise BadHyperparameter(
            f"{field} has {len(value)} entries: must have between {constraint.low} and {constraint.high}"
        )
