"""A run's progress on a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from strategies.console import console


class RunProgress:
    """Shows a run's lines as they come: round, loss, accuracy, epsilon, time left."""

    def __init__(self, progress: Progress, task: TaskID, rounds: int) -> None:
        self._progress, self._task, self._rounds = progress, task, rounds
        self._seconds: list[float] = []

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Take one line of a run (see :mod:`server.conduct`)."""
        match row["event"]:
            case "waiting":
                self._say(f"waiting for departments: {row['connected']} of {row['needed']} connected")
            case "asked" if row["round"] <= self._rounds:
                self._say(f"round {row['round']}: training{self._left(row['round'] - 1)}")
            case "asked":
                self._say("measuring the final model")
            case "round":
                self._round(row)
            case "finished":
                self._progress.update(self._task, completed=self._rounds, description="finished")

    def _round(self, row: Mapping[str, Any]) -> None:
        """One line for a finished round, and the bar moved on."""
        self._seconds.append(float(row["seconds"]))
        self._progress.update(self._task, completed=min(int(row["round"]), self._rounds))
        if not row["trained"]:
            return
        self._progress.console.print(escape(describe(row)))
        for department, reason in row["left_out"].items():
            self._progress.console.print(f"  [yellow]{escape(f'{department} left out: {reason}')}[/]")
        if row["abandoned"]:
            self._progress.console.print(f"  [red]round {row['round']} abandoned: {row['abandoned']}[/]")
        self._say(f"round {row['round']} done{self._left(int(row['round']))}")

    def _left(self, done: int) -> str:
        """Time left, from the median round so far."""
        if not self._seconds:
            return ""
        left = statistics.median(self._seconds) * (self._rounds - done)
        return f", about {left:.0f} s left"

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def describe(row: Mapping[str, Any]) -> str:
    """A finished round in one line."""
    parts = [f"round {row['round']:>3}"]
    for source in ("test", "validation"):
        measured = row[source]
        shown = [metric for metric in ("loss", "accuracy", "mae") if metric in measured]
        parts += [f"{source} {metric} {measured[metric]:.3f}" for metric in shown]
    spent = row["epsilon_rdp"]
    if spent:
        values = sorted(set(spent.values()))
        every = f"{values[0]:.2f}" if len(values) == 1 else ", ".join(f"{d} {e:.2f}" for d, e in spent.items())
        parts.append(f"epsilon of {len(spent)} departments {every}" if len(values) == 1 else f"epsilon {every}")
    parts.append(f"{row['seconds']:.1f} s")
    return "  ".join(parts)


@contextmanager
def run_progress(title: str, rounds: int) -> Iterator[RunProgress]:
    """A live display for one run."""
    console.print(f"[bold]{title}[/]")
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield RunProgress(progress, progress.add_task("starting", total=rounds), rounds)
