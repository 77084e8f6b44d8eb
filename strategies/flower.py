"""The one place that touches Flower's internals.

Flower 1.41 starts a fresh process per message and lets a SuperNode run whatever bundle the
server hands it. Confide runs its *own, installed* apps instead: a warm process takes the place
of ``flower-superexec``, acquires tasks from the Runtime API and never opens the bundle. That API
is internal to Flower, hence the narrow version range in ``pyproject.toml`` and the contract test
that fails loudly when Flower moves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, run_from_proto
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.proto.runtime_pb2 import PushTaskOutputRequest as TaskOutput
from flwr.serverapp import Grid
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

logger = logging.getLogger("confide.flower")

CLIENT_TASK = "flwr-clientapp"
SERVER_TASK = "flwr-serverapp"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
IDLE_SECONDS = 1.0
FIRST_IDLE_SECONDS = 0.15
IDLE_GROWTH = 1.08
REPLY_SECONDS = 0.05
# Flower waits one second, then two, up to ten, for a part of a message that is not there yet; parts follow each
# other within milliseconds.
FIRST_RETRY_SECONDS = 0.03
LONGEST_RETRY_SECONDS = 0.5
# A part that the SuperNode does not have once it has stopped receiving will never be there.
MISSING_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where a SuperNode or SuperLink offers its Runtime API, and the secret to take tasks."""

    address: str
    secret_file: str
    root_certificates: bytes | None = None
    component: str = "confide"
    _retries: Any = field(default_factory=make_simple_http_retry_invoker, repr=False)

    def client(self, *, token: str | None = None) -> RuntimeHttpClient:
        """A client: with ``token`` for one task, without to acquire tasks."""
        interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name=self.component)]
        if token is None:
            secret = load_superexec_auth_secret(secret_file=self.secret_file)
            if secret is None:
                raise ValueError(f"{self.secret_file}: holds no secret")
            interceptors.append(
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({ACQUIRE}))
            )
        else:
            interceptors.append(RuntimeTokenHttpInterceptor(token))
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.root_certificates is None,
            root_certificates=self.root_certificates,
            interceptors=interceptors,
            retry_invoker=self._retries,
        )


def acquire(client: RuntimeHttpClient, task: str) -> str | None:
    """The token of a waiting task of type ``task``, or None."""
    reply = client.AcquireTask(AcquireTaskRequest(supported_task_types=[task], agentapp_fab_hashes=[]))
    return reply.token if reply.HasField("task") and reply.token else None


@contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the Runtime API that the task is alive."""
    sender = HeartbeatSender(make_task_heartbeat_fn_http(client))
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()


def hasten_messages() -> None:
    """Let this process ask for the parts of a message as soon as they can be there."""
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        function.__kwdefaults__ = (function.__kwdefaults__ or {}) | {
            "initial_backoff": FIRST_RETRY_SECONDS,
            "backoff_cap": LONGEST_RETRY_SECONDS,
            "max_tries_per_object": None,  # the time limit remains
        }


def execute_client_task(runtime: Runtime, token: str, app: Callable[[Message, Context], Message]) -> None:
    """Run one client task with *our* app; the bundle that came with it is dropped unopened."""
    client = runtime.client(token=token)
    try:
        with _heartbeat(client):
            try:
                message, context, _run, _bundle = pull_task_input(client)
            except ObjectPullError:
                # The run was stopped while its message was on the way. Flower leaves the rest of it behind.
                client.PushTaskOutput(TaskOutput(sub_status=SubStatus.FAILED, details=""))
                raise
            try:
                reply = app(message, context)
            except Exception:  # noqa: BLE001 - whatever it was, its text stays here
                reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=""), reply_to=message)
            push_message(client, reply, context)
            push_task_output(client=client, context=context, sub_status=SubStatus.COMPLETED, details="")
    finally:
        client.close()


def execute_server_task(runtime: Runtime, token: str, app: Callable[[Grid, Context], None]) -> None:
    """Run one server task with *our* app; the submitted bundle is dropped unopened.

    The run configuration comes from the overrides of the run alone, for the same reason.
    """
    hasten_messages()
    grid = HttpGrid(
        runtime_api_address=runtime.address,
        insecure=runtime.root_certificates is None,
        root_certificates=runtime.root_certificates,
        token=token,
    )
    client = grid._runtime_client
    status, details = SubStatus.FAILED, "the run failed; see its log on the coordinator"
    try:
        with _heartbeat(client):
            reply = client.PullTaskInput(PullTaskInputRequest())
            TaskIdentity.task_id = reply.task_id
            TaskIdentity.run_id = reply.run.run_id
            TaskIdentity.node_id = reply.context.node_id
            run = run_from_proto(reply.run)
            context = context_from_proto(reply.context)
            context.run_config = dict(run.override_config)
            grid.set_run(run)
            try:
                app(grid, context)
                status, details = SubStatus.COMPLETED, ""
            finally:
                client.PushTaskOutput(TaskOutput(sub_status=status, details=details))
    finally:
        grid.close()


def departments(grid: Grid) -> dict[int, str]:
    """Connected nodes: node id -> the name it was registered with, or ``node-<id>``."""
    return {node.node_id: getattr(node, "name", "") or f"node-{node.node_id}" for node in grid.get_nodes()}


def assume_identity(*, run: int, node: int) -> None:
    """Give messages made in this process an origin, as Flower's engines do."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run
    TaskIdentity.node_id = node


@dataclass(frozen=True)
class Wakeups:
    """Events by which the two threads of a department's process wait for each other, instead of polling.

    ``receiving`` is held while a message comes in: whoever takes a task must not take one that is half there.
    ``gave_up`` says that a message will have no reply.
    """

    arrived: threading.Event = field(default_factory=threading.Event)
    replied: threading.Event = field(default_factory=threading.Event)
    gave_up: threading.Event = field(default_factory=threading.Event)
    receiving: threading.Lock = field(default_factory=threading.Lock)


class _NoReplyError(Exception):
    """The message that the SuperNode waits to answer will have no reply."""


def quicken_supernode() -> Wakeups:
    """Replace the SuperNode's sleeps, three seconds when idle as shipped: they dominate a message leg.

    Idle, it asks the SuperLink every second; after a message more often, from ``FIRST_IDLE_SECONDS``
    growing back to that. While a task runs it waits for the reply itself, and to *that* message: as shipped it
    is content with whatever lies there, so one reply left over from a stopped run would shift all later ones by one.
    """
    wakeups = Wakeups()
    idle, asked = [IDLE_SECONDS], [""]
    pull, push = start_client_internal._pull_and_store_message, start_client_internal._push_messages

    def pull_and_tell(*, receive: Callable[[], Any], **named: Any) -> int | None:
        def noting() -> Any:
            received = receive()
            if received is not None:
                asked[0] = received[0].metadata.message_id
            return received

        with wakeups.receiving:
            run = pull(receive=noting, **named)
        if run is not None:
            idle[0] = FIRST_IDLE_SECONDS
            wakeups.replied.clear()
            wakeups.gave_up.clear()
            wakeups.arrived.set()
        return run

    def push_the_answer(*, send: Callable[..., Any], **named: Any) -> None:
        answered = set()

        def noting(message: Message, *rest: Any) -> Any:
            answered.add(message.metadata.reply_to_message_id)
            return send(message, *rest)

        with suppress(_NoReplyError):
            while asked[0] not in answered:
                push(send=noting, **named)

    def sleep(wanted: float) -> None:
        if wanted < 1:  # waiting for the reply to a message, or for its objects
            if wakeups.gave_up.is_set():
                raise _NoReplyError
            if wakeups.replied.wait(REPLY_SECONDS):
                time.sleep(REPLY_SECONDS / 10)  # said to be there; what is missing are its objects
            return
        time.sleep(min(wanted, idle[0]))
        idle[0] = min(IDLE_SECONDS, idle[0] * IDLE_GROWTH)

    hasten_messages()
    # The runner's own copy of the name: what it asks for lies in this very process.
    run_clientapp.pull_and_inflate_object_from_tree = partial(  # type: ignore[attr-defined]  # imported there by name
        inflatable_utils.pull_and_inflate_object_from_tree, max_time=MISSING_SECONDS
    )
    start_client_internal._pull_and_store_message = pull_and_tell  # type: ignore[assignment]  # keywords alone
    start_client_internal._push_messages = push_the_answer  # type: ignore[assignment]  # keywords alone
    # As shipped the SuperNode unzips each bundle to read a configuration out of it. Ours is never opened.
    start_client_internal.get_fused_config_from_fab = (  # type: ignore[attr-defined]  # imported there by name
        lambda *_: {}
    )
    start_client_internal.time = SimpleNamespace(  # type: ignore[attr-defined, assignment]  # stands in for the module `time`
        sleep=sleep, time=time.time
    )
    return wakeups
