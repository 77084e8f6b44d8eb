"""Flower's SuperLink with a guarded control interface; started by :mod:`server.up`, never by hand.

As shipped, whoever reaches the SuperLink's one port may also register SuperNodes and submit code
for the coordinator to run. Here those requests need a token that only this machine's owner can
read, and submitted code is not run anyway (:mod:`server.worker`).
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from strategies.environment import stop_with_parent

CONTROL_PATH = "/v1/control"
HEADER = "x-confide-control"
TOKEN_FILE = "CONFIDE_CONTROL_TOKEN_FILE"  # noqa: S105 - the variable's name, no secret


class ControlGuard:
    """ASGI middleware: control requests without the token get 401."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not control, or carries the token."""
        if scope["type"] == "http" and CONTROL_PATH in scope["path"]:
            given = dict(scope["headers"]).get(HEADER.encode(), b"")
            if not hmac.compare_digest(given, self._token):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b"control needs this coordinator's token"})
                return
        await self._app(scope, receive, send)


def guard(token: bytes) -> None:
    """Put the guard outermost, through Flower's extension point for middleware."""
    shipped = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(ControlGuard, token=token), *shipped)


if __name__ == "__main__":
    stop_with_parent()
    guard(Path(os.environ[TOKEN_FILE]).read_bytes())
    flower_superlink()
