"""What Confide leans on inside Flower. When one of these fails, Flower has moved: see strategies/flower.py."""

from __future__ import annotations

import contextlib
import inspect
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable import inflatable_utils
from flwr.superlink import extensions
from flwr.superlink import main as superlink_main
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp

from server.superlink import ControlGuard, guard
from strategies import flower
from strategies.flower import assume_identity


def test_the_version_is_the_one_these_internals_were_read_in() -> None:
    assert version("flwr").startswith("1.41.")


def test_supernode_loop_calls_what_is_replaced() -> None:
    source = inspect.getsource(start_client_internal.start_client_internal)
    assert "_pull_and_store_message(" in source
    assert "time.sleep(3)" in source
    assert "time.sleep(0.5)" in inspect.getsource(start_client_internal._push_messages)


def test_client_task_helpers_have_the_expected_shape() -> None:
    assert list(inspect.signature(run_clientapp.pull_task_input).parameters) == ["client"]
    assert list(inspect.signature(run_clientapp.push_message).parameters) == ["client", "message", "context"]
    output = inspect.signature(run_clientapp.push_task_output).parameters
    assert list(output) == ["client", "context", "sub_status", "details"]


def test_neither_task_helper_unpacks_the_bundle() -> None:
    """``pull_task_input`` hands the bundle over as bytes; installing it is somebody else's call."""
    for helper in (run_clientapp.pull_task_input, run_clientapp.push_message, run_clientapp.push_task_output):
        source = inspect.getsource(helper)
        assert "install_from_fab" not in source
        assert "load_client_app" not in source
    own = inspect.getsource(flower)
    assert "install_from_fab" not in own
    assert "fab_from_proto" not in own


def test_what_waits_for_the_parts_of_a_message() -> None:
    """Each has the keywords whose defaults are replaced, and each caller leaves them at the defaults."""
    replaced = {"initial_backoff", "backoff_cap", "max_tries_per_object"}
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        assert replaced | {"max_time"} <= set(function.__kwdefaults__ or {})
    for caller in (
        start_client_internal._pull_and_store_message,
        run_clientapp.pull_task_input,
        HttpGrid.pull_messages,
    ):
        assert not any(keyword in inspect.getsource(caller) for keyword in replaced)
    assert "pull_and_inflate_object_from_tree(" in inspect.getsource(run_clientapp.pull_task_input)


def test_a_part_that_never_comes_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        inflatable_utils.pull_objects, "__kwdefaults__", dict(inflatable_utils.pull_objects.__kwdefaults__)
    )
    whole = inflatable_utils.pull_and_inflate_object_from_tree
    monkeypatch.setattr(whole, "__kwdefaults__", dict(whole.__kwdefaults__))
    flower.hasten_messages()

    def missing(_part: str) -> bytes:
        raise inflatable_utils.ObjectUnavailableError("part")

    begin = time.monotonic()
    with pytest.raises(inflatable_utils.ObjectPullError):
        inflatable_utils.pull_objects(["part"], missing, max_time=0.2)
    assert time.monotonic() - begin < 0.9


def test_grid_internals() -> None:
    assert isinstance(inspect.getattr_static(HttpGrid, "_runtime_client"), property)
    assert {"set_run", "close"} <= set(dir(HttpGrid))


def test_superlink_takes_middleware_from_the_extension_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "get_middleware", extensions.get_middleware)
    guard(b"token")
    first = superlink_main._get_middleware()[0]
    assert first.cls is ControlGuard


def test_quickened_supernode_waits_for_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_client_internal, "_pull_and_store_message", lambda **_: 7)
    monkeypatch.setattr(start_client_internal, "_push_messages", start_client_internal._push_messages)
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)
    reads_bundles = start_client_internal.get_fused_config_from_fab
    monkeypatch.setattr(start_client_internal, "get_fused_config_from_fab", reads_bundles)
    waits = run_clientapp.pull_and_inflate_object_from_tree
    monkeypatch.setattr(run_clientapp, "pull_and_inflate_object_from_tree", waits)
    wakeups = flower.quicken_supernode()
    assert start_client_internal.get_fused_config_from_fab(b"a zip bomb, say", None) == {}  # type: ignore[arg-type]
    assert start_client_internal._pull_and_store_message(receive=lambda: None) == 7  # type: ignore[call-arg]  # replaced above
    assert wakeups.arrived.is_set()
    begin = time.monotonic()
    start_client_internal.time.sleep(3)
    assert time.monotonic() - begin < flower.IDLE_SECONDS
    wakeups.replied.set()
    begin = time.monotonic()
    start_client_internal.time.sleep(0.5)
    assert time.monotonic() - begin < flower.REPLY_SECONDS


def test_a_reply_that_was_left_over_does_not_stand_for_the_one_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shipped, the SuperNode sends whatever reply it holds and asks for the next message: all later come late."""
    due = SimpleNamespace(metadata=SimpleNamespace(message_id="due"))
    batches = [["left-over"], [], ["due"], ["never reached"]]

    def push(*, send: Any, **_: Any) -> None:
        for answered in batches.pop(0):
            send(SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=answered)), None, 0.0)

    def pull(*, receive: Any, **_: Any) -> int:
        receive()
        return 7

    monkeypatch.setattr(start_client_internal, "_pull_and_store_message", pull)
    monkeypatch.setattr(start_client_internal, "_push_messages", push)
    for name in ("time", "get_fused_config_from_fab"):
        monkeypatch.setattr(start_client_internal, name, getattr(start_client_internal, name))
    waits = run_clientapp.pull_and_inflate_object_from_tree
    monkeypatch.setattr(run_clientapp, "pull_and_inflate_object_from_tree", waits)
    wakeups = flower.quicken_supernode()
    sent: list[str] = []
    loop: Any = start_client_internal
    assert loop._pull_and_store_message(receive=lambda: (due, None)) == 7
    loop._push_messages(send=lambda message, *_: sent.append(message.metadata.reply_to_message_id))
    assert sent == ["left-over", "due"]
    # Where there will be no reply, nobody waits for one.
    wakeups.gave_up.set()
    with pytest.raises(flower._NoReplyError):
        loop.time.sleep(0.5)


def test_client_task_runs_our_app_and_reports_completion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The order of calls against the Runtime API, with a stand-in for the connection."""
    calls: list[str] = []
    message, context = SimpleNamespace(name="message"), SimpleNamespace(name="context")
    client = SimpleNamespace(close=lambda: calls.append("close"))
    monkeypatch.setattr(flower.Runtime, "client", lambda _self, **_: client)
    monkeypatch.setattr(flower, "_heartbeat", lambda _client: contextlib.nullcontext())
    monkeypatch.setattr(flower, "pull_task_input", lambda _c: (message, context, None, b"bundle"))
    monkeypatch.setattr(flower, "push_message", lambda _c, reply, _x: calls.append(f"push {reply}"))
    monkeypatch.setattr(flower, "push_task_output", lambda **kw: calls.append(kw["sub_status"]))

    def app(given: Message, own: Context) -> str:
        assert given is message  # type: ignore[comparison-overlap]  # a stand-in
        assert own is context  # type: ignore[comparison-overlap]  # a stand-in
        return "reply"

    runtime = flower.Runtime(address="127.0.0.1:1", secret_file=str(tmp_path / "none"))
    flower.execute_client_task(runtime, "token", app)  # type: ignore[arg-type]  # a stand-in
    assert calls == ["push reply", "completed", "close"]


def test_a_message_of_no_known_kind_leaves_as_an_error_without_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Message] = []
    assume_identity(run=1, node=1)
    message = Message(RecordDict(), dst_node_id=1, message_type="query")
    message.metadata.__dict__["_message_id"] = "m"
    client = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(flower.Runtime, "client", lambda _self, **_: client)
    monkeypatch.setattr(flower, "_heartbeat", lambda _client: contextlib.nullcontext())
    monkeypatch.setattr(flower, "pull_task_input", lambda _c: (message, None, None, b"bundle"))
    monkeypatch.setattr(flower, "push_message", lambda _c, reply, _x: sent.append(reply))
    monkeypatch.setattr(flower, "push_task_output", lambda **_: None)

    def app(_message: Message, _context: Context) -> Message:
        raise ValueError("the patient in row 7")

    flower.execute_client_task(flower.Runtime(address="127.0.0.1:1", secret_file=str(tmp_path)), "token", app)
    assert sent[0].has_error()
    assert sent[0].error.reason == ""
