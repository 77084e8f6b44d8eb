"""``confide simulate``: a whole federation in one process, and what it is to be compared with."""

from __future__ import annotations

import logging
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.state import MemoryJournal
from client.train import Site, measure
from models.store import load as load_model
from models.task import Task
from server.conduct import Watcher, conduct
from server.planning import create
from server.runs import RunDirectory
from simulations.departments import Bench, sites
from simulations.engine import LocalGrid
from simulations.sealing import seal
from strategies.agreement import model_of, task_of
from strategies.errors import RunFailedError
from strategies.settings import RunSettings

HEADLINE = ("accuracy", "mae", "loss")


@dataclass(kw_only=True)
class Simulation:
    """One simulated run: ``go`` through it, then read ``result``."""

    settings: RunSettings
    bench: Bench
    directory: RunDirectory
    watch: Watcher
    pictures: bool = True
    _first_round: float | None = None
    _begin: float = field(default_factory=time.monotonic)

    def go(self) -> None:
        """Conduct the run, from its checkpoint if it has one."""
        torch.set_num_threads(self.settings.performance.threads)
        sealed = None
        if not self.settings.secagg.clear:
            spec = self.directory.document()["spec"]
            sealed = seal(self.settings, list(self.bench.departments), run=self.directory.name, spec=spec)
        own = sites(self.settings, self.bench.departments, {} if sealed is None else sealed.departments)
        if self.directory.has_checkpoint():
            _, extra = self.directory.load_checkpoint()
            _restore(own, self.directory.name, extra)
        self.directory.update(sizes=self.bench.sizes())
        conduct(
            LocalGrid(own),
            self.directory,
            test=self.bench.test,
            # Without a seed a repeated round would be a second draw of noise: then it is not repeated.
            repeatable=self.settings.seed is not None,
            watch=self._watch,
            envelopes=None if sealed is None else sealed.envelopes,
            extra=lambda: _controls(own, self.directory.name),
            pictures=self.pictures,
        )

    def _watch(self, row: Mapping[str, Any]) -> None:
        """Note when the first round starts."""
        if row["event"] == "asked" and self._first_round is None:
            self._first_round = time.monotonic() - self._begin
        self.watch(row)

    def result(self, baselines: Mapping[str, Any]) -> dict[str, Any]:
        """The run's figures, with those of the baselines."""
        document, rows = self.directory.document(), self.directory.metrics()
        federated = score_directory(self.directory, self.bench)
        metric = headline(federated)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
        return {
            "metric": metric,
            metric: {"federated": federated[metric]}
            | {name: _values(value, metric) for name, value in baselines.items()},
            "scores": {"federated": federated} | dict(baselines),
            "measured_on": measured_on(self.bench),
            "epsilon": document["epsilon"],
            "delta": self.settings.privacy.delta if self.settings.privacy.on else None,
            "privacy": document["privacy"],
            "rounds": sum(row["trained"] and not row["abandoned"] for row in rows),
            "seconds": round(time.monotonic() - self._begin, 3),
            "seconds_to_first_round": round(self._first_round or 0.0, 3),
            "round_seconds": round(statistics.median([row["seconds"] for row in rows if row["trained"]] or [0.0]), 4),
            "leg_seconds_median": round(median_leg(rows), 4),
            "secagg": document["secagg"],
            "peak_memory_mb": round(peak, 1),
            "run_dir": str(self.directory.path),
        }


def run_baselines(settings: RunSettings, bench: Bench, folder: Path, watch: Watcher) -> dict[str, Any]:
    """Scores of the untrained model, of the same run without privacy, and of each department alone.

    All of it is simulation: on a public copy, or on data the researcher may see anyway.
    """
    # What is compared is the model: nothing of a baseline leaves this process, so nobody needs a warning.
    settings = settings.model_copy(update={"secagg": settings.secagg.model_copy(update={"mode": "clear"})})
    with _quiet():
        return _baselines(settings, bench, folder, watch)


def _baselines(settings: RunSettings, bench: Bench, folder: Path, watch: Watcher) -> dict[str, Any]:
    """As :func:`run_baselines`."""
    task = task_of(settings)
    model = model_of(settings, seed=settings.seed or 0)
    scores: dict[str, Any] = {"untrained": score(model, task, bench)}
    scores["federated_nonprivate"] = _without_privacy(settings, bench, folder, watch)
    quiet = settings.privacy.model_copy(update={"metrics": "off", "metric_noise": None})
    lone = settings.strategy.model_copy(update={"min_departments": 1})
    scores["alone"] = []
    for number, (name, data) in enumerate(bench.departments.items(), start=1):
        alone = Bench(departments={name: data}, test=bench.test)
        own = settings.model_copy(update={"privacy": quiet, "strategy": lone})
        scores["alone"].append(_one(own, alone, folder, f"alone-{number:03d}-{name}", watch, measured=bench))
    return scores


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of a coordinator's, for a while."""
    logger = logging.getLogger("confide.server")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _without_privacy(settings: RunSettings, bench: Bench, folder: Path, watch: Watcher) -> dict[str, float]:
    """The same run without clipping and noise, at the best of three learning rates.

    A rate that suits clipped gradients can be far too large for plain ones; a baseline that
    diverges would flatter the private model.
    """
    off = settings.privacy.model_copy(
        update={
            "mode": "off",
            "epsilon": None,
            "noise_multiplier": None,
            "metric_noise": None,
            "metrics": "off",
        }
    )
    tried = []
    for divisor in (1, 4, 16):
        rate = settings.training.learning_rate / divisor
        training = settings.training.model_copy(update={"learning_rate": rate})
        own = settings.model_copy(update={"privacy": off, "training": training})
        try:
            scores = _one(own, bench, folder, f"nonprivate-{divisor}", watch)
        except RunFailedError:
            continue  # diverged: every round was abandoned
        tried.append(scores | {"learning_rate": rate})
    if not tried:
        raise RunFailedError(
            "the baseline without privacy diverged at every learning rate; lower training.learning_rate"
        )
    metric = headline(tried[0])
    return (max if metric == "accuracy" else min)(tried, key=lambda scores: scores[metric])


def score_directory(directory: RunDirectory, bench: Bench) -> dict[str, float]:
    """Scores of a finished run's model, read back from its folder."""
    model, task, _ = load_model(directory.model_directory)
    return score(model, task, bench)


def score(model: torch.nn.Module, task: Task, bench: Bench) -> dict[str, float]:
    """Scores on the public test set, or else on all departments' validation splits together."""
    if bench.test is not None:
        return bench.test.metrics(model, task)
    return task.metrics(np.sum([measure(model, task, data.validation) for data in bench.departments.values()], axis=0))


def median_leg(rows: Sequence[Mapping[str, Any]]) -> float:
    """Median seconds of all exchanges of a run."""
    return statistics.median([float(seconds) for row in rows for seconds in row["legs"]] or [0.0])


def measured_on(bench: Bench) -> str:
    """What scores are measured on."""
    return "public test set" if bench.test is not None else "validation splits of the simulated departments"


def headline(scores: Mapping[str, float]) -> str:
    """The metric to compare by."""
    return next(metric for metric in HEADLINE if metric in scores)


def _one(
    settings: RunSettings,
    bench: Bench,
    folder: Path,
    name: str,
    watch: Watcher,
    measured: Bench | None = None,
) -> dict[str, float]:
    """Conduct one baseline in a folder of its own, or go on with it there, and score its model."""
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:64]
    directory = RunDirectory(folder / safe)
    if not (directory.path / "run.json").exists():
        directory = create(settings, folder, engine="simulation", name=safe)
    watch({"event": "baseline", "name": name})
    simulation = Simulation(
        settings=settings, bench=bench, directory=directory, watch=lambda _row: None, pictures=False
    )
    simulation.go()
    return score_directory(directory, measured or bench)


def _values(value: Any, metric: str) -> Any:
    """One metric out of a score, or out of each of several."""
    return [entry[metric] for entry in value] if isinstance(value, list) else value[metric]


def _controls(own: Mapping[str, Site], run: str) -> dict[str, np.ndarray]:
    """SCAFFOLD's variates of simulated departments, for the checkpoint."""
    return {
        f"control.{name}": site.journal.controls[run]
        for name, site in own.items()
        if isinstance(site.journal, MemoryJournal) and run in site.journal.controls
    }


def _restore(own: Mapping[str, Site], run: str, extra: Mapping[str, np.ndarray]) -> None:
    """Give simulated departments their variates back."""
    for key, control in extra.items():
        site = own.get(key.removeprefix("control."))
        if site is not None:
            site.journal.keep_control(run, control)
