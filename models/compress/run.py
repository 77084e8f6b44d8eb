"""Making, measuring and choosing the variants of a model that are published."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import nn

from models import zoo
from models.compress import quantise
from models.compress.distill import student, teach
from models.compress.measure import Bench, Measured
from models.compress.plan import FULL, CompressionPlan, Steps, amount, file_of, name_of, split
from models.compress.prune import prune
from models.errors import CompressionError, ModelError
from models.export import to_onnx
from models.files import write_atomic
from models.public import PublicRecords, public_only
from models.task import Task
from models.vector import layout, size

_LESSONS: Final = 20_000
_HELD_BACK: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """Every variant of the plan: those kept, float32 first, and those dropped, each with the reason."""

    kept: tuple[Measured, ...]
    dropped: tuple[Measured, ...]


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What a model step made."""

    model: nn.Module
    hyperparameters: Mapping[str, object]
    encoded: bytes


def compress(
    model: nn.Module,
    *,
    name: str,
    task: Task,
    hyperparameters: Mapping[str, object],
    plan: CompressionPlan,
    calibration: PublicRecords,
    evaluation: PublicRecords | None,
    folder: Path,
    watch: Callable[[str], None] = lambda _: None,
) -> Compressed:
    """Write the variants of a model to ``folder/variants``, and measure each by running the file as written.

    Beside ``NAME.onnx`` lies ``NAME.safetensors`` with a pruned or distilled model's weights, named for its model
    step alone. A variant that cannot be made, or is worse than float32 by more than the plan's tolerance, is dropped
    and its file removed; float32 stays. Without evaluation records a variant is judged by its agreement with float32
    on a quarter of the calibration records, which then teach and calibrate nothing.

    Args:
        model: of the zoo; left as it was.
        name, task, hyperparameters: what the model is.
        plan: the variants.
        calibration: what quantisation ranges are measured on and smaller models are taught with.
        evaluation: what every variant is scored on; with targets, or it gives an agreement alone.
        folder: the bundle's; made if missing.
        watch: told of each variant in a line.

    Raises:
        PrivateDataRefused: the records are not :class:`models.public.PublicRecords`, whatever else they are.
        CompressionError: the records do not fit the model; calibration and evaluation have records in common; or
            float32 itself cannot be exported.
        StoreError: a file cannot be written.
    """
    calibration = public_only(calibration, "calibration")
    calibration.check(task.signature)
    if evaluation is not None:
        public_only(evaluation, "evaluation").check(task.signature)
        _disjoint(calibration, evaluation)
    if layout(model) != layout(zoo.outline(name, task.signature, zoo.validate_hyperparameters(name, hyperparameters))):
        raise CompressionError(f"model: is no {name!r} with these hyper-parameters and this signature; fix them")
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise CompressionError("model: holds a NaN or an infinity; publish the last sound version instead")
    judged, lessons = evaluation, calibration
    if judged is None:
        judged, lessons = calibration.split(_HELD_BACK, seed=plan.seed)
    workshop = _Workshop(model, name=name, task=task, hyperparameters=hyperparameters, plan=plan, lessons=lessons)
    bench = Bench(task, judged, tolerance=plan.tolerance)
    with _folder(folder):
        (folder / "variants").mkdir(parents=True, exist_ok=True)
    found = [_variant(steps, workshop, bench, folder, watch) for steps in plan.variants]
    kept = tuple(one for one in found if one.kept)
    for step in {split(one.steps)[0] for one in kept} - {None}:
        write_atomic(folder / file_of((str(step),), "safetensors"), workshop.weights(str(step)))
    return Compressed(kept=kept, dropped=tuple(one for one in found if not one.kept))


def _variant(steps: Steps, workshop: _Workshop, bench: Bench, folder: Path, watch: Callable[[str], None]) -> Measured:
    """Make, write and measure one variant; drop it if that fails."""
    path = folder / file_of(steps)
    try:
        made, encoded = workshop.make(steps)
        write_atomic(path, encoded)
        found = bench.measure(folder, steps, parameters=size(made.model))
    except CompressionError as error:
        if steps == (FULL,):
            raise
        found = Measured(name=name_of(steps), steps=steps, kept=False, reason=str(error))
    if steps == (FULL,) and not found.kept:
        raise CompressionError(f"model: {found.reason}; a model that is not sound cannot be published")
    if not found.kept:
        with _folder(folder):
            path.unlink(missing_ok=True)
    watch(f"{found.name}: {'kept' if found.kept else 'dropped'}, {found.reason}")
    return found


class _Workshop:
    """Makes variants; what two of them share is made once."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        task: Task,
        hyperparameters: Mapping[str, object],
        plan: CompressionPlan,
        lessons: PublicRecords,
    ) -> None:
        self._full = copy.deepcopy(model).to("cpu").eval()
        self._name, self._task, self._plan = name, task, plan
        self._values = zoo.validate_hyperparameters(name, hyperparameters)
        self._lessons = lessons.head(_LESSONS)
        self._made: dict[str | None, _Made | str] = {}

    def make(self, steps: Steps) -> tuple[_Made, bytes]:
        """Return the model behind a variant, and the variant's ONNX."""
        step, file = split(steps)
        made = self._model(step)
        if file == "float16":
            return made, quantise.float16(made.encoded)
        if file == "int8-dynamic":
            return made, quantise.int8_dynamic(made.encoded)
        if file == "int8-static":
            return made, quantise.int8_static(made.encoded, self._lessons)
        return made, made.encoded

    def weights(self, step: str) -> bytes:
        """Return a smaller model's weights, with what it takes to build it."""
        made = self._model(step)
        tensors = {key: parameter.detach().contiguous() for key, parameter in made.model.named_parameters()}
        built = json.dumps({"model": self._name, "hyperparameters": made.hyperparameters}, sort_keys=True)
        return safetensors.torch.save(tensors, metadata={"confide": built})

    def _model(self, step: str | None) -> _Made:
        """Return what a model step makes; a failure is remembered too."""
        if step not in self._made:
            try:
                self._made[step] = self._shrunk(step)
            except ModelError as error:
                self._made[step] = str(error)
        made = self._made[step]
        if isinstance(made, str):
            raise CompressionError(made)
        return made

    def _shrunk(self, step: str | None) -> _Made:
        """Make a smaller model and teach it; None is the model as it is."""
        signature, seed = self._task.signature, self._plan.seed
        smaller: nn.Module = self._full
        values: dict[str, Any] = self._values
        if step is not None:
            if step.startswith("prune"):
                smaller, values = prune(
                    self._full,
                    name=self._name,
                    signature=signature,
                    hyperparameters=self._values,
                    sparsity=amount(step),
                )
            else:
                smaller, values = student(
                    name=self._name,
                    signature=signature,
                    hyperparameters=self._values,
                    fraction=amount(step),
                    seed=seed,
                )
            teach(smaller, self._full, self._lessons, task=self._task, steps=self._plan.training_steps, seed=seed)
        return _Made(model=smaller, hyperparameters=values, encoded=to_onnx(smaller, signature))


def _disjoint(calibration: PublicRecords, evaluation: PublicRecords) -> None:
    """Refuse to score variants on records that they were made with."""
    scored = {row.tobytes() for row in evaluation.inputs}
    shared = sum(row.tobytes() in scored for row in calibration.inputs)
    # Public sets hold records that are alike by chance, tables of categories above all.
    if shared > len(calibration) // 2:
        raise CompressionError(
            f"evaluation: holds {shared} of the {len(calibration)} calibration records, so scores would flatter; "
            "use other records, or divide them with PublicRecords.split"
        )


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Tell of a folder that cannot be written to."""
    try:
        yield
    except OSError as error:
        raise CompressionError(f"{folder}: cannot be written ({error.strerror}); choose a writable folder") from error
