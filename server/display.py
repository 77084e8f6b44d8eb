"""What a run will do, does and did, for people to read: progress, forecasts, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from strategies.console import console

if TYPE_CHECKING:
    from server.planning import Forecast
    from server.runs import RunDirectory
    from strategies.settings import RunSettings

FOLLOW_SECONDS = 0.1
ENDED = {"finished", "failed", "stopped"}


def follow_run(directory: RunDirectory, watch: Callable[[Mapping[str, Any]], None]) -> str:
    """Feed a run's lines to a display until it ends; returns its last status."""
    shown = 0
    while True:
        status = str(directory.document()["status"])
        rows = directory.metrics()
        for row in rows[shown:]:
            watch(row)
        shown = len(rows)
        if status in ENDED:
            return status
        time.sleep(FOLLOW_SECONDS)


def forecast_record(settings: RunSettings, told: Forecast) -> dict[str, Any]:
    """A forecast as JSON."""
    figure = told.epsilon
    return {
        "model": settings.model.name,
        "parameters": told.parameters,
        "bytes_down_per_round": told.bytes_down,
        "bytes_up_per_round": told.bytes_up,
        "rounds": told.rounds,
        "steps": told.steps,
        "noise_multiplier": settings.privacy.noise_multiplier,
        "metric_noise": settings.privacy.metric_noise,
        "delta": settings.privacy.delta if settings.privacy.on else None,
        "epsilon": None
        if figure is None
        else {"opacus_rdp": figure.opacus_rdp, "opacus_prv": figure.opacus_prv, "pld": figure.pld},
        "warnings": list(told.warnings),
    }


def show_forecast(settings: RunSettings, told: Forecast) -> None:
    """A forecast for people."""
    table = Table(show_header=False, box=None, title=f"What {settings.name} will do", title_justify="left")
    table.add_row("model", f"{settings.model.name}, {told.parameters:,} parameters")
    table.add_row("each department, each round", f"receives {told.bytes_down:,} bytes, sends {told.bytes_up:,}")
    table.add_row(
        "training", f"{told.rounds} rounds of {settings.training.local_steps} steps, {settings.strategy.name}"
    )
    table.add_row("sums", told.sealing)
    if told.epsilon is not None:
        figure, delta = told.epsilon, settings.privacy.delta
        prv = "not computed above 20" if figure.opacus_prv is None else f"{figure.opacus_prv:.3f}"
        table.add_row("noise multiplier", f"{settings.privacy.noise_multiplier:.4f}")
        table.add_row(
            f"epsilon at delta {delta:g}",
            f"Opacus RDP {figure.opacus_rdp:.3f}, Opacus PRV {prv}, PLD {figure.pld:.3f}",
        )
    console.print(table)
    for warning in told.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def epsilon_table(rows: list[dict[str, Any]], delta: float) -> Table:
    """Epsilon of each department by each accountant."""
    table = Table("department", "Opacus RDP", "Opacus PRV", "PLD", title=f"epsilon at delta = {delta:g}")
    for row in rows:
        prv = "above 20" if row["opacus_prv"] is None else f"{row['opacus_prv']:.3f}"
        table.add_row(escape(row["department"]), f"{row['opacus_rdp']:.3f}", prv, f"{row['pld']:.3f}")
    return table


def result_line(document: dict[str, Any]) -> str:
    """The last metrics in short."""
    return ", ".join(f"{key} {value:.4f}" for key, value in (document.get("result") or {}).items())


def sealing_line(record: Mapping[str, Any]) -> str:
    """How a run's sums were sealed, in one line."""
    if record["mode"] == "clear":
        return "IN CLEAR: the coordinator's side saw every department's own update"
    return (
        f"{record['mode']}: the coordinator saw sums alone; {record['threshold']} of {record['n']} departments "
        f"unmask one, never over fewer than {record['min_honest_sum']} honest ones"
    )
