"""The HTTP interface of a model server: MLflow's scoring protocol, health, figures.

=========  ==============  ===========================================================================
POST       /invocations    records in, ``{"predictions": [...]}`` out (JSON or CSV; see ``GET /``)
GET        /ping, /health  200 while the process answers
GET        /ready          200 while requests are welcome; 503 while loading or draining
GET        /version        which version answers
GET        /               the same, and what to send
GET        /metrics        figures in Prometheus' format
GET        /drift          has the traffic moved away from the reference?
=========  ==============  ===========================================================================

Errors are ``{"error_code", "message"}``. Where there is a token, all but /ping, /health and /ready need it.
No part of a request is logged: neither records nor paths, and of unexpected exceptions only their type.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib.metadata import version as installed
from typing import Any, Final

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.answers import answers
from models.errors import RequestError
from models.inputs.bodies import media_of
from server.serving.active import ActiveModel, Swapper
from server.serving.limits import Limits, Token, TooLarge, TooLate, Workers, read_body
from server.serving.monitor import Monitor

logger = logging.getLogger("confide.serving")

OPEN: Final = frozenset({"/ping", "/health", "/ready"})
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
LONGEST_MESSAGE: Final = 2000
FAILED: Final = "the request could not be answered; the server's log names the kind of error"
_CLOSED = 499  # as nginx has it: the caller went away


class Refusal(Exception):
    """An answer that is not the one asked for."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @classmethod
    def for_now(cls, why: str, seconds: int) -> Refusal:
        """Something that passes."""
        return cls(503, "TEMPORARILY_UNAVAILABLE", why, Retry_After=str(seconds))


class App:
    """The ASGI application; set ``draining`` when the server was told to stop."""

    def __init__(self, swapper: Swapper, monitor: Monitor, *, limits: Limits, token: str | None) -> None:
        self.draining = False
        self.workers = Workers(limits)
        self._swapper, self._monitor, self._limits, self._token = swapper, monitor, limits, Token(token)
        monitor.watch_in_hand(lambda: self.workers.in_hand)
        self._release = installed("confide")
        alive = self._alive
        self._routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/invocations": ("POST", self._invocations),
            "/ping": ("GET", alive),
            "/health": ("GET", alive),
            "/ready": ("GET", self._ready),
            "/version": ("GET", self._version),
            "/": ("GET", self._described),
            "/metrics": ("GET", self._metrics),
            "/drift": ("GET", self._drift),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        begin = time.perf_counter()
        request = Request(scope, receive)
        try:
            response = await self._routed(request)
        except Refusal as refusal:
            response = self._refused(refusal)
        except ClientDisconnect:
            response = Response(status_code=_CLOSED)
        except Exception as error:  # noqa: BLE001  # whatever it is must not end in a log with what was sent
            logger.error("a request failed: %s", type(error).__name__)
            response = self._refused(Refusal(500, "INTERNAL_ERROR", FAILED))
        if scope["path"] == "/invocations":
            records = int(response.headers.get("X-Confide-Records", 0))
            self._monitor.answered(response.status_code, time.perf_counter() - begin, records)
        await response(scope, receive, send)

    async def _routed(self, request: Request) -> Response:
        """Find who answers, and whether they may be asked."""
        path = request.scope["path"]
        header = request.headers.get("authorization")
        if path not in OPEN and not self._token.allows(None if header is None else header.encode("latin-1")):
            message = "send the header Authorization: Bearer TOKEN, with this server's token"
            raise Refusal(401, "UNAUTHENTICATED", message, WWW_Authenticate="Bearer")
        if path not in self._routes:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", f"no such path; there is: {', '.join(self._routes)}")
        method, answer = self._routes[path]
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            raise Refusal(405, "METHOD_NOT_ALLOWED", f"{path}: use {method}", Allow=method)
        return await answer(request)

    async def _invocations(self, request: Request) -> Response:
        """Predict."""
        model = self._model()
        if not self.workers.enter():
            raise Refusal.for_now("too many requests at once; try again", 1)
        try:
            media = self._media(request)
            body = await self._body(request)
            content, records = await self._in_time(lambda: self._predictions(model, body, media))
        finally:
            self.workers.leave()
        headers = _who(model) | {"X-Confide-Records": str(records)}
        return _response(content, headers)

    async def _body(self, request: Request) -> bytes:
        """Read the body within the limits."""
        limit = self._limits.body_bytes
        try:
            # What is announced as too large is not waited for. The protocol has checked that it is a number.
            if int(request.headers.get("content-length", 0)) > limit:
                raise TooLarge
            return await read_body(request.stream(), self._limits)
        except TooLarge:
            message = f"body: more than {limit} bytes; send fewer records at once"
            raise Refusal(413, "REQUEST_TOO_LARGE", message) from None
        except TooLate:
            message = f"body: not complete after {self._limits.seconds:g} s; send it faster, or fewer records at once"
            raise Refusal(408, "REQUEST_TIMEOUT", message) from None

    async def _in_time(self, work: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int]:
        """Predict in a thread, within the limits."""
        try:
            return await self.workers.run(work)
        except RequestError as error:
            raise Refusal(400, "BAD_REQUEST", str(error)[:LONGEST_MESSAGE]) from None
        except TooLate:
            message = f"no answer within {self._limits.seconds:g} s; send fewer records at once, or try again"
            raise Refusal(504, "DEADLINE_EXCEEDED", message, Retry_After="1") from None

    def _predictions(self, model: ActiveModel, body: bytes, media: str) -> tuple[bytes, int]:
        """Return the answer to a request and its number of records; in a thread, by one version throughout."""
        inputs = model.requests.parse(body, media)
        try:
            scores = model.scores(inputs)
        except Exception:
            model.tried(failed=True)
            raise
        finite = np.logical_and.reduce(np.isfinite(scores), axis=1)
        model.tried(failed=not finite.all())
        model.drift.observe(inputs[finite], scores[finite])
        self._monitor.predicted(model, scores, finite)
        found = answers(scores, model.task, model.signature, model.classes)
        return json.dumps({"predictions": found}, allow_nan=False, separators=(",", ":")).encode(), len(inputs)

    async def _alive(self, _: Request) -> Response:
        """Say that the process answers."""
        return Response(b"\n", media_type="text/plain")

    async def _ready(self, _: Request) -> Response:
        """Say whether requests are welcome."""
        if self.draining:
            raise Refusal.for_now("the server is stopping", 5)
        return _json({"status": "ready"}, _who(self._model()))

    async def _version(self, _: Request) -> Response:
        """Say which version answers."""
        model = self._model()
        return _json(model.to_dict() | {"confide": self._release}, _who(model))

    async def _described(self, _: Request) -> Response:
        """Say what to send."""
        model = self._model()
        described = {"schema": model.requests.schema(), "endpoints": {path: m for path, (m, _) in self._routes.items()}}
        return _json(model.to_dict() | described, _who(model))

    async def _metrics(self, _: Request) -> Response:
        """Give the figures."""
        return Response(self._monitor.text(), headers={"Content-Type": METRICS})

    async def _drift(self, _: Request) -> Response:
        """Say what the last window of requests showed."""
        model = self._model()
        return _json({"model": model.to_dict()} | model.drift.to_dict(), _who(model))

    def _model(self) -> ActiveModel:
        """The version that answers."""
        model = self._swapper.active
        if model is None:
            raise Refusal.for_now("the model is being loaded; try again", 5)
        return model

    def _media(self, request: Request) -> str:
        """The request's content type, if it is one that is read."""
        given = request.headers.get("content-type", "")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "Content-Encoding: send the body as it is")
        try:
            media_of(given)
        except RequestError as error:
            raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", str(error)[:LONGEST_MESSAGE]) from None
        return given

    def _refused(self, refusal: Refusal) -> Response:
        """Say what is wrong."""
        model = self._swapper.active
        headers = refusal.headers | (_who(model) if model else {})
        return _json({"error_code": refusal.code, "message": refusal.message}, headers, refusal.status)


def _who(model: ActiveModel) -> dict[str, str]:
    """Headers that name the version that answered."""
    return {"X-Confide-Model": f"{model.name}/{model.version}", "X-Confide-Digest": model.digest}


def _json(document: dict[str, Any], headers: dict[str, str], status: int = HTTPStatus.OK) -> Response:
    """Answer with JSON."""
    return _response(json.dumps(document, allow_nan=False).encode(), headers, status)


def _response(content: bytes, headers: dict[str, str], status: int = HTTPStatus.OK) -> Response:
    """Answer with JSON that no cache keeps and no browser takes for anything else."""
    fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(content, status_code=status, headers=headers | fixed, media_type="application/json")
