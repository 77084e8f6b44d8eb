"""``confide simulate`` and ``confide demo``: the researcher's bench and the first thing anybody tries."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from server.display import epsilon_table, forecast_record, sealing_line, show_forecast
from server.errors import RunError
from strategies.console import check_writable, console, output, save_json
from strategies.home import room
from strategies.progress import run_progress

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")]


def simulate(
    run_file: Annotated[Path | None, typer.Argument(help="The run file (TOML).")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the run file, as key=value. Repeatable."),
    ] = None,
    json: JsonFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; default under CONFIDE_HOME.")] = None,
    baselines: Annotated[
        bool | None, typer.Option(help="Also simulate without privacy, and each department alone.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the interrupted run in this folder.")] = None,
) -> None:
    """Simulate a federation in this process: the same rounds, messages and privacy as a real one."""
    from server.planning import create, forecast, prepare
    from server.runs import RunDirectory
    from simulations.departments import bench
    from simulations.sealing import decide
    from simulations.simulate import Simulation, run_baselines
    from strategies.runfile import load, parse

    check_writable(json)
    if resume is not None:
        if run_file is not None or overrides or out is not None:
            raise RunError("--resume continues a run with its own settings; leave run file, --set and --out away")
        directory = RunDirectory(resume.resolve())
        document = directory.document()
        if document["engine"] != "simulation":
            raise RunError(f'{resume}: not a simulation; resume it with "confide run resume"')
        directory.clear_stop()
        settings = parse(document["settings"], where=str(resume / "run.json"))
        data = bench(settings)
    elif run_file is not None:
        settings = prepare(load(run_file, overrides or []), real=False)
        data = bench(settings)
        settings = decide(settings, data.sizes())
        told = forecast(settings, declared_size=min(data.sizes().values()), departments=len(data.departments))
        show_forecast(settings, told)
        runs, name = room("simulations"), None
        if out is not None:
            runs, name = out.resolve().parent, out.resolve().name
        directory = create(settings, runs, engine="simulation", name=name)
        directory.update(forecast=forecast_record(settings, told))
    else:
        raise RunError("run file: missing; give a run.toml, or --resume FOLDER")
    with run_progress(f"simulating {len(data.departments)} departments", settings.training.rounds) as progress:
        simulation = Simulation(settings=settings, bench=data, directory=directory, watch=progress)
        simulation.go()
    wanted = settings.evaluation.baselines if baselines is None else baselines
    compared: Mapping[str, Any] = {}
    if wanted:
        with console.status("simulating the baselines") as status:
            compared = run_baselines(
                settings,
                data,
                directory.path / "baselines",
                lambda row: status.update(f"simulating {row['name']}"),
            )
    result = simulation.result(compared)
    directory.update(scores=result["scores"], measured_on=result["measured_on"])
    show_result(result)
    if json is not None:
        save_json(json, result)


def demo(
    json: JsonFile = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for all state; default a temporary one.")] = None,
) -> None:
    """A real Flower federation on this machine: five departments, TLS, privacy, an audit, a published model."""
    from simulations.demo import CAP, run_demo

    check_writable(json)
    # Whoever ends the demo politely gets the same clean-up as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = run_demo(keep)
    show_result(result)
    ledger = result["ledger"]
    spent = max(row["enforced_epsilon"] for row in ledger["datasets"])
    output.print(f"ledgers: {ledger['verdict']}; no department spent more than epsilon {spent:.3f} of {CAP}")
    output.print(escape(f"evidence: {ledger['bundle']}"), soft_wrap=True)
    output.print(escape(f"audit report: {ledger['report']}"), soft_wrap=True)
    if (published := result["published"]) is not None:
        show_published(published)
    if json is not None:
        save_json(json, result)
    if ledger["verdict"] != "pass":
        raise typer.Exit(1)


def show_published(published: Mapping[str, Any]) -> None:
    """The variants, and what the served model says."""
    from server.publish_cli import show_variants

    show_variants(published["variants"], published["dropped"])
    said = published["prediction"]
    output.print(
        f"published {published['name']} version {published['version']}, signed, verified and served: "
        f"asked about a picture of {published['truth']}, it says {said['prediction']} "
        f"(probability {said['probability']:.2f})",
        soft_wrap=True,
    )
    output.print(escape(f"bundle: {published['bundle']}"), soft_wrap=True)
    output.print(escape(f"registry: {published['registry']}"), soft_wrap=True)


def show_result(result: Mapping[str, Any]) -> None:
    """The closing tables: scores, epsilon, and where things lie."""
    metric = result["metric"]
    values = result[metric]
    labels = {
        "federated": "federated, private" if result["delta"] is not None else "federated, NOT private",
        "federated_nonprivate": "the same without privacy (simulated)",
        "alone": "each department alone, same privacy (simulated)",
        "untrained": "untrained model",
    }
    table = Table("model", metric, title=f"{metric} on the {result['measured_on']}", title_justify="left")
    for key, label in labels.items():
        if key not in values:
            continue
        value = values[key]
        shown = " ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else f"{value:.3f}"
        table.add_row(label, f"[bold]{shown}[/]" if key == "federated" else shown)
    output.print(table)
    if result["delta"] is not None:
        output.print(epsilon_table(result["epsilon"], result["delta"]))
    output.print(f"privacy: {result['privacy']}")
    output.print(f"sums: {sealing_line(result['secagg'])}")
    output.print(escape(f"run: {result['run_dir']}"), soft_wrap=True)
    output.print(escape(f"model: {Path(result['run_dir']) / 'model'}"), soft_wrap=True)
