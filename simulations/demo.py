"""``confide demo``: departments of one organisation train a digit reader together, for real.

One coordinator and five departments as separate processes on loopback (TLS, enrolled and admitted
departments, sealed sums), then the same run's baselines, simulated on the public copy.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models.files import write_atomic
from privacy.bundle import write as write_bundle
from privacy.report import build
from privacy.report_html import html as page
from privacy.verify import verify
from server.cli import launch
from server.display import follow_run, show_forecast
from server.permits import grant
from server.planning import create, forecast, prepare
from server.runs import RunDirectory
from simulations.departments import Bench, bench
from simulations.federation import Federation, FederationError, Member, tail
from simulations.release import release
from simulations.simulate import headline, measured_on, median_leg, run_baselines, score_directory
from strategies.console import console, save_json, step
from strategies.progress import run_progress
from strategies.runfile import parse
from strategies.settings import RunSettings

DATASET = "digits"
DEPARTMENTS = ("north", "south", "east", "west", "centre")
TEST_SHARE = 0.2
DEADLINE_SECONDS = 60.0
# What every department allows: just the run. Its noise is chosen so that the ledger's own figure meets it.
CAP = "8"
POLICY = f'lifetime = {{ epsilon = "{CAP}", delta = "1e-5" }}\nmax_runs = 1\nmodels = ["cnn"]\nmetrics = "off"'

RUN: dict[str, Any] = {
    "name": "demo",
    "model": {"name": "cnn"},
    "training": {"rounds": 15, "local_steps": 8, "sampling_rate": 0.25, "learning_rate": 0.7, "momentum": 0.5},
    "privacy": {"epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 1.0, "metrics": "off"},
    "strategy": {"min_departments": len(DEPARTMENTS), "quorum": 0.8, "deadline": DEADLINE_SECONDS},
}


def run_demo(keep: Path | None = None) -> dict[str, Any]:
    """Run the demo; returns the figures that ``--json`` writes.

    State goes to ``keep``, or to a temporary directory of which only the run remains.
    """
    begin = time.monotonic()
    with workspace(keep) as folder:
        with step("dealing scikit-learn's digits out to five departments"):
            members, test = deal_out(folder / "data")
        sizes = [member.declared_size for member in members]
        settings = prepare(run_settings(test, max_size=max(sizes)), real=True)
        show_forecast(settings, forecast(settings, declared_size=min(sizes), departments=len(sizes)))
        with step(f"starting a coordinator and {len(members)} departments (TLS, own keys, processes and state)"):
            federation = Federation(directory=folder, members=members)
            federation.__enter__()
        try:
            directory = _federate(federation, settings)
        finally:
            with step("stopping everything that was started"):
                federation.stop()
        ledger = audit(federation, directory)
        published = _publish(federation, directory, test) if ledger["verdict"] == "pass" else None
        public = public_copy(members, settings)
        with console.status("simulating the baselines on the public copy") as status:
            compared = run_baselines(
                settings,
                public,
                directory.path / "baselines",
                lambda row: status.update(f"baseline on the public copy: {row['name']}"),
            )
        done = {"ledger": ledger, "published": published}
        return _result(directory, public, compared, settings, time.monotonic() - begin) | done


def run_settings(test: Path, *, max_size: int) -> RunSettings:
    """The demo's run: what its run file would say. ``max_size`` is the largest declared size."""
    data = {
        "name": DATASET,
        "kind": "image",
        "image": {"shape": [1, 8, 8], "bounds": [0, 16]},
        "classes": [str(digit) for digit in range(10)],
        "test": {"path": str(test)},
    }
    return parse(RUN | {"data": data, "secagg": {"max_size": max_size}}, where="demo")


def deal_out(folder: Path) -> tuple[list[Member], Path]:
    """Write each department's file and the coordinator's public test file."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    folder.mkdir(parents=True)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    cut = round(len(order) * (1 - TEST_SHARE))
    test = folder / "test.npz"
    np.savez(test, x=images[order[cut:]].astype(np.float32), y=labels[order[cut:]])
    members = []
    for name, rows in zip(DEPARTMENTS, np.array_split(order[:cut], len(DEPARTMENTS)), strict=True):
        path = folder / f"{name}.npz"
        np.savez(path, x=images[rows].astype(np.float32), y=labels[rows])
        members.append(Member(name=name, dataset=DATASET, path=path, declared_size=len(rows), policy=POLICY))
    return members, test


def public_copy(members: list[Member], settings: RunSettings) -> Bench:
    """The same departments as a simulation sees them, for the baselines."""
    data = settings.data.model_copy(
        update={
            "departments": {member.name: str(member.path) for member in members},
            "declared_sizes": {member.name: member.declared_size for member in members},
        }
    )
    return bench(settings.model_copy(update={"data": data}))


@contextmanager
def workspace(keep: Path | None) -> Iterator[Path]:
    """The demo's state: in ``keep``, which must be new, or in a new temporary directory."""
    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except OSError as error:
            raise FederationError(f"--keep {keep}: {error.strerror}; name a new folder") from None
        yield keep.resolve()
        return
    yield Path(tempfile.mkdtemp(prefix="confide-demo-"))


def audit(federation: Federation, directory: RunDirectory) -> dict[str, Any]:
    """What an auditor does: collect everybody's evidence, replay every ledger, write the report."""
    bundle = directory.path / "evidence"
    with step("collecting everybody's ledgers, and verifying them"):
        homes = [federation.home(member.name) for member in federation.members]
        write_bundle(bundle, homes=[federation.home("coordinator"), *homes])
        verdict = verify(bundle).to_dict()
    with step("writing the audit report"):
        report = build(bundle, verdict)
        write_atomic(directory.path / "report.html", page(report).encode())
        save_json(directory.path / "report.json", report)
    return {
        "verdict": verdict["verdict"],
        "bundle": str(bundle),
        "report": str(directory.path / "report.html"),
        "datasets": verdict["datasets"],
        "problems": verdict["problems"],
    }


def _publish(federation: Federation, directory: RunDirectory, test: Path) -> dict[str, Any]:
    """What a platform team does: publish the model, serve it, ask it."""
    try:
        with step("publishing the model: gates, compression, signature, registry, a served prediction") as say:
            return release(federation, directory, test, say)
    finally:
        federation.stop()


def _federate(federation: Federation, settings: RunSettings) -> RunDirectory:
    """Go through the run on the real federation."""
    runs = federation.place.directory / "runs"
    runs.mkdir(exist_ok=True)
    directory = create(settings, runs, engine="federation")
    grant(directory, federation.governance)
    directory.update(sizes={member.name: member.declared_size for member in federation.members})
    title = f"{len(federation.members)} departments train together on Flower"
    with run_progress(title, settings.training.rounds) as progress:
        launch(directory, federation.control.start(directory.name))
        status = follow_run(directory, progress)
    if status != "finished":
        log = tail(federation.place.directory / "worker.log")
        raise FederationError(f"the run ended as {status}: {directory.document().get('error', log)}")
    return directory


def _result(
    directory: RunDirectory, public: Bench, compared: dict[str, Any], settings: RunSettings, seconds: float
) -> dict[str, Any]:
    """The figures of the demo."""
    document, rows = directory.document(), directory.metrics()
    federated = score_directory(directory, public)
    metric = headline(federated)
    return {
        "metric": metric,
        metric: {
            "federated": federated[metric],
            "federated_nonprivate": compared["federated_nonprivate"][metric],
            "alone": [scores[metric] for scores in compared["alone"]],
            "untrained": compared["untrained"][metric],
        },
        "measured_on": measured_on(public),
        "epsilon": document["epsilon"],
        "delta": settings.privacy.delta,
        "privacy": document["privacy"],
        "rounds": sum(row["trained"] and not row["abandoned"] for row in rows),
        "seconds": round(seconds, 1),
        "leg_seconds_median": round(median_leg(rows), 3),
        "secagg": document["secagg"],
        "run_dir": str(directory.path),
    }
