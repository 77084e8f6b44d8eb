"""``confide client …``: the operator of a department's machine."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from client import config
from client.errors import ConfigError
from strategies.console import console, output, print_json
from strategies.toml import validated

app = typer.Typer(no_args_is_help=True, help="A department's machine: enrol, point at data, take part.")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]


@app.command(epilog="Example: confide client enrol --name north --invitation invitation.json")
def enrol(
    name: Annotated[str, typer.Option(help="This department's name.")],
    invitation: Annotated[Path, typer.Option(help="The federation's invitation.json, from the platform team.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The governance key's fingerprint, as read to you over the telephone.")
    ] = None,
    json: Json = False,
) -> None:
    """Make this machine's keys and client.toml, and the request with which the platform team admits it."""
    from client import enrol as enrolment

    result = enrolment.enrol(config.directory(), name=name, invitation=invitation, fingerprint=fingerprint)
    if json:
        print_json(result)
        return
    output.print(escape(f"This machine is {name}. Configuration: {result['config']}"), soft_wrap=True)
    output.print(escape(f"Send {result['request']} to the platform team, and read them:"), soft_wrap=True)
    output.print(f"  [bold]{result['fingerprint']}[/]")
    if fingerprint is None:
        output.print("Let them read you the governance's fingerprint, and go on only if it is this:")
        output.print(f"  [bold]{result['governance_fingerprint']}[/]")


@app.command(epilog="Example: confide client check run.toml")
def check(
    run_file: Annotated[Path, typer.Argument(help="The run file, from the platform team.")],
    approve: Annotated[
        bool, typer.Option("--approve", help="Answer to this description of the data set from now on.")
    ] = False,
    json: Json = False,
) -> None:
    """Read this machine's data as a run would, and say what a run would find. Nothing leaves."""
    from client import descriptions
    from client.data import describe, load
    from strategies.jsonfile import canonical
    from strategies.runfile import load as load_run

    settings = config.load_settings()
    run = load_run(run_file)
    data = load(run.data, _entry(settings, run.data.name), name=settings.name)
    summary = describe(data)
    if approve and run.data.name is not None:
        descriptions.approve(config.directory(), run.data.name, canonical(run.data.public_part()))
        summary["approved"] = True
    if json:
        print_json(summary)
        return
    for key, value in summary.items():
        output.print(escape(f"{key.replace('_', ' ')}: {value}"))


@app.command(epilog="Example: confide client evaluate global-model --dataset claims-2026 --own own-model")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a global model (model.safetensors, manifest.json).")],
    dataset: Annotated[str, typer.Option(help="The data set's name on this machine.")],
    own: Annotated[Path | None, typer.Option(help="Folder of the department's own model, to compare with.")] = None,
    json: Json = False,
) -> None:
    """Measure a model on this department's validation split: local, and nothing is spent."""
    from client.data import load
    from client.train import measure
    from models.inputs.schema import DataSettings
    from models.store import load as load_model

    settings = config.load_settings()
    entry = _entry(settings, dataset)
    results = {}
    for label, folder in (("global", model), ("own", own)):
        if folder is None:
            continue
        network, task, manifest = load_model(folder)
        description = validated(DataSettings, manifest.get("data") or {}, where=f"{folder / 'manifest.json'}: data")
        description.refuse_paths()  # a manifest comes from the coordinator
        data = load(description, entry, name=settings.name)
        split = data.validation if len(data.validation.targets) else data.train
        results[label] = task.metrics(measure(network, task, split))
    if json:
        print_json(results)
        return
    table = Table("metric", *results, title=f"{settings.name}: {dataset}, validation split")
    for metric in results["global"]:
        table.add_row(metric, *(f"{values.get(metric, float('nan')):.4f}" for values in results.values()))
    output.print(table)


@app.command(epilog="Example: confide client run")
def run(verbose: Annotated[bool, typer.Option(help="Show what Flower says, too.")] = False) -> None:
    """Take part in runs until stopped. Runs only the code installed here, never what the server sends."""
    from client import rotation
    from client.identity import load_me
    from client.log import to_file
    from client.policies import open_ledger
    from client.runner import Service, check_connection
    from strategies.environment import stop_with_parent_if_asked

    settings = config.load_settings()
    to_file(verbose=verbose)
    rotation.finish(settings)
    load_me(settings)  # a key that is lost is told now, and not as a refusal in the first sealed round
    ledger = open_ledger(settings)
    ledger.check_all()  # what was edited, or put back from a backup, is told now
    ledger.policy()
    check_connection(settings)
    stop_with_parent_if_asked()
    service = Service(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: service.stop())
    console.print(f"{settings.name}: taking part in runs of {settings.server}; Ctrl-C ends it")
    service.work()
    console.print("stopped")


def _entry(settings: config.ClientSettings, name: str | None) -> Any:
    """The data set's entry; raises :class:`ConfigError` with the fix."""
    from client.site import dataset_entry

    entry = None if name is None else dataset_entry(settings, name)
    if entry is None:
        known = ", ".join(settings.dataset) or "none"
        raise ConfigError(
            f'data set {name}: not offered here (known: {known}); add it with "confide privacy dataset add"'
        )
    return entry
