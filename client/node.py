"""A department's working process: Flower's SuperNode and the pinned runner, one thread each.

Started and restarted by :mod:`client.runner`. The SuperNode fetches messages; the runner answers
them with the ClientApp *installed here*. The bundle that the server sends with a run is never
opened: nothing in this process imports or unpacks it.
"""

from __future__ import annotations

import logging
import sys
import threading

import httpx
import torch
from flwr.supernode.cli.flower_supernode import flower_supernode

from client.app import app
from client.config import load_settings
from client.log import to_parent
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
            while (token := acquire(client, CLIENT_TASK)) is not None:
                execute_client_task(runtime, token, app)
                wakeups.replied.set()
        except (httpx.HTTPError, RuntimeError) as error:
            # The run ended meanwhile, or the SuperNode is leaving: the next message starts afresh.
            logger.warning("a message was not answered: %s", type(error).__name__)
            logger.debug("%s", error)


if __name__ == "__main__":
    secret_file, port = sys.argv[1:3]
    sys.argv = [sys.argv[0], *sys.argv[3:]]  # the rest is the SuperNode's own command line
    to_parent()
    stop_with_parent()
    torch.set_num_threads(load_settings().threads)
    own = Runtime(address=f"127.0.0.1:{port}", secret_file=secret_file, component="SuperExec")
    threading.Thread(target=work, args=(own, quicken_supernode()), daemon=True, name="runner").start()
    flower_supernode()
