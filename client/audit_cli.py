"""``confide audit …``: what was spent, by whom, on what, provably."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from client.errors import ConfigError
from strategies.console import check_writable, console, output, print_json, save_json

if TYPE_CHECKING:
    from privacy.verify import Verdict

audit_app = typer.Typer(no_args_is_help=True, help="Evidence of what was spent: collect, verify, report, test.")

Bundle = Annotated[Path, typer.Argument(help='The evidence: a folder made by "confide audit bundle".')]
WitnessKey = Annotated[
    list[Path] | None,
    typer.Option(help="A witness's key.pub, got from itself; repeatable. Else the bundle's own is taken."),
]
Governance = Annotated[
    str | None, typer.Option(help="The governance key's fingerprint, as read over the telephone, or the key in hex.")
]
COLOURS = {"pass": "green", "violation": "red", "incomplete": "yellow"}
AUDIT_COLOURS = {"CONSISTENT": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}


@audit_app.command(epilog="Example: confide audit bundle --out evidence --include north-evidence")
def bundle(
    out: Annotated[Path, typer.Option(help="The folder to make; it must not exist.")],
    include: Annotated[list[Path] | None, typer.Option(help="Another machine's bundle to take in. Repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")] = False,
) -> None:
    """Collect what this machine can show: ledger, checkpoints, policies, rosters, model manifests."""
    from privacy.bundle import write
    from strategies.home import home

    files = write(out, home=home(), include=include or [])
    if json:
        print_json({"bundle": str(out), "files": files})
    else:
        output.print(escape(f"{out}: {len(files)} files"), soft_wrap=True)


@audit_app.command(epilog="Example: confide audit verify evidence")
def verify(
    bundle: Bundle,
    witness_key: WitnessKey = None,
    governance: Governance = None,
    json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")] = False,
) -> None:
    """Replay every ledger and believe nobody. Exit 0: pass, 1: violation, 2: incomplete evidence. Needs no network."""
    verdict = _verdict(bundle, witness_key, governance)
    if json:
        print_json(verdict.to_dict())
    else:
        _show(verdict.to_dict())
    raise typer.Exit(verdict.exit_code)


@audit_app.command(epilog="Example: confide audit report evidence --html report.html --json report.json")
def report(
    bundle: Bundle,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page that prints well.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    audit: Annotated[Path | None, typer.Option(help='Result of "confide audit test --json".')] = None,
    witness_key: WitnessKey = None,
    governance: Governance = None,
) -> None:
    """Verify a bundle and write the report: every figure, who saw what, and what is not proven."""
    from models.files import write_atomic
    from privacy.report import build
    from privacy.report_html import html as page

    if html is None and json is None:
        raise ConfigError("--html or --json: neither is given; name a file to write the report to")
    for file in (html, json):
        check_writable(file)
    tested = None if audit is None else _read(audit)
    verdict = _verdict(bundle, witness_key, governance)
    with console.status("recomputing every figure"):
        document = build(bundle, verdict.to_dict(), tested)
    if json is not None:
        save_json(json, document)
    if html is not None:
        write_atomic(html, page(document).encode())
    for file in (html, json):
        if file is not None:
            output.print(escape(f"{file}: written; the verdict is {verdict.to_dict()['verdict']}"), soft_wrap=True)


@audit_app.command(epilog="Example: confide audit test --json audit.json")
def test(
    json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")] = None,
    method: Annotated[str | None, typer.Option(help="One per-record gradient method; by default all.")] = None,
) -> None:
    """Test this installation's own training step: noise, clipping, sampling, and what an attacker could infer."""
    from privacy.audit import run_audit

    check_writable(json)
    with Progress(console=console) as progress:
        task = progress.add_task("auditing", total=None)
        result = run_audit(
            method=method,
            progress=lambda done, total, what: progress.update(task, completed=done, total=total, description=what),
        ).to_dict()
    if json is not None:
        save_json(json, result)
    _show_audit(result)
    raise typer.Exit(1 if result["verdict"] == "FAIL" else 0)


def _verdict(bundle: Path, witness_keys: list[Path] | None, governance: str | None) -> Verdict:
    """The verifier's answer, with the keys that the auditor has from elsewhere."""
    from privacy.verify import verify as replay

    if not bundle.is_dir():
        raise ConfigError(f'{bundle}: no such folder; make one with "confide audit bundle --out {bundle}"')
    keys = {}
    for file in witness_keys or []:
        try:
            text = file.read_text(encoding="ascii").strip()
            keys[f"confide.witness/{text[:32]}"] = bytes.fromhex(text)
        except (OSError, ValueError):
            raise ConfigError(f"--witness-key {file}: not a key.pub of a witness; ask for it again") from None
    with console.status("replaying every ledger"):
        return replay(bundle, witness_keys=keys or None, governance=governance)


def _read(file: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        document = jsonlib.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--audit {file}: cannot be read ({type(error).__name__}); make it anew") from None
    if not isinstance(document, dict):
        raise ConfigError(f"--audit {file}: not the result of an audit; make it anew")
    return document


def _show(verdict: dict[str, Any]) -> None:
    """A verdict for people."""
    table = Table("department", "data set", "epsilon (enforced)", "PLD", "cap", "open", title="What was spent")
    for row in verdict["datasets"]:
        enforced, pld = row["enforced_epsilon"], row["pld_epsilon"]
        table.add_row(
            escape(str(row["department"])),
            escape(str(row["dataset"])),
            "[red]unbounded[/]" if enforced is None else f"{enforced:.3f}",
            "-" if pld is None else f"{pld:.3f}",
            "-" if row["cap"] is None else f"{row['cap']:g} at {row['delta']:g}" + (" (raised)" * row["cap_raised"]),
            str(row["open_reservations"]),
        )
    output.print(table)
    for problem in verdict["problems"]:
        place = f"{problem['file']}" + (f", entry {problem['seq']}" if problem["seq"] is not None else "")
        colour = COLOURS[problem["severity"]]
        output.print(f"[{colour}]{problem['severity']}[/] {escape(place)}: {escape(problem['what'])}", soft_wrap=True)
    output.print("not proven:")
    for sentence in verdict["not_proven"]:
        output.print(f"  - {escape(sentence)}", soft_wrap=True)
    output.print(f"verdict: [bold {COLOURS[verdict['verdict']]}]{verdict['verdict']}[/]")


def _show_audit(result: dict[str, Any]) -> None:
    """An audit's result for people."""
    table = Table("method", "model", "test", "statistic", "p-value", "verdict", title="Conformance")
    for audited in result["methods"]:
        for case in audited["cases"]:
            for check in case["checks"]:
                table.add_row(
                    audited["method"],
                    case["model"],
                    check["name"],
                    f"{check['statistic']:.4g}",
                    f"{check['p_value']:.2g}",
                    _coloured(check["verdict"]),
                )
            if case["problem"]:
                table.add_row(
                    audited["method"], case["model"], escape(case["problem"]), "", "", _coloured(case["verdict"])
                )
    output.print(table)
    table = Table("method", "epsilon at least", "epsilon claimed", "verdict", title="What one attacker could infer")
    for audited in result["methods"]:
        if one := audited["one_run"]:
            table.add_row(
                audited["method"],
                f"{one['epsilon']:.2f}",
                f"{one['claimed']:.2f}",
                _coloured(one["verdict"]),
            )
    output.print(table)
    output.print("not shown:")
    for sentence in result["not_shown"]:
        output.print(f"  - {escape(sentence)}", soft_wrap=True)
    output.print(f"verdict: {_coloured(result['verdict'])}")


def _coloured(verdict: str) -> str:
    """A verdict in its colour."""
    return f"[{AUDIT_COLOURS[verdict]}]{verdict}[/]"
