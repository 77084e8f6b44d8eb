"""Models and records whose gradients are known beforehand, and what the product's own training makes of them.

A canary is a record that alone has a row of the last layer to itself. Its gradient points in a known direction,
independent of every other canary's, with at least :data:`LOUDNESS` times the clipping norm. Whether it took part in
a step, and with what length, can then be read off the step: the difference of two consecutive states of the model.
Nothing inside the training loop is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.dpsgd import PrivateTrainer
from privacy.gradients.base import Losses
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan

# Gradients are this many times the clipping norm, or longer: a clip that is too loose by less shows in full.
LOUDNESS = 5.0
# What a clipped gradient moves the model by. Small, so that in models that are not linear a canary's direction stays
# what it was at the start of the round; far above what float32 can tell apart.
STRIDE = 3e-5


class Tokens(nn.Module):
    """Every layer of the token models: embedding, normalisation, LSTM, GRU and a head on the last step.

    Three steps of width 12 make the LSTM's norms come from Gram matrices and the GRU's from written-out gradients.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 12)
        self.norm = nn.LayerNorm(12)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.head = nn.Linear(12, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for token ids ``(B, 3)``."""
        steps = self.lstm(self.norm(self.embedding(tokens)))[0]
        return cast(Tensor, self.head(self.gru(steps)[0][:, -1]))


def _linear(outputs: int) -> nn.Module:
    return nn.Linear(2, outputs)


def _images(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, outputs))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of canary.

    Attributes:
        build: a model with the given number of outputs.
        shape: of one record.
        vocabulary: number of token ids, or None where records are float32.
        layers: what a department's model would have of it, in words.
    """

    build: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    vocabulary: int | None = None
    layers: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "linear": Kind(build=_linear, shape=(2,), layers="Linear"),
        "images": Kind(build=_images, shape=(2, 4, 4), layers="Conv2d, GroupNorm, Linear"),
        "tokens": Kind(build=Tokens, shape=(3,), vocabulary=16, layers="Embedding, LayerNorm, LSTM, GRU, Linear"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """A model and a data set of which each record is a canary or, as a coin falls, zeroed out.

    Zeroed out is what the plan's neighbouring relation replaces a record by: it contributes nothing.

    Attributes:
        model: float32, at the state from which every round starts.
        losses: of that model; zero for zeroed-out records.
        records: ``(m, ...)``: the canaries, present or not.
        present: bool ``(m,)``: which of them are.
        inputs: ``(m, ...)``: what is trained on.
        targets: int64 ``(m,)``: a record's own output, or -1 where it is zeroed out.
    """

    model: nn.Module
    losses: Losses
    records: Tensor
    present: NDArray[np.bool_]
    inputs: Tensor
    targets: Tensor

    def directions(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the unit gradients that the records of ``rows (n,)`` have or would have, float64 ``(n, P)``.

        By nothing but autograd, one record at a time.
        """
        parameters = list(self.model.parameters())
        found = []
        for row in rows.tolist():
            gradients = torch.autograd.grad(self.model(self.records[row : row + 1])[0, row], parameters)
            found.append(torch.cat([g.flatten() for g in gradients]))
        whole = torch.stack(found).double()
        return np.asarray(whole / whole.norm(dim=1, keepdim=True), np.float64)


def make(kind: str, count: int, *, share: float, max_grad_norm: float, coins: np.random.Generator) -> Canaries:
    """Return ``count`` canaries of a kind, each present with probability ``share``.

    Args:
        kind: a key of :data:`KINDS`.
        count: number of records, present or not.
        share: in (0, 1): one half for guessing games; the more, the more there is to see of clipping and sampling.
        max_grad_norm: the clipping norm that they are to exceed.
        coins: the auditor's own randomness, which must not be the one under test.
    """
    of = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(coins.integers(2**63)))
        model = of.build(count)
        records = torch.randn(count, *of.shape)
        if of.vocabulary is not None:
            records = torch.randint(1, of.vocabulary, (count, *of.shape))
    present = torch.from_numpy(coins.random(count) < share)
    while present.all():  # hardly ever; some coordinates must be left to the noise
        present = torch.from_numpy(coins.random(count) < share)
    with torch.no_grad():
        # Nobody uses the outputs of absent records. Near zero, float32 shows the noise there in all its digits.
        for p in list(model.parameters())[-2:]:
            p[~present] = 0.0
    # The gradient of an output with respect to its bias is one, so that of the whole is one or longer.
    scale = LOUDNESS * max_grad_norm

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        chosen = outputs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        return scale * chosen * (targets >= 0)

    return Canaries(
        model=model,
        losses=losses,
        records=records,
        present=present.numpy(),
        inputs=torch.where(present.view(-1, *[1] * len(of.shape)), records, torch.zeros_like(records)),
        targets=torch.where(present, torch.arange(count), -1),
    )


def observe(
    canaries: Canaries, plan: PrivacyPlan, *, method: str, random: Callable[[str], SecureRandom]
) -> NDArray[np.float64]:
    """Train the plan's rounds with the product's trainer and return what each step added up.

    Every round starts from the same model with a trainer and a generator of its own, as on a department's machine; in
    the end the model is back where it was.

    Args:
        canaries: model and records.
        plan: what to train with.
        method: of per-record gradients.
        random: gives the generator for a purpose, ``"train/1"`` and so on.

    Returns:
        The noised sum of clipped gradients of every step in units of ``max_grad_norm``, float64 ``(steps, P)``.

    Raises:
        PrivacyError: training was refused.
        ValueError: the model moved otherwise than by the plan's steps.
    """
    parameters = list(canaries.model.parameters())
    start = [p.detach().clone() for p in parameters]
    found = []
    for number in range(1, plan.rounds + 1):
        states = [_flat(parameters)]
        try:
            PrivateTrainer(canaries.model, canaries.losses, plan, method=method).train(
                canaries.inputs,
                canaries.targets,
                learning_rate=STRIDE * plan.expected_batch_size / plan.max_grad_norm,
                random=random(f"train/{number}"),
                progress=lambda *_, seen=states: seen.append(_flat(parameters)),
            )
            end = _flat(parameters)
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, start, strict=True):
                    p.copy_(value)
        if len(states) != plan.steps_per_round + 1 or not np.array_equal(states[-1], end):
            raise ValueError(f"round {number}: the model moved otherwise than by {plan.steps_per_round} steps")
        found.append(-np.diff(np.stack(states), axis=0) / STRIDE)
    return np.concatenate(found)


def _flat(parameters: list[nn.Parameter]) -> NDArray[np.float64]:
    """A copy of all parameters."""
    return torch.cat([p.detach().flatten() for p in parameters]).double().numpy()
