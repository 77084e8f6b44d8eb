"""What publishing makes of a model: ``python -m benchmarks.publish [--json FILE] [--quick]``.

A model of each family is trained for a moment, in clear, on scikit-learn's digits blown up to 28 x 28, shifted and
made noisy; test records come from other digits. Its variants are made as ``confide publish`` makes them, on public
records apart from those that they are scored on. Latencies are medians of one thread; ONNX Runtime and eager PyTorch
take turns, and each keeps its least median, so that their ratio holds on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from models import export, zoo
from models.compress.measure import Measured, latency_ms
from models.compress.plan import CompressionPlan
from models.compress.run import compress
from models.public import PublicRecords
from models.signature import Signature
from models.task import Task, task_for

TEST = 10_000
TRAIN = 12_000
CALIBRATION = 4_000
BASE = 1_200
LATENCY_BAR: Final = 0.5
ACCURACY_BAR: Final = -0.005


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model, how long it is trained for, and how small its best int8 variant must be."""

    name: str
    kind: Literal["image", "sequence"]
    hyperparameters: Mapping[str, object]
    steps: int
    bar: float

    @property
    def signature(self) -> Signature:
        """What it takes: the picture, or its rows one by one."""
        shape = (1, 28, 28) if self.kind == "image" else (28, 28)
        return Signature(kind=self.kind, shape=shape, target="classes", outputs=10)


SETTINGS: Final = {
    "cnn": Setting(name="cnn", kind="image", hyperparameters={"channels": (32, 64)}, steps=200, bar=0.30),
    "mlp": Setting(name="mlp", kind="image", hyperparameters={"hidden": (64, 64)}, steps=800, bar=0.30),
    "lstm": Setting(name="lstm", kind="sequence", hyperparameters={"hidden": 96}, steps=600, bar=0.30),
    "transformer-60k": Setting(
        name="transformer", kind="sequence", hyperparameters={"width": 56, "feedforward": 136}, steps=400, bar=0.34
    ),
    "transformer-110k": Setting(
        name="transformer", kind="sequence", hyperparameters={"layers": 3, "feedforward": 148}, steps=300, bar=0.30
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of one model; accuracies are shares of the test records, latencies of one record at a time."""

    model: str
    parameters: int
    variant: str
    bytes: int
    ratio: float
    accuracy: float
    accuracy_change: float
    kept: bool
    latency_ms_b1: float
    eager_ms_b1: float


@dataclass(frozen=True, kw_only=True)
class Records:
    """Pictures (N, 28, 28) in [0, 1] and their digits."""

    pictures: NDArray[np.float32]
    labels: NDArray[np.int64]

    def inputs(self, kind: str) -> NDArray[np.float32]:
        """Return them as a model takes them."""
        return self.pictures[:, None] if kind == "image" else self.pictures * 2 - 1


def digits(count: int, *, test: bool, seed: int) -> Records:
    """Return digits three times as large, moved by up to two pixels, with noise; from one part of the set only."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second to load

    found = load_digits()
    pictures, labels = found.images.astype(np.float32) / 16, found.target.astype(np.int64)
    part = slice(BASE, None) if test else slice(BASE)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(labels[part]), count)
    large = np.kron(pictures[part][chosen], np.ones((1, 3, 3), np.float32))
    made = generator.normal(0, 0.25, (count, 28, 28)).astype(np.float32)
    for picture, one, (down, right) in zip(made, large, generator.integers(0, 5, (count, 2)), strict=True):
        picture[down : down + 24, right : right + 24] += one
    return Records(pictures=made.clip(0, 1), labels=labels[part][chosen])


def trained(setting: Setting, task: Task, records: Records, steps: int) -> nn.Module:
    """Return the model after a short training in clear."""
    model = zoo.build(setting.name, setting.signature, setting.hyperparameters, seed=0)
    inputs, targets = torch.from_numpy(records.inputs(setting.kind)), torch.from_numpy(records.labels)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (64,), generator=generator)
        optimiser.zero_grad()
        task.losses(model(inputs[chosen]), targets[chosen]).mean().backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
        schedule.step()
    return model.eval()


def side_by_side(model: nn.Module, encoded: bytes, record: NDArray[np.float32]) -> tuple[float, float]:
    """Return milliseconds of ONNX Runtime and of eager PyTorch for one record."""
    ready, tensor = export.session(encoded), torch.from_numpy(record)

    def eager() -> None:
        with torch.inference_mode():
            model(tensor)

    turns = [(latency_ms(lambda: export.run(ready, record)), latency_ms(eager)) for _ in range(5)]
    return min(onnx for onnx, _ in turns), min(eager for _, eager in turns)


def measure(label: str, *, test: int, steps: int | None, variants: Sequence[str] | None) -> list[Row]:
    """Train a model and measure its variants, float32 first."""
    setting = SETTINGS[label]
    task = task_for(setting.name, setting.signature)
    model = trained(
        setting,
        task,
        digits(TRAIN if steps is None else test, test=False, seed=0),
        setting.steps if steps is None else steps,
    )
    public, judged = digits(min(CALIBRATION, test), test=False, seed=1), digits(test, test=True, seed=2)
    plan = CompressionPlan.usual(setting.name) if variants is None else CompressionPlan.parse(variants)
    with tempfile.TemporaryDirectory() as folder:
        done = compress(
            model,
            name=setting.name,
            task=task,
            hyperparameters=setting.hyperparameters,
            plan=plan,
            calibration=PublicRecords.declared(public.inputs(setting.kind), origin="bundled", source="digits"),
            evaluation=PublicRecords.declared(
                judged.inputs(setting.kind), judged.labels, origin="test set", source="digits"
            ),
            folder=Path(folder),
        )
        encoded = Path(folder, str(done.kept[0].file)).read_bytes()
    full_ms, eager_ms = side_by_side(model, encoded, judged.inputs(setting.kind)[:1])
    order = {"+".join(steps): position for position, steps in enumerate(plan.variants)}
    found = sorted((*done.kept, *done.dropped), key=lambda one: order[one.name])
    return [_row(label, one, full_ms if one is done.kept[0] else one.latency_ms_b1, eager_ms) for one in found]


def _row(label: str, one: Measured, latency: float | None, eager: float) -> Row:
    """Return a line of the table."""
    figures = (one.parameters, one.bytes, one.ratio, one.score, one.score_change, latency)
    if None in figures:
        raise RuntimeError(f"{label}, {one.name}: not measured; {one.reason}")
    parameters, size, ratio, accuracy, change, latency = (float(figure or 0) for figure in figures)
    return Row(
        model=label,
        parameters=int(parameters),
        variant=one.name,
        bytes=int(size),
        ratio=round(ratio, 4),
        accuracy=round(accuracy, 4),
        accuracy_change=round(change, 4),
        kept=one.kept,
        latency_ms_b1=latency,
        eager_ms_b1=eager,
    )


def verdicts(rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Return what is asked of a model's variants, and whether it is so."""
    full, setting = rows[0], SETTINGS[rows[0].model]
    # Of the whole model: a pruned or distilled one is smaller whatever its bits.
    best = min((row for row in rows if row.variant.startswith("int8")), key=lambda row: row.ratio)
    speed = full.latency_ms_b1 / full.eager_ms_b1
    return [
        (f"{best.variant}: {best.ratio:.3f} of float32's bytes (at most {setting.bar:.2f})", best.ratio <= setting.bar),
        (
            f"{best.variant}: accuracy {100 * best.accuracy_change:+.2f} points (at least {100 * ACCURACY_BAR:+.1f})",
            best.accuracy_change >= ACCURACY_BAR,
        ),
        (f"float32: {speed:.2f} of eager PyTorch's latency (at most {LATENCY_BAR})", speed <= LATENCY_BAR),
    ]


def show(rows: Sequence[Row], console: Console) -> None:
    """Print a model's table and what is asked of it."""
    table = Table(title=f"{rows[0].model}: eager PyTorch {rows[0].eager_ms_b1:.3f} ms a record")
    for heading in ("variant", "parameters", "bytes", "ratio", "accuracy", "points", "ms a record", ""):
        table.add_column(heading, justify="left" if heading in ("variant", "") else "right")
    for row in rows:
        table.add_row(
            row.variant,
            f"{row.parameters:,}",
            f"{row.bytes:,}",
            f"{row.ratio:.3f}",
            f"{row.accuracy:.4f}",
            f"{100 * row.accuracy_change:+.2f}",
            f"{row.latency_ms_b1:.3f}",
            "" if row.kept else "dropped",
        )
    console.print(table)
    for told, met in verdicts(rows):
        console.print(f"  {told}{'' if met else ': MISSED'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and write the rows as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE")
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="train for a moment, and only quantise")
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        for label in options.models:
            quick = {"test": 1_000, "steps": 50, "variants": ["int8-dynamic", "int8-static"]}
            full = {"test": TEST, "steps": None, "variants": None}
            found = measure(label, **(quick if options.quick else full))
            show(found, Console(width=120))
            rows += found
    finally:
        torch.set_num_threads(threads)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
