"""What a model server bounds: bodies, heads, connections, waiting, and requests at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_cases import BODY, Folders, Running, bundle, raw, serving, wait_for

from models.signature import Signature
from server.errors import ServingError
from server.serving.active import ActiveModel
from server.serving.limits import Limits

HEAD = b"POST /invocations HTTP/1.1\r\nHost: t\r\n"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundles") / "first")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    limits = Limits(body_bytes=20_000, records=50, seconds=0.5, header_seconds=0.5)
    with serving(Folders(folder), limits=limits) as running:
        yield running


def test_a_large_body_is_not_read(server: Running) -> None:
    assert server.predict(b"x" * 20_001).status_code == 413
    announced = (
        b"POST /invocations HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert raw(server, announced).startswith(b"HTTP/1.1 413")
    unannounced = server.client.post("/invocations", content=iter([b"x" * 10_000] * 3), headers=JSON)
    assert (unannounced.status_code, unannounced.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")
    assert server.predict().status_code == 200


def test_a_slow_body_is_not_waited_for(server: Running) -> None:
    assert raw(server, HEAD + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{").startswith(
        b"HTTP/1.1 408"
    )


def test_a_connection_that_says_nothing_is_cut(server: Running) -> None:
    begin = time.monotonic()
    assert raw(server, b"") == b""
    assert raw(server, b"POST /invocations HTTP/1.1\r\nHost:") == b""
    # A byte now and then does not keep it.
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
        pytest.raises(OSError),
    ):  # reset or broken pipe
        for _ in range(50):
            connection.sendall(b"G")
            time.sleep(0.1)
    assert time.monotonic() - begin < 6


def test_no_more_connections_than_allowed(folder: Path) -> None:
    with serving(Folders(folder), limits=Limits(connections=5)) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(30)]
        try:
            wait_for(lambda: sum(_closed(connection) for connection in idle) >= 25)
            assert server.predict().status_code == 200
        finally:
            for connection in idle:
                connection.close()


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_an_endless_head_is_refused(server: Running) -> None:
    assert raw(server, b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 100_000)[:12] in (b"HTTP/1.1 400", b"")
    assert raw(server, b"\x16\x03\x01 not http\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, HEAD + b"Content-Length: -1\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_two_lengths_are_refused(server: Running) -> None:
    smuggled = HEAD + b"Content-Length: 4\r\nContent-Length: 9\r\n\r\n{}\r\n"
    assert raw(server, smuggled).startswith(b"HTTP/1.1 400")


def test_too_many_at_once_are_told_to_come_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, inside = threading.Event(), threading.Event()
    scores = ActiveModel.scores

    def slow(self: ActiveModel, inputs: Any) -> Any:
        if len(inputs) == 2:  # not the warm-up
            inside.set()
            hold.wait(10)
        return scores(self, inputs)

    monkeypatch.setattr(ActiveModel, "scores", slow)
    limits = Limits(concurrency=2, threads=1, seconds=0.4)
    with serving(Folders(folder), limits=limits) as server, ThreadPoolExecutor(2) as pool:
        begin = time.monotonic()
        held = [
            pool.submit(httpx.post, f"{server.url}/invocations", content=BODY, headers=JSON, trust_env=False)
            for _ in range(2)
        ]
        inside.wait(5)
        wait_for(lambda: "in_hand 2.0" in server.client.get("/metrics").text)
        refused = server.predict()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert server.client.get("/ping").status_code == 200  # the loop is free
        late = [each.result() for each in held]
        assert [answer.status_code for answer in late] == [504, 504]
        assert time.monotonic() - begin < 5
        # What runs on cannot be stopped, so it still takes a place; what had not begun does not.
        assert "in_hand 1.0" in server.client.get("/metrics").text
        hold.set()
        wait_for(lambda: server.predict().status_code == 200)


@pytest.mark.parametrize("field", ["body_bytes", "records", "seconds", "concurrency", "threads", "drain_seconds"])
def test_limits_are_positive(field: str) -> None:
    for value in (0, -1, float("nan")):
        with pytest.raises(ServingError, match=field):
            Limits(**{field: value})


def test_large_records_and_many_outputs_allow_fewer() -> None:
    large = Signature(kind="image", shape=(1, 2048, 2048), target="classes", outputs=2)
    many = Signature(kind="vector", shape=(3,), target="classes", outputs=10_000)
    assert Limits().records_for(large) == 4
    assert Limits().records_for(many) == 104
    assert Limits().records_for(Signature(kind="vector", shape=(3,), target="classes", outputs=2)) == 1000
