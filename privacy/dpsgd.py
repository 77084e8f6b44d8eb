"""One department's local training: DP-SGD assembled from Opacus' optimizer, our sums and our randomness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from privacy.errors import NonFiniteModel, PlanExceeded, UnsupportedModule
from privacy.gradients.base import Losses, PerRecord
from privacy.gradients.check import check_exact, check_module
from privacy.gradients.choice import candidates
from privacy.gradients.methods import build
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan

Correction = Callable[[list[nn.Parameter]], list[Tensor]]
Progress = Callable[[int, int], None]


class SecureOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus publishes no types
    """Opacus' optimizer with clipped sums from any :class:`PerRecord` and noise from :class:`SecureRandom`.

    Order of a step, public divisor and the ``step_hook`` between noise and update are Opacus'. Replaced are
    the two steps in which Opacus reads per-record gradients off the parameters and draws from torch's
    generator.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, plan: PrivacyPlan, method: PerRecord, random: SecureRandom
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=plan.expected_batch_size,
        )
        self.method = method
        self.random = random
        self.batch: tuple[Tensor, Tensor] | None = None

    @property
    def grad_samples(self) -> list[Tensor]:
        """The trained parameters: ``pre_step`` only asks whether there are any."""
        return list(self.params)

    @property
    def accumulated_iterations(self) -> int:
        """Always one batch a step; Opacus would accept several and account for one."""
        return 1

    def clip_and_accumulate(self) -> None:
        """Put the clipped sum of :attr:`batch` into ``summed_grad``; a batch serves one step only."""
        if self.batch is None:
            raise PlanExceeded("step() without a fresh batch: set optimizer.batch before every step")
        (inputs, targets), self.batch = self.batch, None
        sums = self.method(inputs, targets, self.max_grad_norm)
        for p, total in zip(self.method.parameters, sums, strict=True):
            if p.requires_grad:
                p.summed_grad = total  # type: ignore[attr-defined]  # where Opacus keeps it

    def add_noise(self) -> None:
        """Put the noised sum into ``grad``: one draw for all coordinates."""
        sums = [p.summed_grad for p in self.params]
        flat = torch.cat([total.reshape(-1) for total in sums])
        self.random.add_normal_(flat, self.noise_multiplier * self.max_grad_norm)
        start = 0
        for p in self.params:
            p.grad = flat[start : start + p.numel()].view_as(p)
            p.summed_grad = None
            start += p.numel()

    def release(self) -> None:
        """Take Opacus' attributes and the last gradients off the parameters."""
        for p in self.params:
            p.grad = None
            for name in ("summed_grad", "grad_sample"):
                if hasattr(p, name):
                    delattr(p, name)


class PrivateTrainer:
    """Runs a plan's local steps on a model, in place.

    Each step (Abadi et al. 2016, algorithm 1, with a public divisor): every record joins the batch with
    probability ``sampling_rate``; the gradients of the batch are clipped to ``max_grad_norm`` and summed;
    noise of ``noise_multiplier * max_grad_norm`` joins every coordinate; the sum is divided by
    ``sampling_rate * declared_size``. Neither the rate nor the divisor nor the number of steps depends on the
    data: an empty batch, or an empty data set, still adds noise and still counts.

    Attributes:
        method: name of the gradient method in use.
    """

    def __init__(self, model: nn.Module, losses: Losses, plan: PrivacyPlan, *, method: str | None = None) -> None:
        """Prepare training.

        Args:
            model: plain torch modules, float32, on the CPU.
            losses: ``losses(outputs, targets) -> (B,)``, one loss per record.
            plan: what is paid for.
            method: a key of ``gradients.methods.METHODS``; by default the fastest exact one, which is
                compared with single records on the first batch and given up for the next best if it is not
                exact.

        Raises:
            UnsupportedModule: a layer mixes records, or the method cannot do the model.
        """
        check_module(model)
        self._model = model
        self._losses = losses
        self._plan = plan
        self._candidates = candidates(model) if method is None else [method]
        self._sums = build(model, losses, self._candidates.pop(0))
        self._checked = False

    @property
    def method(self) -> str:
        """Name of the gradient method in use."""
        return self._sums.name

    def train(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        random: SecureRandom,
        correction: Correction | None = None,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Train for one round and return the steps executed: ``steps``, or the plan's ``steps_per_round``.

        Args:
            inputs: private records, (N, ...); N may be 0.
            targets: their targets, (N, ...).
            learning_rate: of SGD.
            momentum: of SGD.
            random: source of sampling and noise.
            correction: called after noise and division with the trained parameters; what it returns is
                added to their gradients (FedProx, SCAFFOLD). It must not look at private data.
            steps: fewer steps than the plan's.
            progress: called after each step with (steps done, steps in all).

        Raises:
            PlanExceeded: more steps than the plan's were asked for.
            UnsupportedModule: the method is not exact on this model, or training changed a buffer.
            NonFiniteModel: a parameter ended up NaN or infinite.
        """
        if len(inputs) != len(targets):
            raise ValueError("inputs and targets differ in length: one target per record")
        count = self._plan.steps_per_round if steps is None else steps
        if not 0 <= count <= self._plan.steps_per_round:
            raise PlanExceeded(
                f"steps={count}: the plan pays for {self._plan.steps_per_round} steps a round; ask for 0 up to that"
            )
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        optimizer = SecureOptimizer(
            torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum),
            plan=self._plan,
            method=self._sums,
            random=random,
        )
        if correction is not None:
            optimizer.attach_step_hook(_adding(correction, parameters))
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.train()
        try:
            for step in range(count):
                rows = torch.from_numpy(random.bernoulli(len(inputs), self._plan.sampling_rate).nonzero()[0])
                batch = inputs[rows], targets[rows]
                if not self._checked:
                    optimizer.method = self._settle(*_made_up(inputs, targets))
                optimizer.batch = batch
                optimizer.step()
                if progress is not None:
                    progress(step + 1, count)
        finally:
            optimizer.release()
            for module, mode in modes:
                module.training = mode
        self._refuse_residue(buffers)
        return count

    def _settle(self, inputs: Tensor, targets: Tensor) -> PerRecord:
        """Check the method on made-up records, and move on to the next candidate if it fails."""
        while True:
            try:
                self._checked = check_exact(self._sums, inputs, targets)
            except UnsupportedModule:
                if not self._candidates:
                    raise
                self._sums = build(self._model, self._losses, self._candidates.pop(0))
            else:
                return self._sums

    def _refuse_residue(self, before: dict[str, Tensor]) -> None:
        """Refuse what must never be sent: non-finite parameters, and statistics that got into buffers."""
        for name, p in self._model.named_parameters():
            if not bool(p.isfinite().all()):
                raise NonFiniteModel(
                    f"{name}: NaN or infinite after training; the received model already was, or "
                    "learning_rate is "
                    "too high for this much noise"
                )
        for name, buffer in self._model.named_buffers():
            if name not in before or not torch.equal(buffer, before[name]):
                raise UnsupportedModule(
                    f"buffer {name}: training changed it, and no noise covers buffers; make it constant"
                )


def _adding(correction: Correction, parameters: list[nn.Parameter]) -> Callable[[DPOptimizer], None]:
    """Opacus' step hook: between noise and update."""

    def hook(_: DPOptimizer) -> None:
        with torch.no_grad():
            for p, term in zip(parameters, correction(parameters), strict=True):
                if p.grad is not None:
                    p.grad.add_(term)

    return hook


def _made_up(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Two records of the same shapes and types. Real ones would make a refusal depend on private data."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, *inputs.shape[1:])
    if inputs.is_floating_point():
        records = torch.rand(shape, generator=generator, dtype=inputs.dtype)
    else:  # token ids: 0 and 1 are in every vocabulary
        records = torch.randint(0, 2, shape, generator=generator).to(inputs.dtype)
        records.reshape(2, -1)[:, 0] = 1  # not padding throughout
    answers = torch.arange(2).reshape(2, *[1] * (targets.dim() - 1)).expand(2, *targets.shape[1:])
    return records, answers.to(targets.dtype).contiguous()
