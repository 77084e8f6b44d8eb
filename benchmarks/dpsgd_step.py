"""The cost of one DP-SGD step over a plain one: ``python -m benchmarks.dpsgd_step [--json FILE] [--quick]``.

A plain step is forward, backward and SGD update of ordinary modules. A private step is everything: clipped
sum, secure noise and update. CPU time of one thread; all variants of a setting take turns, and each keeps its
minimum, so that ratios hold on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from models import zoo
from models.signature import Signature
from privacy.dpsgd import SecureOptimizer
from privacy.gradients.base import PerRecord
from privacy.gradients.choice import choose
from privacy.gradients.functional import Vmap
from privacy.gradients.methods import METHODS, build, supported
from privacy.noise import SecureRandom
from privacy.plan import PrivacyPlan

BARS = {"cnn": 2.3, "lstm": 4.0, "transformer": 1.6}


class Cnn(nn.Sequential):
    """The customary 60 thousand parameter network for 28 x 28 images."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 90),
            nn.ReLU(),
            nn.Linear(90, 10),
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``peak_mb`` is the process's high-water mark so far."""

    model: str
    batch: int
    method: str
    ms: float
    ratio_to_plain: float
    ratio_to_hooks: float | None
    chosen: bool
    peak_mb: float


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each record, (B,)."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def setting(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a model and the shape of one record."""
    if name == "cnn":
        return Cnn(), (1, 28, 28)
    if name == "linear":
        image = Signature(kind="image", shape=(1, 28, 28), target="classes", outputs=10)
        return zoo.build("logistic", image, seed=0), image.shape
    if name == "mlp":
        image = Signature(kind="image", shape=(1, 28, 28), target="classes", outputs=10)
        return zoo.build("mlp", image, seed=0), image.shape
    signature = Signature(kind="sequence", shape=(50, 32), target="classes", outputs=10)
    return zoo.build(name, signature, seed=0), signature.shape


def steps(name: str, batch: int, *, compile: bool) -> tuple[dict[str, Callable[[], None]], str]:
    """Return every variant of a step, by method, and the method that is chosen."""
    torch.manual_seed(0)
    model, shape = setting(name)
    inputs, targets = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    plan = PrivacyPlan(
        sampling_rate=0.01,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_round=1,
        rounds=1,
        declared_size=batch * 100,
        delta=1e-6,
    )
    random = SecureRandom()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)

    def plain() -> None:
        sgd.zero_grad()
        losses(model(inputs), targets).mean().backward()  # type: ignore[no-untyped-call]  # torch
        sgd.step()

    def private(method: PerRecord) -> Callable[[], None]:
        optimizer = SecureOptimizer(sgd, plan=plan, method=method, random=random)

        def step() -> None:
            optimizer.batch = inputs, targets
            optimizer.step()

        return step

    variants: dict[str, Callable[[], None]] = {"plain": plain}
    for method in METHODS:
        if supported(model, method) is None:
            variants[method] = private(build(model, losses, method))
    if compile and supported(model, "vmap") is None:
        variants["vmap compiled"] = private(Vmap(model, losses, compile=True))
    return variants, choose(model, batch, 1000)


def measure(variants: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Return the least CPU milliseconds of each variant, all taking turns."""
    for variant in variants.values():
        variant()
        variant()
    least = dict.fromkeys(variants, float("inf"))
    end, turns = time.monotonic() + seconds, 0
    while turns < 3 or time.monotonic() < end:
        for name, variant in variants.items():
            start = time.process_time()
            variant()
            least[name] = min(least[name], (time.process_time() - start) * 1e3)
        turns += 1
    return least


def table(names: list[str], batches: list[int], seconds: float, *, compile: bool) -> list[Row]:
    """Measure every setting."""
    rows = []
    for name in names:
        for batch in batches:
            variants, chosen = steps(name, batch, compile=compile)
            least = measure(variants, seconds)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows += [
                Row(
                    model=name,
                    batch=batch,
                    method=method,
                    ms=round(ms, 2),
                    ratio_to_plain=round(ms / least["plain"], 2),
                    ratio_to_hooks=round(ms / least["hooks"], 2) if "hooks" in least else None,
                    chosen=method == chosen,
                    peak_mb=round(peak),
                )
                for method, ms in least.items()
            ]
    return rows


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--quick", action="store_true", help="2 s a setting instead of 15, batch 64 only")
    parser.add_argument("--compile", action="store_true", help="also measure compiled vmap (minutes to compile)")
    parser.add_argument("--models", default="cnn,lstm,gru,transformer,mlp,linear", help="comma-separated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = table(
        options.models.split(","),
        [64] if options.quick else [64, 256],
        2.0 if options.quick else 15.0,
        compile=options.compile,
    )
    shown = Table("model", "batch", "method", "ms", "/ plain", "/ hooks", "bar", title="One DP-SGD step, CPU ms")
    for row in rows:
        bar = BARS.get(row.model) if row.chosen else None
        verdict = "" if bar is None else f"<= {bar} {'met' if row.ratio_to_plain <= bar else 'MISSED'}"
        shown.add_row(
            row.model,
            str(row.batch),
            row.method + (" *" if row.chosen else ""),
            f"{row.ms:.2f}",
            f"{row.ratio_to_plain:.2f}",
            "" if row.ratio_to_hooks is None else f"{row.ratio_to_hooks:.2f}",
            verdict,
        )
    console = Console()
    console.print(shown)
    console.print("* chosen automatically")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
