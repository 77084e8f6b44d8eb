"""Training without privacy, step for step like the private one: same sampling, same divisor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from privacy.noise import SecureRandom
from strategies.rules import Correction
from strategies.settings import TrainingSettings


class PlainTrainer:
    """SGD on Poisson batches. Nothing it produces may leave a real machine that wants privacy.

    ``losses(outputs, targets)`` gives one loss per record, shape (B,).
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        training: TrainingSettings,
        declared_size: int,
    ) -> None:
        self._model, self._losses, self._training = model, losses, training
        self._divisor = training.sampling_rate * declared_size

    def train(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        random: SecureRandom,
        correction: Correction | None = None,
    ) -> int:
        """Run the planned steps in place; returns how many."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
        for _ in range(self._training.local_steps):
            chosen = torch.from_numpy(random.bernoulli(len(inputs), self._training.sampling_rate))
            optimizer.zero_grad(set_to_none=False)
            if bool(chosen.any()):
                loss = self._losses(self._model(inputs[chosen]), targets[chosen]).sum() / self._divisor
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if correction is not None:
                for parameter, extra in zip(parameters, correction(parameters), strict=True):
                    # Never the correction itself: the next zero_grad would write into it.
                    parameter.grad = extra.clone() if parameter.grad is None else parameter.grad + extra
            optimizer.step()
        return self._training.local_steps
