"""Seconds per message leg on a real federation: Confide's departments and rounds against stock Flower.

Both sides run one SuperLink with TLS and the same number of SuperNodes on loopback, and send a model
of ``--parameters`` float32 values down and up. Stock Flower is used as shipped: process per message,
``Grid.send_and_receive``. Its app returns what it receives; ours trains one step besides, so the
comparison favours stock.

    python -m benchmarks.round_latency --json latency.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from server.cli import launch
from server.display import follow_run
from server.pki import issue, make_authority
from server.planning import create, prepare
from simulations.federation import Federation, Member, free_port
from strategies.environment import ENVIRONMENT
from strategies.runfile import parse

SHAPE = (1, 27, 37)
FEATURES = 27 * 37
START_SECONDS = 60.0

STOCK_APP = {
    "pyproject.toml": """[project]
name = "stock"
version = "1.0.0"
description = "echo"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "stock"

[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"

[tool.flwr.app.config]
rounds = 3
nodes = 2
parameters = 100000
out = ""
""",
    "stock/__init__.py": "",
    "stock/client.py": """from flwr.clientapp import ClientApp
from flwr.app import Message
app = ClientApp()

@app.train()
def train(message, context):
    return Message(message.content, reply_to=message)
""",
    "stock/server.py": """import json, time
import numpy as np
from flwr.app import ArrayRecord, Array, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    config = context.run_config
    while len(list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    content = RecordDict({"arrays": ArrayRecord({"model": Array(np.zeros(config["parameters"], np.float32))})})
    seconds = []
    for _ in range(config["rounds"]):
        begin = time.monotonic()
        messages = [Message(content, dst_node_id=n, message_type="train") for n in grid.get_node_ids()]
        replies = list(grid.send_and_receive(messages, timeout=120))
        assert len(replies) == config["nodes"] and not any(r.has_error() for r in replies)
        seconds.append(time.monotonic() - begin)
    with open(config["out"], "w") as file:
        json.dump(seconds, file)
""",
}


def ours(folder: Path, departments: int, rounds: int, classes: int) -> list[float]:
    """Leg seconds of Confide: a linear model of (FEATURES + 1) * classes parameters, one step a round."""
    rng = np.random.default_rng(0)
    path = folder / "data.npz"
    np.savez(path, x=rng.random((64, *SHAPE), np.float32), y=np.arange(64) % classes)
    members = [Member(name=f"d{i}", dataset="bench", path=path, declared_size=64) for i in range(departments)]
    settings = parse(
        {
            "name": "latency",
            "model": {"name": "logistic"},
            "data": {
                "name": "bench",
                "kind": "image",
                "image": {"shape": list(SHAPE), "bounds": [0, 1]},
                "classes": [str(i) for i in range(classes)],
            },
            "training": {"rounds": rounds, "local_steps": 1, "sampling_rate": 0.1, "learning_rate": 0.1},
            "privacy": {"noise_multiplier": 1.0, "metrics": "off"},
            # Stock Flower seals nothing either, and two departments could not.
            "secagg": "off",
            "strategy": {"min_departments": departments},
        }
    )
    with Federation(directory=folder / "ours", members=members, allow_clear=True) as federation:
        runs = federation.place.directory / "runs"
        runs.mkdir(exist_ok=True)
        directory = create(prepare(settings, real=True), runs, engine="federation")
        launch(directory, federation.control.start(directory.name))
        follow_run(directory, lambda _row: None)
        return [float(seconds) for row in directory.metrics() for seconds in row["legs"]]


def stock(folder: Path, departments: int, rounds: int, parameters: int) -> list[float]:
    """Leg seconds of Flower as shipped."""
    app, out = folder / "app", folder / "seconds.json"
    for name, text in STOCK_APP.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    authority = make_authority(folder / "pki").directory
    pki = issue(authority, ["127.0.0.1"], authority=authority)
    port = free_port()
    home = folder / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{pki.authority}"\n'
    )
    environment = dict(os.environ) | ENVIRONMENT | {"FLWR_HOME": str(home)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    processes: list[subprocess.Popen[bytes]] = []

    def spawn(*command: str) -> None:
        with (folder / "stock.log").open("ab") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))

    try:
        certificates = ("--ssl-ca-certfile", str(pki.authority), "--ssl-certfile", str(pki.certificate))
        spawn("flower-superlink", *certificates, "--ssl-keyfile", str(pki.key), "--port", str(port))
        time.sleep(8)
        for _ in range(departments):
            node = ("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(pki.authority))
            spawn("flower-supernode", *node, "--port", str(free_port()))
        config = f'rounds={rounds} nodes={departments} parameters={parameters} out="{out}"'
        flwr = str(Path(sys.executable).parent / "flwr")
        subprocess.run([flwr, "run", str(app), "bench", "-c", config], env=environment, check=True, timeout=120)
        end = time.monotonic() + START_SECONDS + 60.0 * rounds
        while not out.exists() and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(0.5)
        seconds: list[float] = json.loads(out.read_text())
        return seconds
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> None:
    """Measure both in one run and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--departments", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    classes = max(2, round(arguments.parameters / (FEATURES + 1)))
    parameters = (FEATURES + 1) * classes
    with tempfile.TemporaryDirectory(prefix="confide-latency-") as folder:
        (Path(folder) / "stock").mkdir()
        own = ours(Path(folder), arguments.departments, arguments.rounds, classes)
        shipped = stock(Path(folder) / "stock", arguments.departments, max(3, arguments.rounds // 2), parameters)
    result = {
        "departments": arguments.departments,
        "parameters": parameters,
        "confide_leg_seconds": statistics.median(own),
        "flower_leg_seconds": statistics.median(shipped),
        "ratio": statistics.median(own) / statistics.median(shipped),
        "confide_legs": own,
        "flower_legs": shipped,
    }
    table = Table(
        "",
        "seconds per leg (median)",
        "ratio",
        title=f"{parameters:,} parameters, {arguments.departments} departments",
    )
    table.add_row("Flower as shipped", f"{result['flower_leg_seconds']:.2f}", "1")
    table.add_row("Confide", f"{result['confide_leg_seconds']:.2f}", f"{result['ratio']:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([result], indent=2) + "\n")


if __name__ == "__main__":
    main()
