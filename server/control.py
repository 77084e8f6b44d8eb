"""The coordinator's control interface, from the command line: admit, start, stop, list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from server.errors import ControlError
from server.superlink import HEADER

# Flower wants a bundle with every run. Ours holds no code: both sides run what they installed.
BUNDLE = {
    "pyproject.toml": b"""[project]
name = "confide-run"
version = "1.0.0"
description = "A Confide run. Coordinator and departments run their installed Confide, not this."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "confide"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
""",
    "README.md": b"Confide runs what is installed on each machine.\n",
}


@dataclass(frozen=True, kw_only=True)
class Department:
    """A registered department as the coordinator sees it; ``key`` is its node's public key (PEM)."""

    name: str
    node: int
    status: str
    key: bytes


class _Token:
    """Adds the control token to each request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header."""
        context.request.headers[HEADER] = self._token
        return call_next(context)


@dataclass(frozen=True, kw_only=True)
class Control:
    """The control interface at ``address`` (host:port). Every method raises :class:`ControlError`."""

    address: str
    authority: Path
    token: str

    def admit(self, name: str, public_key: bytes) -> int:
        """Register a department's public key (OpenSSH or PEM); returns its node id."""
        key = public_key_to_bytes(read_public_key(public_key))
        with self._client() as client:
            return int(client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id)

    def remove(self, node: int) -> None:
        """Unregister a department."""
        with self._client() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def departments(self) -> list[Department]:
        """Registered departments, in order of name."""
        with self._client() as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        found = [
            Department(name=n.name or f"node-{n.node_id}", node=n.node_id, status=n.status, key=n.public_key)
            for n in nodes
        ]
        return sorted((d for d in found if d.status != "unregistered"), key=lambda d: d.name)

    def start(self, run: str) -> int:
        """Start the prepared run of that name; returns Flower's run id."""
        content, _ = build_fab_from_files(BUNDLE)
        bundle = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(bundle), override_config=user_config_to_proto({"run": run}))
        with self._client() as client:
            reply = client.StartRun(request)
        if not reply.HasField("run_id"):
            raise ControlError(f"run {run}: the coordinator did not start it: {reply.note or 'no reason given'}")
        return int(reply.run_id)

    def stop(self, flower_run: int) -> None:
        """Stop a run by Flower's run id."""
        with self._client() as client:
            client.StopRun(StopRunRequest(run_id=flower_run))

    @contextmanager
    def _client(self) -> Iterator[ControlHttpClient]:
        """A connected client; failures become one clear :class:`ControlError`."""
        client = ControlHttpClient.from_server_address(
            self.address,
            insecure=False,
            root_certificates=self.authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Token(self.token)],
        )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            known = FlowerError.from_json(error.response.text)
            text = known.public_details or known.message if known else error.response.text[:200]
            raise ControlError(f"the coordinator at {self.address} refused: {text}") from None
        except httpx.HTTPError as error:
            raise ControlError(
                f'no coordinator answers at {self.address} ({error}); start one with "confide server up"'
            ) from None
        finally:
            client.close()


def read_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A department's elliptic-curve public key; raises :class:`ControlError` with the fix."""
    loaders = (serialization.load_ssh_public_key, serialization.load_pem_public_key)
    for load in loaders:
        try:
            key = load(data)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, ec.EllipticCurvePublicKey):
            return key
    raise ControlError("public key: not an elliptic-curve public key; use the department's node.pub")
