"""The coordinator's pinned runner: takes ONE run from the SuperLink and conducts it.

It runs the ServerApp that is installed here; the bundle submitted with a run is never opened.
One process a run, so that a run that dies takes nothing with it; :mod:`server.up` keeps a warm
spare waiting.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import httpx

from server.app import app
from strategies.environment import stop_with_parent
from strategies.flower import SERVER_TASK, Runtime, acquire, execute_server_task

logger = logging.getLogger("confide.server")

POLL_SECONDS = 1.0
BUSY = "confide: run taken"


def work(runtime: Runtime) -> None:
    """Wait for a run, say so on stdout, conduct it."""
    client = runtime.client()
    try:
        while True:
            try:
                token = acquire(client, SERVER_TASK)
            except httpx.HTTPError as error:
                logger.debug("the SuperLink is not answering: %s", error)
                token = None
            if token is not None:
                break
            time.sleep(POLL_SECONDS)
    finally:
        client.close()
    sys.stdout.write(BUSY + "\n")
    sys.stdout.flush()
    execute_server_task(runtime, token, app)


if __name__ == "__main__":
    stop_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    address, secret_file, certificate = sys.argv[1:]
    work(
        Runtime(
            address=address,
            secret_file=secret_file,
            root_certificates=Path(certificate).read_bytes(),
            component="SuperExec",
        )
    )
