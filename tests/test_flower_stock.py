"""``flwr run .`` against a stock SuperLink and stock SuperNodes, as Flower users expect it to work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.federation import free_port, tail
from strategies.environment import ENVIRONMENT

pytestmark = [pytest.mark.federation, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent
IGNORED = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "tests")
OVERRIDE = 'run-file="examples/digits_cnn.toml"'


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """A stock, insecure SuperLink with two SuperNodes on free ports; yields environment and app copy."""
    app = tmp_path / "app"
    shutil.copytree(ROOT, app, ignore=IGNORED)
    port, home = free_port(), tmp_path / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = dict(os.environ) | ENVIRONMENT | {"FLWR_HOME": str(home), "CONFIDE_HOME": str(tmp_path / "home")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    processes = []
    try:
        commands = [
            [
                "flower-superlink",
                "--insecure",
                "--port",
                str(port),
                "--disable-runtime-dependency-installation",
            ]
        ]
        commands += [
            [
                *(
                    "flower-supernode",
                    "--insecure",
                    "--superlink",
                    f"127.0.0.1:{port}",
                    "--port",
                    str(free_port()),
                ),
                *("--node-config", f"partition-id={part} num-partitions=2"),
            ]
            for part in range(2)
        ]
        for command in commands:
            with (tmp_path / "log").open("ab") as log:
                processes.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
                    )
                )
            time.sleep(1)
        yield environment, app
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_flwr_run(stock: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    environment, app = stock
    text = (app / "examples" / "digits_cnn.toml").read_text()
    (app / "examples" / "digits_cnn.toml").write_text(text.replace("rounds = 15", "rounds = 1"))
    end = time.monotonic() + 60
    command = ["flwr", "run", str(app), "stock", "--run-config", OVERRIDE]
    while True:  # the SuperLink takes a while to answer
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        if done.returncode == 0 or time.monotonic() > end:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stderr + tail(tmp_path / "log", 20)
    runs = tmp_path / "home" / "server" / "runs"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        documents = [json.loads(file.read_text()) for file in runs.glob("*/run.json")]
        if documents and documents[0]["status"] in {"finished", "failed"}:
            break
        time.sleep(0.5)
    assert documents, tail(tmp_path / "log", 30)
    assert documents[0]["status"] == "finished", documents[0].get("error")
    assert len(documents[0]["departments"]) == 2
