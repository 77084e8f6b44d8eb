"""``confide privacy …``: what this department's records may be spent on, and what was spent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from client import config
from client.errors import ConfigError
from strategies.console import output, print_json

privacy_app = typer.Typer(no_args_is_help=True, help="This department's policy, data sets and privacy ledger.")
policy_app = typer.Typer(no_args_is_help=True, help="What may be done with this department's data: a signed file.")
dataset_app = typer.Typer(no_args_is_help=True, help="Which data sets this machine offers, and where they lie.")
privacy_app.add_typer(policy_app, name="policy")
privacy_app.add_typer(dataset_app, name="dataset")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
PolicyFile = Annotated[Path | None, typer.Argument(help="The policy; default policy.toml beside client.toml.")]


@policy_app.command("init", epilog="Example: confide privacy policy init")
def policy_init(json: Json = False) -> None:
    """Write a first policy.toml, with a table for each data set that is registered: edit it, then sign it."""
    from client.policies import draft
    from models.files import write_atomic

    file = config.policy_file()
    if file.exists():
        raise ConfigError(f'{file}: exists already; edit it, then "confide privacy policy sign"')
    write_atomic(file, draft(config.load_settings()))
    if json:
        print_json({"policy": str(file)})
    else:
        output.print(escape(f"{file}: edit it, then check and sign it"), soft_wrap=True)


@policy_app.command("check", epilog="Example: confide privacy policy check --run run.toml")
def policy_check(
    file: PolicyFile = None,
    run: Annotated[Path | None, typer.Option(help="Say whether this run would be admitted now.")] = None,
    json: Json = False,
) -> None:
    """Read a policy strictly, say what it allows and what to think twice about; with --run, judge a run by it."""
    from client.policies import caps, check, judge

    policy = check(file or config.policy_file())
    told: dict[str, Any] = {"digest": policy.digest, "datasets": caps(policy), "warnings": policy.warnings()}
    if run is not None:
        told["run"] = judge(policy, run)
    reason = told["run"]["reason"] if run is not None else None
    if json:
        print_json(told)
    else:
        _show_policy(told)
        if run is not None:
            output.print(escape(reason or "the run would be admitted"), soft_wrap=True)
    if reason:
        raise typer.Exit(2)


def _show_policy(told: dict[str, Any]) -> None:
    """A policy for people."""
    table = Table("data set", "lifetime", "one run", "period", "metrics", "without privacy", title="The policy allows")
    for name, row in told["datasets"].items():
        table.add_row(
            escape(name),
            f"epsilon {row['epsilon']} at delta {row['delta']}",
            "-" if row["per_run"] is None else f"{row['per_run']:g}",
            "-" if row["period"] is None else f"{row['period']['epsilon']:g} in {row['period']['days']} days",
            row["metrics"],
            "[red]yes[/]" if row["allow_without_privacy"] else "no",
        )
    output.print(table)
    for warning in told["warnings"]:
        output.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


@policy_app.command("sign", epilog="Example: confide privacy policy sign")
def policy_sign(file: PolicyFile = None, json: Json = False) -> None:
    """Sign a policy with this machine's key and enter it in the ledger: from then on it is in force."""
    from client.policies import sign

    source = file or config.policy_file()
    digest, warnings = sign(config.load_settings(), source)
    if json:
        print_json({"policy": str(source), "digest": digest, "warnings": warnings})
        return
    output.print(escape(f"{source} is in force: {digest[:16]}"), soft_wrap=True)
    for warning in warnings:
        output.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


@dataset_app.command("add", epilog="Example: confide privacy dataset add claims-2026 claims.csv --declared-size 12000")
def dataset_add(
    name: Annotated[str, typer.Argument(help="The data set's public name.")],
    path: Annotated[str, typer.Argument(help="File or folder with the data.")],
    declared_size: Annotated[int, typer.Option(help="The public size: a round number near the real one.")],
    labels_path: Annotated[str | None, typer.Option(help="Labels of IDX files.")] = None,
    person: Annotated[str | None, typer.Option(help="Column that identifies a person: one row each is kept.")] = None,
    run: Annotated[Path | None, typer.Option(help="Read the data as this run file describes them, too.")] = None,
    json: Json = False,
) -> None:
    """Validate a data set, register it in the ledger, and offer it under a name.

    Only the name and the declared size are ever public.
    """
    from client.datasets import add

    told = add(name, path, declared_size=declared_size, labels_path=labels_path, person=person, run=run)
    if json:
        print_json(told)
    else:
        text = f"{name}: {told['path']}, declared as {declared_size} records, lineage {told['lineage'][:8]}"
        output.print(escape(text), soft_wrap=True)
        if not told["allowed"]:
            output.print("no policy allows its use yet: add a table to policy.toml and sign it")


@dataset_app.command("update", epilog="Example: confide privacy dataset update claims-2026")
def dataset_update(
    name: Annotated[str, typer.Argument(help="The data set, its path and size as client.toml now says.")],
    run: Annotated[Path | None, typer.Option(help="Read the data as this run file describes them, too.")] = None,
    json: Json = False,
) -> None:
    """Register the data as they lie here now: a new version that goes on spending the same budget."""
    from client.datasets import update

    told = update(name, run=run)
    if json:
        print_json(told)
    else:
        output.print(escape(f"{name}: version {told['version']}" + ("" if told["changed"] else ", nothing changed")))


@dataset_app.command("list", epilog="Example: confide privacy dataset list --json")
def dataset_list(json: Json = False) -> None:
    """List the data sets this machine offers."""
    from client.datasets import listed

    rows = listed()
    if json:
        print_json(rows)
        return
    table = Table("data set", "declared size", "version", "in the policy", "path", title="Offered by this machine")
    for name, row in rows.items():
        version = "not registered" if row["version"] is None else str(row["version"])
        table.add_row(
            escape(name), str(row["declared_size"]), version, "yes" if row["allowed"] else "no", escape(row["path"])
        )
    output.print(table)


@privacy_app.command(epilog="Example: confide privacy status --json")
def status(json: Json = False) -> None:
    """What each data set has spent, what is reserved, what remains, and for how many rounds that is enough."""
    from client.spending import spending

    told = spending()
    if json:
        print_json(told)
        return
    table = Table("data set", "spent", "reserved", "remaining", "cap", "rounds left", "runs", title="Privacy spent")
    for row in told["datasets"]:
        unbounded = row["spent"] is None
        table.add_row(
            escape(row["dataset"]),
            "[red]unbounded[/]" if unbounded else f"{row['spent']:.3f}",
            f"{row['reserved'] or 0.0:.3f}",
            "[red]0[/]" if unbounded else f"{row['remaining']:.3f}",
            "not in the policy" if row["cap"] is None else f"{row['cap']:g} at delta {row['delta']:g}",
            "-" if row["rounds_left"] is None else str(row["rounds_left"]),
            str(row["runs"]),
        )
    output.print(table)
    for run in told["open"]:
        output.print(
            escape(f'open: run {run["run"]} on {run["dataset"]}; if it will not go on: "confide privacy settle"')
        )
    for name, seen in told["witnesses"].items():
        output.print(escape(f"witnessed by {name}: {seen['size']} of {told['entries']} entries"))


@privacy_app.command(epilog="Example: confide privacy settle digits-20260101-120000-ab12")
def settle(
    run: Annotated[str, typer.Argument(help="The run that will not go on.")],
    json: Json = False,
) -> None:
    """Settle a run that ended early: what was not used is given back, and it is never answered again."""
    from client.spending import settle_run

    told = settle_run(run)
    if json:
        print_json(told)
    else:
        output.print(escape(f"{run}: settled, {told['rounds']} of {told['reserved_rounds']} rounds were used"))


@privacy_app.command("rotate-key", epilog="Example: confide privacy rotate-key")
def rotate_key(json: Json = False) -> None:
    """Make a new signing key, let the old one hand the ledger over, and write a request to be admitted anew."""
    from client.rotation import rotate

    told = rotate(config.load_settings())
    if json:
        print_json(told)
        return
    output.print(escape(f"Send {told['request']} to the platform team, and read them:"), soft_wrap=True)
    output.print(f"  [bold]{told['fingerprint']}[/]")
