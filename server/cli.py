"""``confide server …`` and ``confide run …``: the platform team."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from server.errors import ControlError, RunError
from server.place import place, runs_directory
from strategies.console import console, output, print_json
from strategies.progress import describe, run_progress

if TYPE_CHECKING:
    from server.planning import Forecast
    from server.runs import RunDirectory
    from strategies.settings import RunSettings

server_app = typer.Typer(no_args_is_help=True, help="The coordinator: run it, and admit departments.")
run_app = typer.Typer(no_args_is_help=True, help="Training runs: check, start, follow, stop, resume, show.")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
RunFile = Annotated[Path, typer.Argument(help="The run file (TOML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the run file, as key=value. Repeatable.")
]
RunName = Annotated[str, typer.Argument(help="A run's name, the beginning of it, or its folder.")]

FOLLOW_SECONDS = 0.1
ENDED = {"finished", "failed", "stopped"}


@server_app.command(epilog="Example: confide server up --name fl.example.org --port 9092")
def up(
    name: Annotated[
        list[str] | None, typer.Option(help="Host name or IP that departments connect to. Repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The one port: departments and control.")] = 9092,
) -> None:
    """Run the coordinator until stopped: TLS, admitted departments only, state on disk."""
    from server.up import Coordinator
    from strategies.environment import stop_with_parent_if_asked

    names = list(dict.fromkeys([*(name or []), "127.0.0.1", "localhost", socket.gethostname()]))
    stop_with_parent_if_asked()
    coordinator = Coordinator(host=host, port=port, names=names)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: coordinator.leave())
    try:
        coordinator.start()
        console.print(
            f"coordinator at {names[0]}:{port}; departments need {coordinator.place.directory / 'pki/ca.pem'}"
        )
        coordinator.watch()
    finally:
        coordinator.stop()
    console.print("stopped")


@server_app.command(epilog="Example: confide server admit north node.pub")
def admit(
    name: Annotated[str, typer.Argument(help="The department's name.")],
    public_key: Annotated[Path, typer.Argument(help="The node.pub it made with 'confide client init'.")],
    json: Json = False,
) -> None:
    """Admit a department: after reading its key's fingerprint with it over the telephone."""
    from server.control import read_public_key

    try:
        key = public_key.read_bytes()
    except OSError as error:
        raise RunError(
            f"public key {public_key}: {error.strerror}; give the path of the department's node.pub"
        ) from None
    read_public_key(key)
    node = place().control().admit(name, key)
    if json:
        print_json({"department": name, "node": str(node)})
    else:
        output.print(f"{name} is admitted")


@server_app.command(epilog="Example: confide server remove north")
def remove(name: Annotated[str, typer.Argument(help="The department's name.")], json: Json = False) -> None:
    """Remove a department: it can no longer connect."""
    control = place().control()
    nodes = [department.node for department in control.departments() if department.name == name]
    if not nodes:
        raise RunError(f'department {name}: not admitted here; "confide server list" shows who is')
    for node in nodes:
        control.remove(node)
    if json:
        print_json({"department": name, "removed": len(nodes)})
    else:
        output.print(f"{name} is removed")


@server_app.command("list", epilog="Example: confide server list --json")
def list_departments(json: Json = False) -> None:
    """List the admitted departments and whether they are connected."""
    departments = place().control().departments()
    if json:
        print_json([{"department": d.name, "node": str(d.node), "status": d.status} for d in departments])
        return
    table = Table("department", "status")
    for department in departments:
        table.add_row(escape(department.name), department.status)
    output.print(table)


@run_app.command(epilog="Example: confide run check run.toml --set privacy.epsilon=4")
def check(run_file: RunFile, overrides: Overrides = None, json: Json = False) -> None:
    """Say what a run will do and cost, and every warning, before anything starts."""
    from server.planning import forecast, prepare
    from strategies.runfile import load

    settings = prepare(load(run_file, overrides or []), real=False)
    told = forecast(settings, declared_size=min(settings.data.declared_sizes.values(), default=None))
    if json:
        print_json(forecast_record(settings, told))
    else:
        show_forecast(settings, told)


@run_app.command(epilog="Example: confide run start run.toml --follow")
def start(
    run_file: RunFile,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends (Ctrl-C leaves it running).")] = True,
    json: Json = False,
) -> None:
    """Start a run on the coordinator of this machine."""
    from server.evaluation import load_test
    from server.planning import create, forecast, prepare
    from strategies.runfile import load

    settings = prepare(load(run_file, overrides or []), real=True)
    load_test(settings.data)  # a test set that cannot be read is found out before anybody trains
    control = place().control()
    told = forecast(settings)
    if not json:
        show_forecast(settings, told)
    directory = create(settings, runs_directory(), engine="federation")
    launch(directory, control.start(directory.name))
    _end(directory, follow=follow, json=json, rounds=settings.training.rounds)


@run_app.command(epilog="Example: confide run resume digits-20260101-120000-ab12")
def resume(
    name: RunName,
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends.")] = True,
    json: Json = False,
) -> None:
    """Continue a stopped, failed or killed run from its checkpoint. A round once asked for is abandoned."""
    from server.runs import find

    directory = find(runs_directory(), name)
    document = directory.document()
    if document["engine"] != "federation":
        raise RunError(
            f'run {directory.name}: a simulation; resume it with "confide simulate --resume {directory.path}"'
        )
    if document["status"] == "finished":
        raise RunError(f"run {directory.name}: finished already; its model lies in {directory.model_directory}")
    control = place().control()
    if document.get("flower_run") is not None:
        _quietly_stop(directory, int(document["flower_run"]))
    directory.clear_stop()
    launch(directory, control.start(directory.name))
    _end(directory, follow=follow, json=json, rounds=int(document["settings"]["training"]["rounds"]))


@run_app.command(epilog="Example: confide run stop digits-20260101-120000-ab12")
def stop(name: RunName, json: Json = False) -> None:
    """Stop a run after what it is doing now. It can be resumed."""
    from server.runs import find

    directory = find(runs_directory(), name)
    status = directory.document()["status"]
    if status in ENDED:
        raise RunError(f"run {directory.name}: {status} already")
    directory.ask_to_stop()
    if json:
        print_json({"run": directory.name, "stopping": True})
    else:
        output.print(f"{directory.name} will stop")


@run_app.command("list", epilog="Example: confide run list --json")
def list_runs(json: Json = False) -> None:
    """List the runs of this coordinator, newest first."""
    from server.runs import RunDirectory

    documents = [RunDirectory(file.parent).document() for file in runs_directory().glob("*/run.json")]
    documents.sort(key=lambda document: document["created"], reverse=True)
    if json:
        print_json([{key: d.get(key) for key in ("name", "status", "created", "ended", "result")} for d in documents])
        return
    table = Table("run", "status", "created", "result")
    for document in documents:
        table.add_row(document["name"], document["status"], document["created"], _result(document))
    output.print(table)


@run_app.command(epilog="Example: confide run show runs/digits-20260101-120000-ab12")
def show(name: RunName, json: Json = False) -> None:
    """Show a run: its settings, rounds, privacy and files."""
    from server.runs import find

    directory = find(runs_directory(), name)
    document, rows = directory.document(), directory.metrics()
    if json:
        print_json(document | {"metrics": rows})
        return
    output.print(f"[bold]{document['name']}[/] {document['status']}; {document['privacy']}")
    output.print(f"folder {directory.path}")
    for row in rows:
        output.print(escape(describe(row)))
    if document.get("epsilon"):
        output.print(epsilon_table(document["epsilon"], document["settings"]["privacy"]["delta"]))
    if document.get("error"):
        output.print(f"[red]{escape(document['error'])}[/]")


def launch(directory: RunDirectory, flower_run: int) -> None:
    """Remember Flower's id of a started run."""
    directory.update(flower_run=str(flower_run), status="starting")


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


def _end(directory: RunDirectory, *, follow: bool, json: bool, rounds: int) -> None:
    """Follow a run if wanted, then say how it stands; exit 1 if it did not finish."""
    status = "starting"
    if follow and not json:
        try:
            with run_progress(f"run {directory.name}", rounds) as progress:
                status = follow_run(directory, progress)
        except KeyboardInterrupt:
            console.print(f'the run goes on; "confide run stop {directory.name}" stops it')
            return
    if json:
        print_json({"run": directory.name, "run_dir": str(directory.path), "status": status})
    else:
        document = directory.document()
        output.print(f"{directory.name}: {document['status']} {_result(document)}")
        output.print(f"folder {directory.path}")
    if status in {"failed", "stopped"}:
        raise typer.Exit(1)


def _quietly_stop(directory: RunDirectory, flower_run: int) -> None:
    """Make sure that an earlier attempt of a run is over before the next begins."""
    try:
        place().control().stop(flower_run)
    except ControlError as error:
        console.print(f"[dim]{directory.name}: earlier attempt is over ({error})[/]")


def _result(document: dict[str, Any]) -> str:
    """The last metrics in short."""
    return ", ".join(f"{key} {value:.4f}" for key, value in (document.get("result") or {}).items())
