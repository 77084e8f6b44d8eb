"""Small bundles to serve, a registry of folders to serve them from, a server in a thread, and a client."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundle_cases as cases
import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.bundle import seal, verify
from models.reference import reference
from server.errors import RegistryError
from server.serving import process

ROWS = [{"age": 40, "dose": 1.5, "pulse": 80}, {"age": 3, "dose": 0.1, "pulse": 120}]
BODY = json.dumps({"dataframe_records": ROWS}).encode()
SEQUENCE: dict[str, Any] = {
    "kind": "sequence",
    "classes": ["no", "yes"],
    "sequence": {"shape": [1, 3], "bounds": [-1, 1]},
}
STEP = b'{"instances":[[[0.1,0.2,0.3]],[[0.3,0.2,0.1]]]}'
NAMES = ["age", "dose", "pulse"]
FIRST, SECOND = (1000.0, 0.0), (0.0, 1000.0)
ANSWER = {1: "no", 2: "yes"}  # of versions with these biases


def fragile_onnx() -> bytes:
    """Scores that are not numbers where the three features are large, which the warm-up does not show."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["records", "ones"], ["sum"]),
            helper.make_node("Sub", ["two", "sum"], ["rest"]),
            helper.make_node("Sqrt", ["rest"], ["scores"]),
        ],
        "fragile",
        [helper.make_tensor_value_info("records", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.ones((3, 2), np.float32), "ones"),
            numpy_helper.from_array(np.array([2.0], np.float32), "two"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def sequence_onnx(bias: Sequence[float]) -> bytes:
    """Scores of a step of three numbers: ``bias``, which tells the version."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["records"], ["flat"]),
            helper.make_node("MatMul", ["flat", "zeros"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ],
        "constant",
        [helper.make_tensor_value_info("records", TensorProto.FLOAT, ["batch", 1, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.zeros((3, 2), np.float32), "zeros"),
            numpy_helper.from_array(np.array(bias, np.float32), "bias"),
        ],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


def bundle(
    folder: Path,
    *,
    bias: Sequence[float] = FIRST,
    model: bytes | None = None,
    origin: str = "test set",
    sequence: bool = False,
) -> Path:
    """Write and sign a bundle; its reference is uniform in each of its three numbers.

    With ``sequence`` a record is one step of three numbers, which costs far less to parse than three columns.
    """
    folder.mkdir(parents=True)
    cases.write_bundle(folder, bias=bias)
    inputs = np.random.default_rng(0).uniform(-1, 1, (2000, 3)).astype(np.float32)
    scores = np.stack([inputs.sum(1), -inputs.sum(1)], 1) + np.array(bias, np.float32)
    signature, names = cases.DataSettings.model_validate(cases.DATA).signature().to_dict(), NAMES
    if sequence:
        signature = cases.DataSettings.model_validate(SEQUENCE).signature().to_dict()
        model, inputs, names = sequence_onnx(bias), inputs[:, None], None
        cases.edit(folder, "bundle.json", data=SEQUENCE, signature=signature)
        cases.edit(folder, "model/manifest.json", signature=signature)
    made = reference(inputs, scores, origin=origin, features=names, task=cases.TASK | {"signature": signature})
    (folder / "reference.json").write_text(json.dumps(made, indent=2, sort_keys=True) + "\n")
    if model is not None:
        (folder / "variants/float32.onnx").write_bytes(model)
        cases.edit(folder, "bundle.json", variants=[cases.variant_of("float32", model)])
    seal(folder, cases.KEY)
    return folder


class Folders:
    """A registry of signed folders: what a server asks of one, without MLflow."""

    def __init__(self, *folders: Path, broken: bool = False) -> None:
        self.folders = dict(enumerate(folders, start=1))
        self.aliases = {"champion": 1}
        self.history: list[int] = []
        self.broken = broken
        self.fetched: list[int] = []

    def version(self, name: str, spec: str) -> Any:
        if self.broken:
            raise RegistryError("registry: not reachable; start it")
        number = self.aliases[spec[1:]] if spec.startswith("@") else int(spec)
        if name != "ward" or number not in self.folders:
            raise RegistryError(f"{name} {spec}: no such version")
        signed = json.loads((self.folders[number] / "statement.dsse.json").read_text())["payload"]
        return SimpleNamespace(name=name, version=number, digest=digest(signed))

    def fetch(self, name: str, spec: str, into: Path) -> tuple[Any, Any]:
        version = self.version(name, spec)
        self.fetched.append(version.version)
        return version, verify(self.folders[version.version], [cases.PUBLIC])


def digest(payload: str) -> str:
    """A bundle's digest from its statement."""
    return hashlib.sha256(base64.b64decode(payload)).hexdigest()


class Running:
    """A server in a thread of this process."""

    def __init__(self, url: str, thread: threading.Thread) -> None:
        self.url, self.thread = url, thread
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def predict(self, body: bytes = BODY, media: str = "application/json") -> httpx.Response:
        return self.client.post("/invocations", content=body, headers={"Content-Type": media})


@contextmanager
def serving(registry: Any, **options: Any) -> Iterator[Running]:
    """Run ``serve`` on a free port until the block ends."""
    ready, lines, errors, servers = threading.Event(), [], [], []

    def announce(line: str) -> None:
        lines.append(line)
        ready.set()

    class Kept(process.Server):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            servers.append(self)

    def run() -> None:
        try:
            process.serve(registry, "ward", port=0, announce=announce, **({"poll_seconds": 0.05} | options))
        except Exception as error:  # noqa: BLE001  # handed to the test
            errors.append(error)
        finally:
            ready.set()

    original, process.Server = process.Server, Kept  # type: ignore[misc]  # put back below
    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.wait(30)
        if errors:
            raise errors[0]
        running = Running(lines[0].rpartition(" ")[2], thread)
        with running.client:
            yield running
    finally:
        process.Server = original  # type: ignore[misc]
        for server in servers:
            server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def raw(server: Running, text: bytes) -> bytes:
    """Bytes sent as they are; the head of the answer, or nothing if the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(text)
        try:
            with connection.makefile("rb") as answer:
                return b"".join(takewhile(bytes.strip, answer))
        except ConnectionResetError:
            return b""
