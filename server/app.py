"""The ServerApp: goes through the rounds of one run.

On a Confide coordinator it runs from the installation (:mod:`server.worker`) and ``run`` names
a prepared directory. Under a stock SuperLink (``flwr run .``) it reads ``run-file``, relative to
the app, and makes the directory itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.conduct import conduct, outcome
from server.errors import RunError
from server.evaluation import load_test
from server.place import place, runs_directory
from server.planning import create, prepare
from server.runs import NAME, RunDirectory
from server.witness import DiskWitness
from strategies.runfile import load, parse

logger = logging.getLogger("confide.server")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the configuration names."""
    name = str(context.run_config.get("run", ""))
    directory = existing(name) if name else _from_file(str(context.run_config.get("run-file", "")))
    with outcome(directory):
        settings = parse(directory.document()["settings"], where=str(directory.path / "run.json"))
        test, envelopes = load_test(settings.data), directory.sealing()
        # Stock SuperNodes hold public data alone and keep no ledger.
        witness = DiskWitness.at(place().directory / "witness") if name else None
    conduct(grid, directory, test=test, repeatable=False, watch=report, envelopes=envelopes, witness=witness)
    logger.info("run %s finished: %s", directory.name, directory.path)


def existing(name: str) -> RunDirectory:
    """A prepared run; its name arrives over the network, so it must not choose the folder."""
    if not NAME.fullmatch(name):
        raise RunError("run: the name is not made of letters, digits, '.', '_' and '-'")
    return RunDirectory(runs_directory() / name)


def report(row: Mapping[str, Any]) -> None:
    """Log a round's line for whoever reads Flower's log."""
    if row["event"] == "round":
        measured = row["test"] or row["validation"]
        shown = ", ".join(f"{key} {value:.4f}" for key, value in measured.items())
        outcome = f"abandoned: {row['abandoned']}" if row["abandoned"] else f"{len(row['answered'])} answered"
        logger.info("round %d: %s; %s", row["round"], outcome, shown or "no metrics")
        for department, reason in row["left_out"].items():
            logger.warning("round %d: %s left out: %s", row["round"], department, reason)
    elif row["event"] == "waiting":
        logger.debug("waiting: %d of %d departments connected", row["connected"], row["needed"])


def _from_file(run_file: str) -> RunDirectory:
    """Prepare a run from a file inside the app's own folder."""
    root = Path(__file__).resolve().parent.parent
    path = (root / run_file).resolve()
    if not run_file or not path.is_relative_to(root):
        raise RunError(f"run-file = {run_file!r}: name a run file inside the app, such as examples/digits_cnn.toml")
    settings = load(path)
    if settings.secagg.mode is None:
        # A stock SuperLink knows no roster. Stock SuperNodes take part in runs on public example sets alone, and an
        # enrolled department refuses a clear sum unless its operator allows it.
        logger.warning('no federation\'s roster here: secagg.mode = "clear", for public example data alone')
        secagg = settings.secagg.model_copy(update={"mode": "clear"})
        settings = settings.model_copy(update={"secagg": secagg})
    return create(prepare(settings, real=True), runs_directory(), engine="federation")
