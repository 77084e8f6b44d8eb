"""Pictures of a run: accuracy and loss per round, epsilon per department, departments' sizes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from server.runs import RunDirectory
from strategies.home import room

COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")


def draw(directory: RunDirectory) -> list[Path]:
    """Write the PNGs that the run's records allow; returns their paths."""
    # matplotlib keeps a cache of fonts in the user's home unless told where our state belongs
    os.environ.setdefault("MPLCONFIGDIR", str(room("matplotlib")))
    import matplotlib  # noqa: PLC0415 - slow to import, and no part of a department's installation

    matplotlib.use("Agg")
    rows = directory.metrics()
    document = directory.document()
    folder = directory.path / "plots"
    folder.mkdir(exist_ok=True)
    paths = []
    for metric in ("accuracy", "loss", "macro_f1", "auroc", "mae"):
        series = _series(rows, metric)
        if series:
            paths.append(_figure(folder / f"{metric}.png", partial(_lines, series=series, metric=metric)))
    epsilons = document.get("epsilon") or []
    if epsilons:
        paths.append(_figure(folder / "epsilon.png", lambda axes: _epsilon(axes, epsilons, document)))
    sizes = document.get("sizes") or {}
    if sizes:
        paths.append(_figure(folder / "sizes.png", lambda axes: _bars(axes, sizes, "declared records")))
    return paths


def _series(rows: list[dict[str, Any]], metric: str) -> dict[str, list[tuple[int, float]]]:
    """Points per curve; the validation of round r measures the model of round r - 1."""
    curves = {
        "public test set": [
            (row["round"], row["test"][metric]) for row in rows if row["trained"] and metric in row["test"]
        ],
        "validation (departments)": [
            (row["round"] - 1, row["validation"][metric]) for row in rows if metric in row["validation"]
        ],
    }
    return {name: points for name, points in curves.items() if points}


def _figure(path: Path, fill: Callable[[Any], None]) -> Path:
    """One PNG at a size that reads well in a page."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - see draw

    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    fill(axes)
    figure.savefig(path, metadata={"Software": "Confide"})
    plt.close(figure)
    return path


def _lines(axes: Any, series: dict[str, list[tuple[int, float]]], metric: str) -> None:
    """One line a curve."""
    for color, (name, points) in zip(COLORS, series.items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=color, label=name)
    axes.set_xlabel("round")
    axes.set_ylabel(metric.replace("_", " "))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)


def _epsilon(axes: Any, epsilons: list[dict[str, Any]], document: dict[str, Any]) -> None:
    """Grouped bars: one group a department, one bar an accountant."""
    accountants = [a for a in ("opacus_rdp", "opacus_prv", "pld") if all(e[a] is not None for e in epsilons)]
    width = 0.8 / len(accountants)
    for i, (color, accountant) in enumerate(zip(COLORS, accountants, strict=False)):
        positions = [x + (i - (len(accountants) - 1) / 2) * width for x in range(len(epsilons))]
        axes.bar(positions, [e[accountant] for e in epsilons], width * 0.92, color=color, label=accountant)
    target = document["settings"]["privacy"].get("epsilon")
    if target is not None:
        axes.axhline(target, color="#c53030", linewidth=1, linestyle="--", label="target")
    axes.set_xticks(range(len(epsilons)), [e["department"] for e in epsilons], rotation=20 if len(epsilons) > 6 else 0)
    axes.set_ylabel(f"epsilon at delta = {document['settings']['privacy']['delta']:g}")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))


def _bars(axes: Any, values: dict[str, float], label: str) -> None:
    """One bar a department."""
    axes.bar(range(len(values)), list(values.values()), color=COLORS[0])
    axes.set_xticks(range(len(values)), list(values), rotation=20 if len(values) > 6 else 0)
    axes.set_ylabel(label)
