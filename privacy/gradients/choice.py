"""Which method to take, from measurements.

``python -m benchmarks.dpsgd_step`` makes the table anew. One DP-SGD step over a plain step, one thread,
batches of 64 / 256 records:

===========  ===========  ============  ============  ===========  ===========  ===========
method       CNN          LSTM          GRU           Transformer  MLP          linear
===========  ===========  ============  ============  ===========  ===========  ===========
linear       -            -             -             -            -            1.8 / 1.7
bookkeeping  1.4 / 1.2    1.7 / 1.4     1.1 / 1.8     1.4 / 1.2    2.5 / 2.1    2.3 / 1.7
ew           1.8 / 1.7    -             -             1.5 / 1.2    11.5 / 20.1  4.7 / 9.7
vmap         2.0 / 1.6    17.9 / 10.2   -             1.8 / 1.6    15.1 / 28.4  10.9 / 23.1
hooks        2.2 / 2.3    9.2 / 6.7     5.5 / 8.3     1.8 / 1.6    14.8 / 27.0  5.3 / 12.5
ghost        2.3 / 1.9    10.7 / 8.0    6.1 / 10.8    2.5 / 2.1    4.4 / 6.9    3.9 / 6.9
===========  ===========  ============  ============  ===========  ===========  ===========

Over a plain step of 10 to 80 ms (CNN, LSTM, GRU, Transformer) or about 1 ms (MLP, linear), where the noise
and fixed costs weigh.
"""

from __future__ import annotations

from torch import nn

from privacy.errors import UnsupportedModule
from privacy.gradients.methods import supported

# Fastest first, by the table above; ghost is never chosen (its norms have no margin against cancellation).
_ORDER = ("linear", "bookkeeping", "ew", "vmap", "hooks")
_RECURRENT_ORDER = ("bookkeeping", "hooks", "vmap")


def candidates(model: nn.Module) -> list[str]:
    """Return the methods that can do ``model`` exactly, fastest first.

    Raises:
        UnsupportedModule: none can; the message says why for each.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    reasons = {name: supported(model, name) for name in (_RECURRENT_ORDER if recurrent else _ORDER)}
    found = [name for name, reason in reasons.items() if reason is None]
    if not found:
        each = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UnsupportedModule(f"no exact method for this model ({each})")
    return found


def choose(model: nn.Module, batch: int, steps: int) -> str:
    """Return the fastest exact method for a run of ``steps`` steps on batches of about ``batch`` records.

    At the sizes measured the order depends neither on the batch nor, as nothing is compiled, on the length
    of the run; both are asked for so that callers need not change when a method comes for which they matter.

    Raises:
        UnsupportedModule: no method can do the model.
    """
    del batch, steps
    return candidates(model)[0]
