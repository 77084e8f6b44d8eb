"""``confide models …``: what was published, whether it is what was signed, and who answers with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from strategies.console import console, output, print_json
from strategies.home import room

if TYPE_CHECKING:
    from models.bundle import Bundle
    from server.publishing.registry import Registry
    from server.publishing.registry_version import Version

models_app = typer.Typer(
    no_args_is_help=True, help="Published models: list, verify, promote, roll back, serve, explain."
)

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Which = Annotated[str, typer.Argument(help="NAME@ALIAS, NAME/VERSION, NAME (its champion), or a bundle's folder.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Where = Annotated[
    str | None,
    typer.Option("--registry", envvar="CONFIDE_REGISTRY", help="The registry; by default the one last published to."),
]
Artifacts = Annotated[
    str | None,
    typer.Option(envvar="CONFIDE_ARTIFACTS", help="Where a postgresql:// registry keeps files: a folder or a URL."),
]
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key", help="A publisher's public key (file or hexadecimal); by default this machine's. Repeatable."
    ),
]
Variant = Annotated[str | None, typer.Option(help="Which variant; by default the bundle's own default.")]


@models_app.command("list", epilog="Example: confide models list --json")
def list_models(
    name: Annotated[str | None, typer.Argument(help="One model; by default all of them.")] = None,
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """List what is published: versions, aliases, when, and of which run."""
    store = _registry(registry, artifacts, keys, listing=True)
    rows = [version.to_dict() for one in ([name] if name else store.names()) for version in store.versions(one)]
    if json:
        print_json(rows)
        return
    table = Table("model", "version", "aliases", "created")
    table.add_column("run", overflow="fold")  # it is copied into other commands
    for row in rows:
        aliases = ", ".join(row["aliases"])
        cells = (row["name"], row["version"], aliases, row["created"][:16], row["run"])
        table.add_row(*(escape(str(cell)) for cell in cells))
    output.print(table)


@models_app.command(epilog="Example: confide models show digits-cnn@champion")
def show(
    which: Which, registry: Where = None, artifacts: Artifacts = None, keys: Keys = None, json: Json = False
) -> None:
    """Show a version's card, after its signature has been verified."""
    version, bundle = _fetched(which, registry, artifacts, keys)
    found = _found(version, bundle)
    if json:
        print_json(
            dict(bundle.document) | {"privacy": bundle.privacy, "evaluation": bundle.evaluation, "verified": found}
        )
        return
    output.print(_said(found), soft_wrap=True)
    from rich.markdown import Markdown

    output.print(Markdown(bundle.read("card.md").decode()))


@models_app.command(epilog="Example: confide models verify digits-cnn@champion --key governance.pub")
def verify(
    which: Which, registry: Where = None, artifacts: Artifacts = None, keys: Keys = None, json: Json = False
) -> None:
    """Verify a version or a bundle's folder, offline, with the public key alone; exit 1 if it differs."""
    from models.errors import BundleError

    try:
        # What is in the registry is what is asked about, not what was fetched from it before.
        with tempfile.TemporaryDirectory(prefix="confide-verify-") as scratch:
            version, bundle = _fetched(which, registry, artifacts, keys, into=Path(scratch))
    except BundleError as error:
        if json:
            print_json({"verified": False, "problem": str(error)})
        else:
            output.print(f"[red]NOT verified:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    found = _found(version, bundle)
    if json:
        print_json(found)
    else:
        output.print(_said(found), soft_wrap=True)


@models_app.command(epilog="Example: confide models promote digits-cnn/3")
def promote(
    which: Annotated[str, typer.Argument(help="NAME/VERSION or NAME@ALIAS.")],
    to: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    tolerance: Annotated[
        float, typer.Option(min=0, max=0.5, help="How much worse than the present one it may be.")
    ] = 0.005,
    force: Annotated[bool, typer.Option("--force", help="Move the alias although the rule says no.")] = False,
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Move an alias to a version, by rule: verified, all gates passed, private, no worse than the present one."""
    from server.publishing.promotion import promote as move

    store = _registry(registry, artifacts, keys)
    name, spec = _named(which)
    version = store.version(name, spec)
    _say(move(store, name, version.version, alias=to, tolerance=tolerance, force=force, cache=room("models")), json)


@models_app.command(epilog="Example: confide models rollback digits-cnn")
def rollback(
    name: Name,
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Move an alias back to the version that it named before."""
    from server.publishing.promotion import rollback as move

    _say(move(_registry(registry, artifacts, keys), name, alias=alias, cache=room("models")), json)


@models_app.command(epilog="Example: confide models export digits-cnn@champion --out digits.onnx")
def export(
    which: Which,
    out: Annotated[Path, typer.Option(help="The file to write; it must not exist.")],
    variant: Variant = None,
    form: Annotated[str, typer.Option("--format", help="onnx, or safetensors.")] = "onnx",
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Write one file of a verified version: a variant as ONNX, or the weights as safetensors."""
    from server.publishing.exporting import exported

    _, bundle = _fetched(which, registry, artifacts, keys)
    written = exported(bundle, out, variant=variant, form=form)
    if json:
        print_json(written)
    else:
        output.print(
            escape(f"{written['file']}: {written['bytes']} bytes, SHA-256 {written['sha256']}"), soft_wrap=True
        )


@models_app.command(epilog="Example: confide models serve digits-cnn@champion --port 8080")
def serve(
    which: Annotated[str, typer.Argument(help="NAME@ALIAS (follows the alias), NAME/VERSION, or NAME (its champion).")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    variant: Variant = None,
    poll: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between looks at the alias.")] = 10.0,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token that is asked for.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate chain (PEM), for HTTPS.")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    max_body_mb: Annotated[float, typer.Option(min=0.001, max=1024, help="The largest request.")] = 8.0,
    max_records: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most records in a request.")] = 1000,
    rollback_errors: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.99, help="Roll back a new version that fails in this share of its requests."),
    ] = None,
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
) -> None:
    """Serve a verified model over HTTP by MLflow's scoring protocol; follows its alias, drains on SIGTERM."""
    from server.serving.limits import Limits
    from server.serving.process import serve as run
    from server.serving.rollback import RollbackRule
    from strategies.environment import stop_with_parent_if_asked

    stop_with_parent_if_asked()
    name, spec = _named(which)
    run(
        _registry(registry, artifacts, keys),
        name,
        spec,
        variant=variant,
        host=host,
        port=port,
        token=None if token_file is None else _token(token_file),
        certificate=_certificate(certificate, certificate_key),
        limits=Limits(body_bytes=round(max_body_mb * 2**20), records=max_records),
        poll_seconds=poll,
        rollback_rule=None if rollback_errors is None else RollbackRule(threshold=rollback_errors),
        cache=room("models"),
    )


@models_app.command(epilog="Example: confide models explain digits-cnn@champion --records rows.json --out why")
def explain(
    which: Which,
    out: Annotated[Path, typer.Option(help="Folder for JSON and pictures; it must not exist.")],
    records: Annotated[
        Path | None, typer.Option(help="Records as sent to a server (JSON or CSV); by default made-up ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most records to explain.")] = 8,
    answer: Annotated[
        str | None, typer.Option("--class", help="The class to explain; by default the predicted.")
    ] = None,
    registry: Where = None,
    artifacts: Artifacts = None,
    keys: Keys = None,
    json: Json = False,
) -> None:
    """Say what a model's answers depend on: per prediction and overall, with pictures."""
    from server.publishing.explaining import explained

    _, bundle = _fetched(which, registry, artifacts, keys)
    with console.status("explaining"):
        found = explained(bundle, out, records=records, limit=limit, answer=answer)
    if json:
        print_json(found)
    else:
        output.print(escape(f"{found['out']}: {', '.join(found['files'])}"), soft_wrap=True)


def _say(moved: dict[str, Any], json: bool) -> None:
    """Where an alias was, and is."""
    if json:
        print_json(moved)
    else:
        before = "none before, or this one" if moved["previous"] is None else f"before: {moved['previous']}"
        output.print(f"{escape(moved['name'])}@{moved['alias']}: version {moved['version']}, {before}")
        for check in moved.get("checks", ()):
            output.print(escape(f"  {check['name']}: {check['detail']}"), soft_wrap=True)


def _named(which: str) -> tuple[str, str]:
    """A model's name, and a version or @alias."""
    name, at, alias = which.partition("@")
    if at:
        return name, f"@{alias}"
    name, slash, version = which.partition("/")
    return name, version if slash else "@champion"


def _registry(url: str | None, artifacts: str | None, keys: list[str] | None, *, listing: bool = False) -> Registry:
    """The registry, and whose signatures are believed; a list believes nobody."""
    from server.publishing.registry import Registry
    from server.publishing.signing import trusted
    from server.publishing.usual import usual

    believed = trusted(keys or ()) if keys or not listing else []
    with console.status("opening the registry"):
        where = usual(url, artifacts)
        return Registry.at(where.registry, artifacts=where.artifacts, keys=believed)


def _found(version: Version | None, bundle: Bundle) -> dict[str, Any]:
    """Which version a verified bundle is, and whose; ``bundle`` is its folder where the caller named one."""
    from models.dsse import keyid

    return {
        "verified": True,
        "name": bundle.name,
        "version": None if version is None else version.version,
        "aliases": [] if version is None else list(version.aliases),
        "digest": bundle.digest,
        "key": bundle.key.hex(),
        "keyid": keyid(bundle.key),
        "bundle": str(bundle.folder) if version is None else None,
        "files": len(bundle.files),
    }


def _said(found: dict[str, Any]) -> str:
    """The same for people."""
    version = "" if found["version"] is None else f" version {found['version']}"
    aliases = "".join(f" @{alias}" for alias in found["aliases"])
    who = f"signed by {found['key']} (key id {found['keyid'][:16]}…)"
    return escape(f"verified: {found['name']}{version}{aliases}, {found['files']} files, {who}")


def _fetched(
    which: str, url: str | None, artifacts: str | None, keys: list[str] | None, *, into: Path | None = None
) -> tuple[Version | None, Bundle]:
    """A verified bundle, of a folder or of the registry."""
    from models.bundle import STATEMENT
    from models.bundle import verify as verified
    from models.errors import BundleError
    from server.publishing.registry_version import NAME
    from server.publishing.signing import trusted

    folder = Path(which).expanduser()
    # A folder here that only happens to have a model's name is not that model.
    if folder.is_dir() and (not NAME.fullmatch(which) or (folder / STATEMENT).exists()):
        return None, verified(folder, trusted(keys or ()))
    if which.startswith(("/", ".", "~")):
        raise BundleError(f"{which}: no such folder; name a bundle's, or NAME@ALIAS of the registry")
    name, spec = _named(which)
    return _registry(url, artifacts, keys).fetch(name, spec, into=into or room("models"))


def _token(file: Path) -> str:
    """The bearer token of a file."""
    from models.files import read_bounded
    from server.errors import ServingError

    try:
        return read_bounded(file, 4096).decode("ascii").strip()
    except UnicodeDecodeError:
        raise ServingError(f"--token-file {file}: holds more than ASCII characters; write another token") from None


def _certificate(chain: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Both files, or neither."""
    from server.errors import ServingError

    if (chain is None) != (key is None):
        raise ServingError("--certificate and --certificate-key: give both, or neither")
    return None if chain is None or key is None else (chain, key)
