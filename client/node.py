"""A department's working process: Flower's SuperNode and the pinned runner, one thread each.

Started and restarted by :mod:`client.runner`. The SuperNode fetches messages; the runner answers
them with the ClientApp *installed here*. The bundle that the server sends with a run is never
opened: nothing in this process imports or unpacks it (see :func:`strategies.flower.quicken_supernode`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading

import torch
from filelock import FileLock, Timeout
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supernode.cli.flower_supernode import flower_supernode

from client.app import app
from client.config import directory, load_settings
from client.log import to_parent
from client.runner import ALREADY_RUNNING
from strategies.environment import stop_with_parent
from strategies.flower import (
    CLIENT_TASK,
    Runtime,
    Wakeups,
    acquire,
    execute_client_task,
    quicken_supernode,
)

logger = logging.getLogger("confide.client")

# A task that arrived unannounced (a retry of Flower's own) is found by this.
SAFETY_SECONDS = 5.0


def work(runtime: Runtime, wakeups: Wakeups) -> None:
    """Answer messages for as long as the process lives."""
    client = runtime.client()
    while True:
        wakeups.arrived.wait(SAFETY_SECONDS)
        wakeups.arrived.clear()
        try:
            while True:
                with wakeups.receiving:
                    token = acquire(client, CLIENT_TASK)
                if token is None:
                    break
                execute_client_task(runtime, token, app)
                wakeups.replied.set()
        except ObjectPullError:
            logger.warning("a message of a run that was stopped is dropped")  # the SuperNode does not wait for it
        except Exception as error:  # noqa: BLE001 - one bad message must not silence this department
            wakeups.gave_up.set()
            # The run ended meanwhile, the SuperNode is leaving, or the message was none of ours.
            logger.warning("a message was not answered: %s", type(error).__name__)


def work_or_leave(runtime: Runtime, wakeups: Wakeups) -> None:
    """Never let the process live on without its runner: the service starts it again."""
    try:
        work(runtime, wakeups)
    finally:
        os._exit(1)


def hold_lock() -> FileLock:
    """Be the only process that answers for this machine; two would answer every round twice."""
    lock = FileLock(directory() / "node.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.exit(ALREADY_RUNNING)
    return lock


if __name__ == "__main__":
    secret_file, port = sys.argv[1:3]
    sys.argv = [sys.argv[0], *sys.argv[3:]]  # the rest is the SuperNode's own command line
    to_parent()
    stop_with_parent()
    only_one = hold_lock()
    torch.set_num_threads(load_settings().threads)
    own = Runtime(address=f"127.0.0.1:{port}", secret_file=secret_file, component="SuperExec")
    threading.Thread(target=work_or_leave, args=(own, quicken_supernode()), daemon=True, name="runner").start()
    flower_supernode()
