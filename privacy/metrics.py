"""Releases of validation metrics: counts and clipped sums leave with noise on every lane, or not at all."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import BadPlan
from privacy.noise import SecureRandom


def metric_release(
    lanes: NDArray[np.float64], sensitivity: float, metric_noise: float, random: SecureRandom
) -> NDArray[np.float64]:
    """Return ``lanes + N(0, (metric_noise * sensitivity)**2)`` on a public grid: one Gaussian release.

    Args:
        lanes: float64, any shape: everything one release tells, as one vector.
        sensitivity: L2 norm, over all lanes together, of what a single record adds at most; above 0.
        metric_noise: the plan's noise multiplier of a release.
        random: where the noise comes from.

    Raises:
        BadPlan: a lane is not finite, or a number is refused.
    """
    for name, value in (("sensitivity", sensitivity), ("metric_noise", metric_noise)):
        if not (math.isfinite(value) and value > 0):
            raise BadPlan(f"{name}={value!r}: must be finite and above 0")
    if lanes.dtype != np.float64:
        raise BadPlan(f"lanes.dtype={lanes.dtype}: must be float64")
    if not np.isfinite(lanes).all():
        raise BadPlan("lanes: one is NaN or infinite; clip every record's contribution before summing")
    noised = torch.from_numpy(np.array(lanes, dtype=np.float64, order="C"))
    return random.add_normal_(noised, metric_noise * sensitivity).numpy()
