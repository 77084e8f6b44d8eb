"""Confide's command line: each room's commands, mounted; errors printed as one line, exit code 2."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from client.audit_cli import audit_app
from client.cli import app as client_app
from client.errors import ClientError
from client.privacy_cli import privacy_app
from models.errors import ModelError
from models.inputs.errors import DataError
from privacy.errors import PrivacyError
from secagg.errors import SecaggError
from server.cli import run_app, server_app
from server.errors import ServerError
from server.federation_cli import federation_app
from server.models_cli import models_app
from server.publish_cli import publish
from simulations.cli import demo, simulate
from simulations.partition import PartitionError
from strategies.console import console
from strategies.errors import RunStoppedError, StrategyError

EXPECTED = (
    ClientError,
    ModelError,
    PrivacyError,
    SecaggError,
    ServerError,
    DataError,
    PartitionError,
    StrategyError,
    OSError,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Privacy-preserving federated learning that an organisation can actually trust.",
    pretty_exceptions_enable=False,
)
app.add_typer(client_app, name="client")
app.add_typer(privacy_app, name="privacy")
app.add_typer(audit_app, name="audit")
app.add_typer(federation_app, name="federation")
app.add_typer(server_app, name="server")
app.add_typer(run_app, name="run")
app.add_typer(models_app, name="models")
app.command(epilog="Example: confide simulate examples/digits_cnn.toml --set privacy.epsilon=4")(simulate)
app.command(epilog="Example: confide demo --json result.json")(demo)
app.command(epilog="Example: confide publish digits-20260101-120000-ab12 --to models --json published.json")(publish)


def main() -> None:
    """Run the command line; a user's mistake is one clear line, never a traceback."""
    try:
        app()
    except (KeyboardInterrupt, RunStoppedError):
        console.print("stopped")
        sys.exit(130)
    except EXPECTED as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
