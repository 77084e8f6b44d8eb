"""``confide publish``: from a finished run to a signed version in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from server.place import runs_directory
from strategies.console import check_writable, console, output, save_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.publishing.draft import Draft
    from strategies.settings import PublishSettings


def publish(
    run: Annotated[str, typer.Argument(help="A finished run's name, the beginning of it, or its folder.")],
    to: Annotated[
        str | None, typer.Option(help="The registry: a folder, sqlite://, postgresql://, or an MLflow server.")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(envvar="CONFIDE_ARTIFACTS", help="Where a postgresql:// registry keeps files: a folder or a URL."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; by default the run file's.")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help='A variant to make, as "prune:0.5+int8-dynamic". Repeatable.')
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="How much accuracy a variant may lose.")
    ] = None,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="What the model must reach.")] = None,
    evidence: Annotated[
        Path | None, typer.Option(help='What "confide audit bundle" made; by default evidence/ in the run.')
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="A public source to calibrate and distil with; never private data.")
    ] = None,
    signing_key: Annotated[
        Path | None, typer.Option(help="An Ed25519 key (PEM); by default the governance's, or this machine's own.")
    ] = None,
    promote: Annotated[bool | None, typer.Option(help="Make it the champion, if it is no worse.")] = None,
    without_privacy: Annotated[
        bool, typer.Option("--without-privacy", help="Publish a model trained without privacy, labelled so.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file.")] = None,
) -> None:
    """Publish a finished run: gates, compression, a signed bundle, a version in the registry."""
    import torch

    from server.federation import here
    from server.publishing.draft import read_run
    from server.publishing.publish import publish_run
    from server.publishing.signing import signer
    from server.publishing.usual import remember, usual
    from server.runs import find

    check_writable(json)
    given = {
        "name": name,
        "variants": tuple(variant) if variant else None,
        "tolerance": tolerance,
        "min_accuracy": min_accuracy,
        "to": to,
        "promote": promote,
    }
    directory = find(runs_directory(), run)
    document, stored = read_run(directory)
    settings = _wanted(document["settings"], {k: v for k, v in given.items() if v is not None})
    # More threads than cores that are free make small models slower, not faster.
    torch.set_num_threads(stored.performance.threads)
    governance = here()
    where = usual(settings.to, artifacts)
    with console.status("publishing") as status:
        result, draft = publish_run(
            directory,
            settings,
            registry=where.registry,
            artifacts=where.artifacts,
            evidence=evidence,
            calibration=calibration,
            key=signer(signing_key),
            governance=None if governance is None else governance.public_key(),
            without_privacy=without_privacy,
            watch=lambda text: status.update(escape(text)),
        )
    if result["version"] is not None:
        remember(where)
    show(result, draft)
    if json is not None:
        save_json(json, result)
    if not draft.passed:
        raise typer.Exit(1)


def _wanted(stored: dict[str, Any], given: dict[str, Any]) -> PublishSettings:
    """The run file's ``[publish]`` with what the command line says in its place."""
    from strategies.settings import PublishSettings
    from strategies.toml import validated

    return validated(PublishSettings, stored.get("publish", {}) | given, where="confide publish")


def show(result: dict[str, Any], draft: Draft) -> None:
    """The tables: gates, variants, and where the version is."""
    table = Table("gate", "passed", "what was found")
    for gate in result["gates"]:
        table.add_row(gate["name"], "[green]yes[/]" if gate["passed"] else "[red]NO[/]", escape(gate["detail"]))
    output.print(table)
    if result["variants"]:
        show_variants(result["variants"], result["dropped"])
    if not draft.passed:
        output.print("[red]not published[/]")
        return
    aliases = "".join(f" @{alias}" for alias in result["aliases"])
    output.print(f"published [bold]{escape(result['name'])}[/] version {result['version']}{escape(aliases)}")
    for reason in result["not_promoted"]:
        output.print(f"[yellow]not promoted: {escape(reason)}[/]", soft_wrap=True)
    output.print(escape(f"registry: {result['registry']}"), soft_wrap=True)
    output.print(escape(f"bundle: {result['bundle']}"), soft_wrap=True)
    output.print(f"signed by {escape(result['signed_by'])}, key {result['key']}", soft_wrap=True)


def show_variants(kept: Sequence[dict[str, Any]], dropped: Sequence[dict[str, Any]]) -> None:
    """One line a variant; what was dropped is there, too, with the reason."""
    # What accuracy cannot tell, agreement with the uncompressed model does.
    measured = kept[0]["score"] is not None
    table = Table(
        Column("variant", overflow="fold"),
        "KiB",
        "ratio",
        kept[0]["metric"] if measured else "agreement",
        "change",
        "ms, 1",
        "ms, 32",
    )
    for row in (*kept, *dropped):
        table.add_row(
            escape(row["name"]),
            _number(row["bytes"] / 1024, ".1f"),
            _number(row["ratio"], ".3f"),
            _number(row["score" if measured else "agreement"], ".3f"),
            _number(row["score_change"], "+.3f"),
            _number(row["latency_ms_b1"], ".3f"),
            _number(row["latency_ms_b32"], ".3f"),
            style="dim" if row in dropped else None,
        )
    output.print(table)
    for row in dropped:
        output.print(escape(f"dropped {row['name']}: {row['reason']}"), soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    """A figure, or a dash where nothing was measured."""
    return "-" if value is None else format(value, form)
