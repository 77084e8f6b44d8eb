"""``bundle.json``: what a published model is, checked field by field (``docs/bundle-spec.md``, "bundle.json")."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.errors import BundleError, ModelError, nearest
from models.inputs.schema import DataSettings
from models.signature import Signature

FORMAT: Final = "confide-bundle/1"
WEIGHTS: Final = "model/model.safetensors"
VARIANTS: Final = "variants/"
MAX_VARIANTS: Final = 64

_COMPONENT = re.compile(r"(?!.*\.\Z)[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_MOST_COMPONENTS: Final = 4
_SUFFIXES: Final = frozenset({".json", ".md", ".onnx", ".safetensors"})


def check_name(name: str) -> str:
    """Return the name of a file of a bundle: a relative POSIX path that no file system can take for another.

    Raises:
        BundleError: absolute, with ``..``, a backslash, a control character or any character outside
            ``[A-Za-z0-9._+/-]``, hidden, too deep, or not of a kind that a bundle holds.
    """
    parts = name.split("/")
    if len(parts) > _MOST_COMPONENTS or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise BundleError(f"{name[:200]!r}: no name that a bundle's file can have; use letters, digits and ._+-")
    if PurePosixPath(name).suffix not in _SUFFIXES:
        raise BundleError(f"{name}: a bundle holds {', '.join(sorted(_SUFFIXES))} only; take it out")
    return name


def _tuple(value: object) -> object:
    """Let a JSON list be a tuple."""
    return tuple(value) if isinstance(value, list) else value


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:+-]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
Latency = Annotated[float, Field(ge=0)] | None
Steps = Annotated[tuple[VariantName, ...], BeforeValidator(_tuple), Field(max_length=8)]
Bounds = Annotated[tuple[float, float], BeforeValidator(_tuple)]


class _Table(BaseModel):
    """A frozen object of exactly these fields, each of its own JSON type, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Variant(_Table):
    """One ONNX file of a bundle, and what was measured by running it.

    Attributes:
        name, steps: how it was made ("float32" takes no step).
        file: its name in the bundle, under ``variants/``.
        bytes, sha256: of that file.
        ratio: ``bytes`` over those of the float32 variant.
        parameters: number of weights.
        metric: what ``score`` is, None where there were no evaluation records.
        score, score_change: on public evaluation records; the change is from float32's.
        accuracy, accuracy_change: the same where ``metric`` is "accuracy".
        agreement: with float32's answers, in [0, 1].
        latency_ms_b1, latency_ms_b32: median milliseconds of a batch of 1 and of 32 records.
    """

    name: VariantName
    file: Annotated[str, Field(max_length=200)]
    format: Literal["onnx"]
    steps: Steps
    bytes: Annotated[int, Field(ge=1)]
    sha256: Digest
    ratio: Annotated[float, Field(gt=0)]
    parameters: Annotated[int, Field(ge=1)]
    metric: Literal["accuracy", "mae"] | None
    score: float | None
    score_change: float | None
    accuracy: Share | None
    accuracy_change: float | None
    agreement: Annotated[float, Field(le=1)] | None
    latency_ms_b1: Latency
    latency_ms_b32: Latency

    @model_validator(mode="after")
    def _own_file(self) -> Self:
        """A variant is an ONNX file in the folder of variants."""
        if not re.fullmatch(re.escape(VARIANTS) + r"[^/]+\.onnx", self.file):
            raise ValueError(f"file = {self.file!r}: must be {VARIANTS}NAME.onnx")
        check_name(self.file)
        return self


class Scoring(_Table):
    """How records are scored: :meth:`models.task.Task.to_dict` without the signature."""

    loss_name: Literal["cross-entropy", "hinge", "mse"]
    target_bounds: Bounds | None
    loss_bound: Annotated[float, Field(gt=0, le=1e6)]
    auroc_bins: Annotated[int, Field(ge=2, le=4096)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        """Regression has a range, classification none."""
        if (self.loss_name == "mse") != (self.target_bounds is not None):
            raise ValueError(f"target_bounds = {self.target_bounds!r} does not suit loss_name = {self.loss_name!r}")
        if self.target_bounds is not None and not self.target_bounds[0] < self.target_bounds[1]:
            raise ValueError(f"target_bounds = {self.target_bounds!r}: give the lower first")
        return self


class Architecture(_Table):
    """Which model of the zoo this is, and where its weights lie."""

    name: ModelName
    hyperparameters: dict[str, Any]
    file: Literal["model/model.safetensors"]


class Document(_Table):
    """The whole of ``bundle.json``; ``signature`` and ``data`` are checked by their own types."""

    format: Literal["confide-bundle/1"]
    name: ModelName
    description: Annotated[str, Field(max_length=2000)]
    created: Line
    run: Line
    task: Scoring
    signature: dict[str, Any]
    model: Architecture
    data: dict[str, Any]
    default: VariantName
    variants: Annotated[tuple[Variant, ...], BeforeValidator(_tuple), Field(min_length=1, max_length=MAX_VARIANTS)]

    @model_validator(mode="after")
    def _variants_are_distinct(self) -> Self:
        """Names and files stand once, and the default is one of them."""
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names) or len({variant.file.lower() for variant in self.variants}) < len(names):
            raise ValueError("variants: two have one name or one file")
        if self.default not in names:
            raise ValueError(f"default = {self.default!r}: {nearest(self.default, names)}")
        return self


def read_document(document: Mapping[str, Any]) -> tuple[Document, Signature, DataSettings]:
    """Return what a ``bundle.json`` says, once every field has been checked.

    Raises:
        BundleError: a field is missing, unknown, of the wrong type or at odds with another; it is named.
    """
    try:
        checked = Document.model_validate(document)
        data = DataSettings.model_validate(checked.data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"bundle.json: {place}: {first['msg']}; publish the run again") from None
    try:
        signature = Signature.from_dict(checked.signature)
        # A bundle may come from elsewhere: whoever loads it must not be made to open files by it.
        data.refuse_paths()
        expected = data.signature()
    except ModelError as error:
        raise BundleError(f"bundle.json: {error}") from None
    if signature != expected:
        raise BundleError("bundle.json: signature is not that of its data; publish the run again")
    if (checked.task.loss_name == "mse") != (signature.target == "value"):
        raise BundleError(
            f"bundle.json: task.loss_name={checked.task.loss_name!r} does not suit target={signature.target!r}; "
            "publish the run again"
        )
    if checked.task.target_bounds is not None and not math.isfinite(
        checked.task.target_bounds[1] - checked.task.target_bounds[0]
    ):
        raise BundleError("bundle.json: task.target_bounds are too far apart; publish the run again")
    return checked, signature, data
