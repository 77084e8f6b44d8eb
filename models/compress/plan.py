"""Which smaller variants of a model are made: steps as text, such as ``prune:0.5+int8-dynamic``.

A *model step* makes a smaller model of the same family; a *file step* stores a model's weights in fewer bits. A
variant has at most one of each, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from models.errors import CompressionError, nearest

Steps: TypeAlias = tuple[str, ...]

FULL: Final = "float32"
MODEL_STEPS: Final = ("prune", "distill")
FILE_STEPS: Final = ("float16", "int8-dynamic", "int8-static")

_LEAST, _MOST = 0.05, 0.95
_VARIANTS: Final = 32
_USUAL: Final = (
    FULL,
    "float16",
    "int8-dynamic",
    "int8-static",
    "prune:0.5",
    "prune:0.5+int8-dynamic",
    "distill:0.5+int8-dynamic",
)
# They have nothing inside that could be made smaller.
_FLAT: Final = ("logistic", "linear-svm", "linear")


@dataclass(frozen=True, kw_only=True)
class CompressionPlan:
    """What is tried, and what a variant may cost.

    Attributes:
        variants: the steps of each; ``("float32",)`` is always the first.
        tolerance: how much worse than float32 a variant may be and still be kept: in accuracy (0.005 is half a
            point), as a share of the mean absolute error, or in agreement where there is nothing to score.
        seed: of the public records' order and of a distilled model's first weights.
        training_steps: gradient steps that a pruned or distilled model is taught for.

    Raises:
        CompressionError: a field is out of range. Variants are checked by :meth:`parse`.
    """

    variants: tuple[Steps, ...]
    tolerance: float = 0.005
    seed: int = 0
    training_steps: int = 800

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float):
            raise CompressionError(f"tolerance={self.tolerance!r}: must be a number in [0, 1]")
        if not 0 <= self.tolerance <= 1:
            raise CompressionError(
                f"tolerance={self.tolerance!r}: must lie in [0, 1]; 0.005 is half a point of accuracy"
            )
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise CompressionError(f"seed={self.seed!r}: must be an integer in [0, 2**63)")
        if type(self.training_steps) is not int or not 1 <= self.training_steps <= 1_000_000:
            raise CompressionError(f"training_steps={self.training_steps!r}: must be an integer in [1, 1 000 000]")
        read = tuple(steps_of("+".join(steps)) for steps in self.variants)
        if read != self.variants or not read or read[0] != (FULL,) or len(set(read)) < len(read):
            raise CompressionError("variants: must be distinct and begin with float32; use CompressionPlan.parse")

    @classmethod
    def parse(
        cls, variants: Iterable[str], *, tolerance: float = 0.005, seed: int = 0, training_steps: int = 800
    ) -> Self:
        """Return the plan of variants as text; ``float32`` is added, and what stands twice is made once.

        Raises:
            CompressionError: a step is unknown (the nearest is named), stands twice or in the wrong order, or its
                number is out of range; or there are more than 32 variants.

        >>> CompressionPlan.parse(["int8-dynamic", "prune:0.50+float16"]).variants
        (('float32',), ('int8-dynamic',), ('prune:0.5', 'float16'))
        """
        if isinstance(variants, str):
            raise CompressionError(f"variants={variants!r}: must be a list of variants, such as ['int8-dynamic']")
        read = dict.fromkeys([(FULL,), *(steps_of(text) for text in variants)])
        if len(read) > _VARIANTS:
            raise CompressionError(f"variants: {len(read)} of them; at most {_VARIANTS} are made at once")
        return cls(variants=tuple(read), tolerance=tolerance, seed=seed, training_steps=training_steps)

    @classmethod
    def usual(cls, name: str, *, tolerance: float = 0.005) -> Self:
        """Return the plan for a model of the zoo where no other is asked for."""
        some = [text for text in _USUAL if name not in _FLAT or ":" not in text]
        return cls.parse(some, tolerance=tolerance)


def name_of(steps: Steps) -> str:
    """Return a variant's name: ``prune:0.5+int8-dynamic``."""
    return "+".join(steps)


def file_of(steps: Steps, ending: str = "onnx") -> str:
    """Return a variant's file within a bundle: ``variants/prune-0.5+int8-dynamic.onnx``."""
    return f"variants/{name_of(steps).replace(':', '-')}.{ending}"


def split(steps: Steps) -> tuple[str | None, str | None]:
    """Return a variant's model step and file step, None where it has none."""
    model = next((step for step in steps if ":" in step), None)
    file = next((step for step in steps if step in FILE_STEPS), None)
    return model, file


def amount(step: str) -> float:
    """Return the number of a model step."""
    return float(step.partition(":")[2])


def steps_of(text: object) -> Steps:
    """Return the steps of a variant given as text.

    Raises:
        CompressionError: as :meth:`CompressionPlan.parse`.
    """
    if not isinstance(text, str):
        raise CompressionError(f"variant={text!r}: must be text, such as 'prune:0.5+int8-dynamic'")
    steps = tuple(_step(part.strip(), text) for part in text.split("+"))
    if steps == (FULL,):
        return steps
    ranks = [1 if step in FILE_STEPS else 0 for step in steps]
    if FULL in steps:
        raise CompressionError(f"variant={text!r}: 'float32' is the model as it is; leave it out beside other steps")
    if ranks not in ([0], [1], [0, 1]):
        raise CompressionError(
            f"variant={text!r}: takes at most one of {', '.join(MODEL_STEPS)}, then at most one of "
            f"{', '.join(FILE_STEPS)}"
        )
    return steps


def _step(step: str, text: str) -> str:
    """Return one step, its number written in the one way."""
    kind, colon, number = step.partition(":")
    if kind in MODEL_STEPS:
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not _LEAST <= value <= _MOST:
            raise CompressionError(
                f"variant={text!r}: {kind!r} needs a share in [{_LEAST}, {_MOST}], such as {kind}:0.5"
            )
        return f"{kind}:{round(value, 4):g}"
    if colon or kind not in (FULL, *FILE_STEPS):
        raise CompressionError(
            f"variant={text!r}: no step {step[:40]!r}; {nearest(kind, (FULL, *MODEL_STEPS, *FILE_STEPS))}"
        )
    return kind
