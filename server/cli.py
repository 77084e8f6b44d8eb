"""``confide server …`` and ``confide run …``: the platform team."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from server.display import ENDED, epsilon_table, follow_run, forecast_record, result_line, sealing_line, show_forecast
from server.errors import ControlError, RunError
from server.place import place, runs_directory
from strategies.console import console, output, print_json
from strategies.progress import describe, run_progress

if TYPE_CHECKING:
    from server.runs import RunDirectory

server_app = typer.Typer(no_args_is_help=True, help="The coordinator: run it, and admit departments.")
run_app = typer.Typer(no_args_is_help=True, help="Training runs: check, start, follow, stop, resume, show.")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
RunFile = Annotated[Path, typer.Argument(help="The run file (TOML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the run file, as key=value. Repeatable.")
]
PermitFile = Annotated[
    Path | None, typer.Option("--permit", help='What "confide federation permit" wrote for this run.')
]
RunName = Annotated[str, typer.Argument(help="A run's name, the beginning of it, or its folder.")]

DEFAULT_PORT = 9092


@server_app.command(epilog="Example: confide server up --name fl.example.org --port 9092")
def up(
    name: Annotated[
        list[str] | None, typer.Option(help="Host name or IP that departments connect to. Repeatable.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="The one port: departments and control. The invitation's, or 9092."),
    ] = None,
) -> None:
    """Run the coordinator until stopped: TLS, admitted departments only, state on disk."""
    from server.federation import here
    from server.up import Coordinator
    from strategies.environment import stop_with_parent_if_asked
    from strategies.introduction import split_address

    governance = here()
    invited = split_address(governance.settings().server) if governance else None
    names = list(dict.fromkeys([*(name or []), *([invited[0]] if invited else [])]))
    stop_with_parent_if_asked()
    coordinator = Coordinator(
        host=host, port=port or (invited[1] if invited else DEFAULT_PORT), names=names, governance=governance
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: coordinator.leave())
    try:
        coordinator.start()
        console.print(f"coordinator at {names[0] if names else host}:{coordinator.port}; Ctrl-C ends it")
        coordinator.watch()
    finally:
        coordinator.stop()
    console.print("stopped")


@server_app.command(epilog="Example: confide server admit north node.pub")
def admit(
    name: Annotated[str, typer.Argument(help="The department's name.")],
    public_key: Annotated[Path, typer.Argument(help="Its node.pub or enrolment-request.json.")],
    json: Json = False,
) -> None:
    """Let a department connect to this coordinator, where the federation is governed from another machine."""
    from server.control import read_public_key

    try:
        key = public_key.read_bytes()
    except OSError as error:
        raise RunError(
            f"public key {public_key}: {error.strerror}; give the path of the department's node.pub"
        ) from None
    if key.lstrip().startswith(b"{"):
        from strategies.introduction import read_request

        key = read_request(public_key).node.encode()
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
    """List the admitted departments: whether they are connected, and what is left of their budgets.

    Rounds left are those of the newest run's plan, as the department's own ledger says; its data are not asked.
    """
    from server.witness import seen

    departments = place().control().departments()
    ledgers = seen(place().directory / "witness")
    rows = [
        {"department": d.name, "node": str(d.node), "status": d.status, "ledger": ledgers.get(d.name)}
        for d in departments
    ]
    if json:
        print_json(rows)
        return
    table = Table("department", "status", "ledger entries", "rounds left", "as of")
    for department in departments:
        known = ledgers.get(department.name)
        told = ("-", "-", "-") if known is None else (str(known["size"]), str(known["rounds_left"]), known["time"])
        table.add_row(escape(department.name), department.status, *told)
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


@run_app.command(epilog="Example: confide run prepare run.toml")
def prepare(run_file: RunFile, overrides: Overrides = None, json: Json = False) -> None:
    """Make a run without starting it, and the request with which it is permitted."""
    directory = _made(run_file, overrides, json=json)
    directory.save_spec()
    if json:
        print_json({"run": directory.name, "run_dir": str(directory.path), "request": str(directory.spec_file)})
        return
    output.print(f"run {directory.name} is prepared. Have the governance permit {directory.spec_file}:", soft_wrap=True)
    output.print("  confide federation permit spec.json --out permit.json")
    output.print("and start it with what that wrote:")
    output.print(f"  confide run start {directory.name} --permit permit.json")


@run_app.command(epilog="Example: confide run start run.toml --follow")
def start(
    run: Annotated[str, typer.Argument(help="The run file (TOML), or the name of a prepared run.")],
    overrides: Overrides = None,
    permit: PermitFile = None,
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends (Ctrl-C leaves it running).")] = True,
    json: Json = False,
) -> None:
    """Start a run on the coordinator of this machine."""
    from server.runs import find

    control = place().control()
    if run.endswith(".toml") or Path(run).is_file():
        if permit is not None:
            raise RunError(f'--permit {permit}: is for a prepared run; give its name ("confide run list") for {run}')
        directory = _made(Path(run), overrides, json=json, permitted=True)
    else:
        directory = find(runs_directory(), run)
        status = directory.document()["status"]
        if overrides:
            raise RunError(f"--set: run {directory.name} is prepared already; prepare another from its run file")
        if status != "created":
            raise RunError(f'run {directory.name}: {status} already; "confide run resume" continues what has not ended')
    _permit(directory, permit)
    launch(directory, control.start(directory.name))
    _end(directory, follow=follow, json=json)


@run_app.command(epilog="Example: confide run resume digits-20260101-120000-ab12")
def resume(
    name: RunName,
    permit: PermitFile = None,
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
    _permit(directory, permit)
    if document.get("flower_run") is not None:
        _quietly_stop(directory, int(document["flower_run"]))
    directory.clear_stop()
    launch(directory, control.start(directory.name))
    _end(directory, follow=follow, json=json)


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
        table.add_row(document["name"], document["status"], document["created"], result_line(document))
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
    if document.get("secagg"):
        output.print(f"sums: {sealing_line(document['secagg'])}")
    for row in rows:
        output.print(escape(describe(row)))
    if document.get("epsilon"):
        output.print(epsilon_table(document["epsilon"], document["settings"]["privacy"]["delta"]))
    if document.get("error"):
        output.print(f"[red]{escape(document['error'])}[/]")


def launch(directory: RunDirectory, flower_run: int) -> None:
    """Remember Flower's id of a started run."""
    directory.update(flower_run=str(flower_run), status="starting")


def _made(run_file: Path, overrides: list[str] | None, *, json: bool, permitted: bool = False) -> RunDirectory:
    """A new run of the file; with ``permitted``, only where this machine can permit it."""
    from server import planning
    from server.evaluation import load_test
    from server.permits import require
    from strategies.runfile import load

    settings = planning.prepare(load(run_file, overrides or []), real=True)
    load_test(settings.data)  # a test set that cannot be read is found out before anybody trains
    if permitted:
        require(settings)
    told = planning.forecast(settings)
    if not json:
        show_forecast(settings, told)
    return planning.create(settings, runs_directory(), engine="federation")


def _permit(directory: RunDirectory, file: Path | None) -> None:
    """See to a run's permit: the one given, one of this machine's governance, or the one it has."""
    from server.federation import here
    from server.permits import accept, grant, permitted

    if file is not None:
        accept(directory, file)
    elif here() is not None or not permitted(directory):
        grant(directory)


def _end(directory: RunDirectory, *, follow: bool, json: bool) -> None:
    """Follow a run if wanted, then say how it stands; exit 1 if it did not finish."""
    status = "starting"
    if follow and not json:
        try:
            rounds = int(directory.document()["settings"]["training"]["rounds"])
            with run_progress(f"run {directory.name}", rounds) as progress:
                status = follow_run(directory, progress)
        except KeyboardInterrupt:
            console.print(f'the run goes on; "confide run stop {directory.name}" stops it')
            return
    if json:
        print_json({"run": directory.name, "run_dir": str(directory.path), "status": status})
    else:
        document = directory.document()
        output.print(f"{directory.name}: {document['status']} {result_line(document)}")
        output.print(f"folder {directory.path}")
    if status in {"failed", "stopped"}:
        raise typer.Exit(1)


def _quietly_stop(directory: RunDirectory, flower_run: int) -> None:
    """Make sure that an earlier attempt of a run is over before the next begins."""
    try:
        place().control().stop(flower_run)
    except ControlError as error:
        console.print(f"[dim]{directory.name}: earlier attempt is over ({error})[/]")
