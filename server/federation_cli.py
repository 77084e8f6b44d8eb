"""``confide federation …``: the governance, which says who belongs to the federation and what it trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from models.files import write_atomic
from server.errors import GovernanceError, ServerError
from strategies.console import console, output, print_json

if TYPE_CHECKING:
    from secagg.roster import Roster
    from server.federation import Governance

federation_app = typer.Typer(no_args_is_help=True, help="The federation: found it, say who belongs to it, permit runs.")

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
RequestFile = Annotated[Path, typer.Argument(help="The enrolment-request.json of the department's machine.")]


@federation_app.command(epilog="Example: confide federation init --name acme --server fl.example.org:9092")
def init(
    name: Annotated[str, typer.Option(help="The organisation's name.")],
    server: Annotated[str, typer.Option(help="Where departments reach the coordinator, as host:port.")],
    mode: Annotated[
        Literal["sealed", "strict"], typer.Option(help="How sums are sealed: one exchange less, or more drop-outs.")
    ] = "sealed",
    colluders: Annotated[
        int | None, typer.Option(help="How many members may collude with the coordinator. By default a tenth.")
    ] = None,
    min_honest: Annotated[
        int | None, typer.Option(help="Fewest honest members whose sum may be seen. By default a fifth.")
    ] = None,
    json: Json = False,
) -> None:
    """Found a federation: its governance key, its certificate authority, and the invitation for departments."""
    from server.federation import FOLDER, FederationSettings, found
    from strategies.home import home
    from strategies.toml import validated

    given = {"name": name, "server": server, "mode": mode, "colluders": colluders, "min_honest": min_honest}
    settings = validated(FederationSettings, given, where="federation")
    governance = found(home() / FOLDER, settings)
    if json:
        print_json({"invitation": str(governance.invitation), "governance_fingerprint": governance.fingerprint()})
        return
    _say(f"Federation {name} is founded in {governance.directory}; back that folder up.")
    _say(f"Give {governance.invitation} to every department, and read this to it over the telephone:")
    output.print(f"  [bold]{governance.fingerprint()}[/]")


@federation_app.command(epilog="Example: confide federation admit enrolment-request.json")
def admit(
    request: RequestFile,
    fingerprint: Annotated[
        str | None, typer.Option(help="The machine's fingerprint, as its operator read it over the telephone.")
    ] = None,
    json: Json = False,
) -> None:
    """Admit a department, once its machine's fingerprint was compared over the telephone."""
    from server import membership
    from server.federation import governed
    from strategies.fingerprint import matches
    from strategies.introduction import read_request

    governance, asked = governed(), read_request(request)
    if fingerprint is None:
        _ask(asked.name, asked.fingerprint)
    elif not matches(asked.fingerprint, fingerprint):
        raise GovernanceError(
            f"--fingerprint {fingerprint}: the request of {asked.name} has {asked.fingerprint}; do not admit it, "
            "and ask the department by a number you know"
        )
    department, roster = membership.admit(governance, asked), governance.roster()
    registered = _registered(governance)
    if json:
        print_json(
            {
                "department": department.name,
                "id": department.id,
                "fingerprint": department.fingerprint,
                "roster_version": roster.version,
                "registered": registered,
            }
        )
    else:
        _say(f"{department.name} is admitted as member {department.id}; roster {roster.version}")


@federation_app.command(epilog="Example: confide federation remove north")
def remove(name: Annotated[str, typer.Argument(help="The department's name.")], json: Json = False) -> None:
    """Remove a department: the next roster lacks it, and it can no longer connect."""
    from server import membership
    from server.federation import governed

    governance = governed()
    department, roster = membership.remove(governance, name), governance.roster()
    registered = _registered(governance)
    if json:
        print_json(
            {"department": name, "id": department.id, "roster_version": roster.version, "unregistered": registered}
        )
    else:
        _say(f"{name} is removed; roster {roster.version}")


@federation_app.command("list", epilog="Example: confide federation list --json")
def list_members(json: Json = False) -> None:
    """List the members, and the terms on which they add up."""
    from server.federation import governed

    governance = governed()
    settings, roster = governance.settings(), governance.roster()
    record = _record(roster) | {
        "name": settings.name,
        "server": settings.server,
        "governance_fingerprint": governance.fingerprint(),
        "members": [
            {"id": member.id, "name": member.name, "fingerprint": member.fingerprint} for member in governance.members()
        ],
    }
    if json:
        print_json(record)
        return
    table = Table("id", "department", "fingerprint", title=escape(f"{settings.name}, roster {roster.version}"))
    for member in governance.members():
        table.add_row(str(member.id), escape(member.name), member.fingerprint)
    output.print(table)
    _say(_terms(record))
    output.print(f"governance {record['governance_fingerprint']}")


@federation_app.command(epilog="Example: confide federation renew")
def renew(json: Json = False) -> None:
    """Sign roster and invitation anew: for another year, and with what federation.toml says now."""
    from server import membership
    from server.federation import governed

    record = _record(membership.renew(governed()))
    if json:
        print_json(record)
    else:
        _say(f"roster {record['version']}: {_terms(record)}")


@federation_app.command(epilog="Example: confide federation permit spec.json --out permit.json")
def permit(
    request: Annotated[Path, typer.Argument(help='The spec.json of a run that "confide run prepare" made.')],
    out: Annotated[Path, typer.Option(help="Where to write the roster and the permit, for the run's start.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="How long it holds. As federation.toml says: 30.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking: what it will do has been read.")] = False,
    json: Json = False,
) -> None:
    """Permit a prepared run: once you have read what it will do and cost."""
    from server.display import forecast_record, show_forecast
    from server.federation import governed
    from server.permits import permit as sign
    from server.planning import forecast
    from server.runs import sealing_bytes
    from strategies.agreement import read_spec
    from strategies.console import check_writable
    from strategies.jsonfile import read_bytes

    governance = governed()
    check_writable(out)
    spec = read_bytes(request).decode(errors="replace")
    run, settings = read_spec(spec)
    told = forecast(settings, departments=len(governance.members()))
    if not json:
        _say(f"run {run} on data set {settings.data.name}:")
        show_forecast(settings, told)
    if not yes and not _is_terminal():
        raise GovernanceError(f"run {run}: nobody here to read what it will do; give --yes once somebody has")
    if not yes and not typer.confirm("Permit it?", err=True):
        raise GovernanceError(f"run {run}: not permitted")
    write_atomic(out, sealing_bytes(sign(governance, spec, days=days)))
    if json:
        print_json({"run": run, "permit": str(out), **forecast_record(settings, told)})
        return
    _say(f'permitted. Start it with "confide run start {run} --permit {out}"')


@federation_app.command(epilog="Example: confide federation certificate --host fl.example.org --out coordinator")
def certificate(
    host: Annotated[list[str], typer.Option(help="Host name or IP that departments connect to. Repeatable.")],
    out: Annotated[Path, typer.Option(help="A new folder, to be copied to the coordinator.")],
    json: Json = False,
) -> None:
    """Certify a coordinator on another machine."""
    from server.federation import governed
    from server.pki import issue

    governance = governed()
    if out.exists():
        raise GovernanceError(f"--out {out}: exists already; name a new folder")
    made = issue(out, list(dict.fromkeys([*host, "127.0.0.1", "localhost"])), authority=governance.pki)
    if json:
        print_json({"out": str(out), "hosts": host})
    else:
        _say(f"Copy what is in {out} to CONFIDE_HOME/server/pki on the coordinator's machine.")
        _say(f"{made.key.name} is secret. The certificate names {', '.join(host)}.")


def _say(text: str) -> None:
    """A line of plain text, however long its paths are."""
    output.print(escape(text), soft_wrap=True)


def _ask(name: str, fingerprint: str) -> None:
    """Let a person compare a fingerprint; raises :class:`GovernanceError` where nobody is there, or says no."""
    if not _is_terminal():
        raise GovernanceError(
            f"department {name}: nobody here to compare its fingerprint; give --fingerprint as its operator read it"
        )
    console.print(escape(f"The machine of {name} has the fingerprint"))
    console.print(f"  [bold]{fingerprint}[/]")
    if not typer.confirm("Did its operator read you the same over the telephone?", err=True):
        raise GovernanceError(f"department {name}: not admitted; ask the department by a number you know")


def _is_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _registered(governance: Governance) -> bool:
    """Tell a coordinator of this machine who may connect; False, with a note, where none is running."""
    from server.membership import register
    from server.place import Place

    try:
        refused = register(governance, Place(directory=governance.directory.with_name("server")).control())
    except ServerError:
        console.print(
            "[dim]no coordinator is running here: one that starts here will know; elsewhere, tell it with "
            '"confide server admit" or "confide server remove"[/]'
        )
        return False
    for text in refused:
        console.print(f"[yellow]warning:[/] {escape(text)}")
    return not refused


def _record(roster: Roster) -> dict[str, Any]:
    """A roster's terms."""
    from datetime import UTC, datetime

    from server.membership import least_answers

    return {
        "version": roster.version,
        "mode": roster.mode,
        "colluders": roster.colluders,
        "min_honest": roster.min_honest,
        "threshold": least_answers(roster),
        "expires": datetime.fromtimestamp(roster.expires, UTC).isoformat(timespec="seconds"),
    }


def _terms(record: dict[str, Any]) -> str:
    """A roster's terms in a line."""
    answers = "too few members for a sum" if record["threshold"] is None else f"{record['threshold']} must answer"
    return (
        f"mode {record['mode']}, up to {record['colluders']} colluders, sums of {record['min_honest']} honest "
        f"members or more; of all, {answers}; expires {record['expires'][:10]}"
    )
