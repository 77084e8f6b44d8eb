"""What a federation is trying to do: its loss, and the sums its metrics are computed from.

Departments never send a metric. They send *lanes*: sums over records of contributions that are each bounded
to [0, 1], so that they can be noised, sealed and added up; metrics are computed from the totals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models import zoo
from models.errors import BadTask, SignatureMismatch
from models.scores import binary_auroc, macro_f1, ratio
from models.signature import Signature, known_fields

PER_CLASS_LIMIT: Final = 50

_TARGET_OF_LOSS: Final = {"cross-entropy": "classes", "hinge": "classes", "mse": "value"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """How records are scored; every field is public.

    Attributes:
        signature: what a record and its target are.
        loss_name: ``"cross-entropy"``, ``"hinge"`` (Crammer & Singer, JMLR 2001: ``max(0, 1 + max_{j != y}
            s_j - s_y)``) or ``"mse"``.
        target_bounds: regression only: the public range of the targets, in their own units. A model's
            outputs are targets scaled from this range to [-1, 1], because clipping and noise need a known
            scale; targets are always given in their own units, and clipped to the range.
        loss_bound: what a record's loss is clipped to in the lanes. Scaled squared errors never pass the
            default.
        auroc_bins: bins of the two score histograms of a binary task, equal in width over [0, 1].

    Targets are int64 ``(B,)`` in ``[0, outputs)`` for classes, float32 ``(B, outputs)`` for values, or
    ``(B,)`` where ``outputs == 1``.

    Raises:
        BadTask: a field does not suit the others.
    """

    signature: Signature
    loss_name: Literal["cross-entropy", "hinge", "mse"]
    target_bounds: tuple[float, float] | None = None
    loss_bound: float = 4.0
    auroc_bins: int = 32

    def __post_init__(self) -> None:
        target = _TARGET_OF_LOSS.get(self.loss_name) if isinstance(self.loss_name, str) else None
        if target != self.signature.target:
            fit = [name for name, each in _TARGET_OF_LOSS.items() if each == self.signature.target]
            raise BadTask(f"loss={self.loss_name!r}: target={self.signature.target!r} needs one of {', '.join(fit)}")
        if not _is_number(self.loss_bound) or not 0 < self.loss_bound <= 1e6:
            raise BadTask(f"loss_bound={self.loss_bound!r}: must be a number in (0, 1e6]")
        if type(self.auroc_bins) is not int or not 2 <= self.auroc_bins <= 4096:
            raise BadTask(f"auroc_bins={self.auroc_bins!r}: must be an integer in [2, 4096]")
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Values need a finite, ordered range; classes have none."""
        if self.signature.target == "classes":
            if self.target_bounds is not None:
                raise BadTask(f"target_bounds={self.target_bounds!r}: only target='value' has a range; leave it out")
        elif (
            not isinstance(self.target_bounds, tuple)
            or len(self.target_bounds) != 2
            or not all(_is_number(bound) for bound in self.target_bounds)
            or not self.target_bounds[0] < self.target_bounds[1]
        ):
            raise BadTask(
                f"target_bounds={self.target_bounds!r}: target='value' needs a public range (low, high), "
                "low < high, chosen without looking at private data"
            )
        else:
            low, high = self.target_bounds
            if high - low < max(1e-30, 1e-6 * max(abs(low), abs(high))):
                raise BadTask(
                    f"target_bounds={self.target_bounds!r}: float32 cannot resolve so narrow a range; "
                    "subtract an offset from the targets"
                )

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each record's loss, unclipped and differentiable: ``(B, outputs), targets -> (B,)``.

        The squared error is averaged over a record's targets. No branch depends on a value, so the function
        works under ``torch.func``; labels are not range-checked here.

        Raises:
            SignatureMismatch: a shape does not fit the signature.
        """
        self._check_batch(outputs, targets)
        if self.loss_name == "mse":
            return (outputs - self.scale_targets(targets, like=outputs)).square().mean(dim=1)
        if self.loss_name == "cross-entropy":
            return functional.cross_entropy(outputs, targets, reduction="none")
        own = targets[:, None] == torch.arange(self.signature.outputs, device=targets.device)
        rival = outputs.masked_fill(own, -torch.inf).amax(dim=1)
        return functional.relu(1 + rival - outputs.gather(1, targets[:, None]).squeeze(1))

    def scale_targets(self, targets: Tensor, *, like: Tensor | None = None) -> Tensor:
        """Return regression targets clipped to their public range and scaled to [-1, 1]: ``(B, outputs)``.

        With ``like`` the result takes its dtype.
        """
        low, high = self._range()
        if targets.dim() == 1:
            targets = targets[:, None]
        scaled = (targets.clamp(low, high) - low) * (2 / (high - low)) - 1
        return scaled if like is None else scaled.to(like.dtype)

    def unscale(self, outputs: Tensor) -> Tensor:
        """Return a regression model's outputs in the targets' own units, clipped to the public range."""
        low, high = self._range()
        return (outputs.clamp(-1, 1) + 1) * ((high - low) / 2) + low

    @property
    def lane_names(self) -> tuple[str, ...]:
        """The names of the lanes, in order."""
        if self.signature.target == "value":
            return ("records", "loss", "squared_error", "absolute_error")
        classes = range(self.signature.outputs)
        if len(classes) > PER_CLASS_LIMIT:
            return ("records", "loss", "correct")
        names = ["records", "loss"]
        for lane in ("true_positives", "predicted", "actual"):
            names += [f"{lane}/{k}" for k in classes]
        if len(classes) == 2:
            for lane in ("positive_scores", "negative_scores"):
                names += [f"{lane}/{k}" for k in range(self.auroc_bins)]
        return tuple(names)

    @property
    def lane_sensitivity(self) -> float:
        """The L2 norm that zeroing out one record can change the lanes by, at most.

        A record adds at most 1 to each of: records, loss, and then squared and absolute error; or
        ``correct``; or one of the true positives, one of the predicted, one of the actual classes and, in a
        binary task, one bin of one histogram.
        """
        if self.signature.target == "value":
            return 2.0
        if self.signature.outputs > PER_CLASS_LIMIT:
            return math.sqrt(3)
        return math.sqrt(6 if self.signature.outputs == 2 else 5)

    @torch.no_grad()
    def lanes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums over a batch, one for each of :attr:`lane_names`: float64 ``(L,)`` on the CPU.

        A record whose output is not finite counts as no class's prediction, with a score of one half and,
        where its loss is not a number, with the highest: its contribution stays within the bounds of
        :attr:`lane_sensitivity` whatever the model did.

        Raises:
            SignatureMismatch: a shape does not fit the signature, or a label lies outside ``[0, outputs)``.
        """
        self._check_batch(outputs, targets)
        outputs, targets = outputs.detach().cpu(), targets.detach().cpu()
        if self.signature.target == "classes":
            classes = self.signature.outputs
            if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= classes):
                raise SignatureMismatch(f"targets: a label lies outside [0, {classes}); fix the classes")
            counts = self._class_counts(outputs, targets)
        else:
            counts = self._value_errors(outputs, targets)
        losses = (self.losses(outputs, targets).double() / self.loss_bound).nan_to_num(nan=1.0).clamp(0, 1)
        records = torch.tensor([len(outputs)], dtype=torch.float64)
        return torch.cat([records, losses.sum()[None], *(count.double() for count in counts)])

    def metrics(self, lanes: NDArray[np.float64]) -> dict[str, float]:
        """Return the metrics of summed lanes, which may carry noise.

        ``loss`` (of losses clipped to ``loss_bound``); for classes ``accuracy``, up to 50 classes
        ``macro_f1`` (over the classes that occur, as scikit-learn has it) and for two ``auroc`` (exact up
        to ties within a bin); for values ``mse`` and ``mae`` in the targets' units. Each is kept within its
        natural range, and one whose denominator is not positive is left out, so no value is ever NaN.

        Raises:
            SignatureMismatch: not a finite ``(L,)`` array.
        """
        lanes = np.asarray(lanes, dtype=np.float64)
        names = self.lane_names
        if lanes.shape != (len(names),) or not np.isfinite(lanes).all():
            raise SignatureMismatch(f"lanes of shape {lanes.shape}: needs {len(names)} finite numbers")
        records = lanes[0]
        found = {"loss": ratio(lanes[1], records, self.loss_bound)}
        if self.signature.target == "value":
            low, high = self._range()
            found["mse"] = ratio(lanes[2], records, (high - low) ** 2)
            found["mae"] = ratio(lanes[3], records, high - low)
        elif self.signature.outputs > PER_CLASS_LIMIT:
            found["accuracy"] = ratio(lanes[2], records)
        else:
            end = 2 + 3 * self.signature.outputs
            hits, guessed, actual = lanes[2:end].reshape(3, -1)
            found["accuracy"] = ratio(hits.sum(), records)
            found["macro_f1"] = macro_f1(hits, guessed, actual)
            if self.signature.outputs == 2:
                positive, negative = lanes[end:].reshape(2, -1)
                found["auroc"] = binary_auroc(positive, negative)
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON can hold them."""
        bounds = None if self.target_bounds is None else list(self.target_bounds)
        return {
            "signature": self.signature.to_dict(),
            "loss_name": self.loss_name,
            "target_bounds": bounds,
            "loss_bound": self.loss_bound,
            "auroc_bins": self.auroc_bins,
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Rebuild what :meth:`to_dict` returned.

        Raises:
            BadTask, BadSignature: a field is missing, unknown or invalid.
        """
        given = dict(known_fields(cls, values, BadTask))
        given["signature"] = Signature.from_dict(given["signature"])
        if isinstance(given["target_bounds"], list):
            given["target_bounds"] = tuple(given["target_bounds"])
        return cls(**given)

    def _class_counts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the lanes of a classification after the loss."""
        classes = self.signature.outputs
        finite = outputs.isfinite().all(dim=1)
        guesses = outputs.argmax(dim=1)
        right = finite & (guesses == targets)
        if classes > PER_CLASS_LIMIT:
            return [right.sum()[None]]
        counted = (targets[right], guesses[finite], targets)
        counts = [torch.bincount(labels, minlength=classes) for labels in counted]
        if classes == 2:
            scores = outputs.double().softmax(dim=1)[:, 1].where(finite, 0.5)
            bins = (scores * self.auroc_bins).long().clamp(max=self.auroc_bins - 1)
            counts += [torch.bincount(bins[targets == label], minlength=self.auroc_bins) for label in (1, 0)]
        return counts

    def _value_errors(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the lanes of a regression after the loss: errors as shares of the target range."""
        share = (outputs.double().clamp(-1, 1) - self.scale_targets(targets).double()) / 2
        share = share.nan_to_num(nan=1.0)
        return [share.square().mean(dim=1).sum()[None], share.abs().mean(dim=1).sum()[None]]

    def _range(self) -> tuple[float, float]:
        """Return the target range, which only regression has."""
        if self.target_bounds is None:
            raise BadTask(f"target={self.signature.target!r}: only regression targets are scaled")
        return self.target_bounds

    def _check_batch(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse shapes that broadcasting would otherwise accept."""
        wanted = (*outputs.shape[:1], self.signature.outputs)
        classes = self.signature.target == "classes"
        flat = (classes or self.signature.outputs == 1) and targets.shape == wanted[:1]
        if outputs.shape != wanted or not (flat or (not classes and targets.shape == wanted)):
            raise SignatureMismatch(
                f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}: needs outputs "
                f"(B, {wanted[-1]}) and targets {'(B,)' if classes else f'(B, {wanted[-1]})'}"
            )


def task_for(
    name: str,
    signature: Signature,
    *,
    target_bounds: tuple[float, float] | None = None,
    loss: str | None = None,
) -> Task:
    """Return the task a model is trained for: its default loss unless another is named.

    Raises:
        UnknownModel: there is no such model.
        SignatureMismatch: the model cannot have such targets.
        BadTask: the loss or the bounds do not suit the targets.
    """
    default = zoo.default_loss(name, signature)
    losses: dict[str, zoo.LossName] = {"cross-entropy": "cross-entropy", "hinge": "hinge", "mse": "mse"}
    chosen = default if loss is None else losses.get(loss)
    if chosen is None:
        raise BadTask(f"loss={loss!r}: must be one of {', '.join(losses)}")
    return Task(signature=signature, loss_name=chosen, target_bounds=target_bounds)


def _is_number(value: object) -> bool:
    """True for real numbers of a sane size that are not booleans."""
    # Compared rather than converted: an integer from JSON may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 <= value <= 1e30
