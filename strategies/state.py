"""What a run is at: everything a resumed run needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from strategies.lanes import FloatVector


@dataclass(kw_only=True)
class RunState:
    """Everything a resumed run needs: bit-equal continuation follows from it.

    ``round`` is the last attempted round; ``model`` float32 (P,); ``optimizer`` float64 (P,)
    vectors by name; ``control`` SCAFFOLD's server variate; ``asked`` counts, per department,
    the rounds in which it was asked to train, ``measured`` those in which it was asked for metrics:
    what it may have spent. ``aggregated`` counts the rounds that moved the model. Of sealed sums: ``epoch``
    is the last set-up's number, ``convicted`` are departments caught cheating, ``apart`` pairs that do not
    share a cohort again.
    """

    model: FloatVector
    round: int = 0
    optimizer: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    control: FloatVector | None = None
    asked: dict[str, int] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    aggregated: int = 0
    epoch: int = 0
    convicted: set[str] = field(default_factory=set)
    apart: set[frozenset[str]] = field(default_factory=set)
