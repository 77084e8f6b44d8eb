"""Refusals: layers that mix records, and methods that are not exact on a given model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from privacy.errors import UnsupportedModule
from privacy.gradients.base import Losses, PerRecord, Sum, per_record_losses

_FIX = {
    "BatchNorm": "replace it by nn.GroupNorm",
    "SyncBatchNorm": "replace it by nn.GroupNorm",
    "InstanceNorm": "build it with track_running_stats=False",
}
TOLERANCE = 1e-3
# Clipping divides by norm + 1e-6: below this norm that constant alone would look like a wrong sum.
LEAST_NORM = 1e-2


def check_module(model: nn.Module) -> None:
    """Refuse layers whose output for one record depends on other records, or that keep statistics.

    Raises:
        UnsupportedModule: names the layer's path, its type and the fix.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UnsupportedModule("the model has no trainable parameter: set requires_grad=True on some")
    for path, module in model.named_modules():
        kind = type(module).__name__
        where = f"{path or 'model'} ({kind})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            fix = _FIX["BatchNorm"]
            raise UnsupportedModule(
                f"{where}: mixes the records of a batch, so no record has a gradient of its own; {fix}"
                f"(num_groups, {module.num_features})"
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise UnsupportedModule(f"{where}: keeps statistics of private records in buffers; {_FIX['InstanceNorm']}")
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise UnsupportedModule(f"{where}: has no shape yet; run the model once on public data first")
    for name, p in model.named_parameters():
        if p.requires_grad and (p.device.type != "cpu" or p.dtype != torch.float32):
            raise UnsupportedModule(f"{name}: is {p.dtype} on {p.device}; only float32 on the CPU is supported")


def check_exact(method: PerRecord, inputs: Tensor, targets: Tensor) -> bool:
    """Compare a method with one-record-at-a-time autograd on two records, with clipping active.

    This finds what no list of layer types can: records mixed by plain tensor code, parameters used outside
    their layer, a batch axis that is not the first. It runs in evaluation mode, so that dropout draws
    nothing.

    Args:
        method: the method to try.
        inputs: at least one record, (B, ...).
        targets: its targets, (B, ...).

    Returns:
        False if nothing can be told, because a record's gradient is (nearly) zero or not finite.

    Raises:
        UnsupportedModule: the sums differ by more than 0.1 %.
    """
    model = method.model
    inputs, targets = inputs[:2], targets[:2]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        each = [
            _gradient(model, method.losses, inputs[row : row + 1], targets[row : row + 1]) for row in range(len(inputs))
        ]
        norms = [torch.stack([g.norm() for g in one]).norm() for one in each]
        if not all(norm.isfinite() and norm > LEAST_NORM for norm in norms):
            return False
        bound = 0.5 * float(min(norms))
        found = method(inputs, targets, bound)
    finally:
        for module, mode in modes:
            module.training = mode
    expected = [
        sum(g * (bound / norm) for g, norm in zip(of_one, norms, strict=True)) for of_one in zip(*each, strict=True)
    ]
    gap = torch.stack([(a - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
    if not gap <= TOLERANCE * bound * len(inputs):
        raise UnsupportedModule(
            f"method={method.name!r}: its clipped sum is not that of single records; the model mixes records, "
            "uses a parameter outside its layer or does not put the batch axis first: mend it, or choose "
            "method='vmap' unless it mixes records"
        )
    return True


def _gradient(model: nn.Module, losses: Losses, inputs: Tensor, targets: Tensor) -> Sum:
    """The plain gradient of a batch along ``model.parameters()``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = per_record_losses(losses, model(inputs), targets).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    by_id = {id(p): g for p, g in zip(parameters, found, strict=True) if g is not None}
    return [by_id.get(id(p), torch.zeros_like(p)) for p in model.parameters()]
