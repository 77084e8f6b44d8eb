"""Environment of every process that is started, and how it ends with the one who started it."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT_SECONDS = 0.5

# Flower: quiet, self-contained, no phoning home.
ENVIRONMENT: dict[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# Set for members of a loopback federation: they leave when whoever started them is gone, however it went.
STOP_WITH_PARENT = "CONFIDE_STOP_WITH_PARENT"


def stop_with_parent() -> None:
    """Interrupt this process when the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def stop_with_parent_if_asked() -> None:
    """The same, where the one who started this process asked for it."""
    if os.environ.get(STOP_WITH_PARENT):
        stop_with_parent()
