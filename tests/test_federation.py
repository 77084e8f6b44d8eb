"""A real federation on loopback: what it does, what it survives, and what it never runs."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from models.store import load as load_model
from server.cli import launch
from server.control import BUNDLE
from server.display import ENDED
from server.permits import grant
from server.planning import create, prepare
from server.runs import RunDirectory
from simulations.demo import DEPARTMENTS, deal_out, run_settings
from simulations.federation import Federation, FederationError
from strategies.runfile import parse

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]

END_SECONDS = 300.0
NAMES = DEPARTMENTS[:3]  # the fewest that can be sealed


ANY_RUN = 'lifetime = { epsilon = "100", delta = "1e-5" }'


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One coordinator and three departments for all tests of this module."""
    folder = tmp_path_factory.mktemp("federation")
    members, test = deal_out(folder / "data")
    # The demo's departments allow one run each; here they allow any that fit.
    members = [replace(member, policy=ANY_RUN) for member in members[: len(NAMES)]]
    with Federation(directory=folder, members=members) as running:
        (running.place.directory / "runs").mkdir(exist_ok=True)
        (running.directory / "test").write_text(str(test))
        yield running


def new_run(federation: Federation, **changes: dict[str, object]) -> RunDirectory:
    """A prepared run of the demo's settings with changes per table."""
    base = run_settings(Path((federation.directory / "test").read_text()), max_size=400).model_dump(mode="json")
    base["training"] |= {"rounds": 2, "local_steps": 2}
    # Enough noise for every run below to stay within the caps that a department has unless told otherwise.
    base["privacy"] |= {"epsilon": None, "noise_multiplier": 30.0}
    base["strategy"] |= {"min_departments": len(NAMES), "quorum": 0.6}
    for table, values in changes.items():
        base[table] |= values
    settings = prepare(parse(base), real=True)
    directory = create(settings, federation.place.directory / "runs", engine="federation")
    grant(directory, federation.governance)
    return directory


def start(federation: Federation, directory: RunDirectory) -> RunDirectory:
    """Start a prepared run."""
    launch(directory, federation.control.start(directory.name))
    return directory


def until(what: Callable[[], object], seconds: float = END_SECONDS) -> None:
    """Wait until ``what()`` holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def ended(directory: RunDirectory) -> str:
    """Wait for the run's end; returns its status."""
    until(lambda: directory.document()["status"] in ENDED)
    return str(directory.document()["status"])


def test_departments_train_one_model_and_each_keeps_its_own_record(federation: Federation) -> None:
    directory = start(federation, new_run(federation))
    assert ended(directory) == "finished", directory.document().get("error")
    rows = directory.metrics()
    assert [sorted(row["answered"]) for row in rows] == [sorted(NAMES)] * 2
    assert all(row["test"]["accuracy"] >= 0 for row in rows)
    model, _, manifest = load_model(directory.model_directory)
    assert sum(p.numel() for p in model.parameters()) > 0
    assert {d["department"] for d in manifest["privacy"]["departments"]} == set(NAMES)
    for name in NAMES:
        journal = federation.home(name) / "client" / "runs" / f"{directory.name}.json"
        assert json.loads(journal.read_text())["last_round"] == 2


HOSTILE = """
from pathlib import Path
Path({marker!r}).write_text(__name__)
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
app = {kind}()
"""


def test_code_in_a_submitted_bundle_never_runs(federation: Federation, tmp_path: Path) -> None:
    """The one who submits a run cannot choose the code that departments or coordinator execute."""
    marker = str(tmp_path / "owned")
    files: dict[str, bytes | Path] = dict(BUNDLE)
    files["LICENSE"] = b"none"
    for room, kind in (("client", "ClientApp"), ("server", "ServerApp")):
        files[f"{room}/__init__.py"] = f"open({marker!r}, 'w').write('init')\n".encode()
        files[f"{room}/app.py"] = HOSTILE.format(marker=marker, kind=kind).encode()
    content, _ = build_fab_from_files(files)
    directory = new_run(federation)
    control = federation.control
    with control._client() as client:
        client.StartRun(
            StartRunRequest(
                fab=fab_to_proto(Fab("0" * 64, content, {})),
                override_config=user_config_to_proto({"run": directory.name}),
            )
        )
    assert ended(directory) == "finished", directory.document()["error"]  # our code answered, and went through the run
    assert not Path(marker).exists()


def test_control_needs_the_coordinators_token(federation: Federation) -> None:
    control = federation.control
    response = httpx.post(
        f"https://{control.address}/v1/control/start-run",
        content=b"",
        headers={"content-type": "application/x-protobuf"},
        verify=ssl.create_default_context(cafile=str(control.authority)),
    )
    assert response.status_code == 401


def test_a_machine_with_an_unknown_key_is_told_so(federation: Federation, tmp_path: Path) -> None:
    invitation = str(federation.governance.invitation)
    federation.run("stranger", "client", "enrol", "--name", "stranger", "--invitation", invitation)
    federation.allow(replace(federation.members[0], name="stranger"))
    with pytest.raises(FederationError, match="does not admit this machine's key"):
        federation.run("stranger", "client", "run")


def test_a_run_can_be_stopped_and_resumed(federation: Federation) -> None:
    directory = start(federation, new_run(federation, training={"rounds": 10, "local_steps": 20}))
    until(directory.metrics)
    federation.run("coordinator", "run", "stop", directory.name)
    assert ended(directory) == "stopped"
    done = directory.load_checkpoint()[0].round
    assert 1 <= done < 10
    federation.run("coordinator", "run", "resume", directory.name, "--no-follow")
    assert ended(directory) == "finished"
    numbers = [row["round"] for row in directory.metrics()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 10


def test_a_department_without_the_data_set_is_named_and_left_out(federation: Federation) -> None:
    directory = start(federation, new_run(federation, data={"name": "unheard-of"}))
    assert ended(directory) == "failed"
    assert directory.metrics() == []  # they say so before anybody trains
    assert all(f"{name}: unknown-dataset" in directory.document()["error"] for name in NAMES)


def test_a_killed_server_loses_one_round_and_nothing_else(federation: Federation) -> None:
    directory = start(federation, new_run(federation, training={"rounds": 4, "local_steps": 200}))
    until(lambda: len(directory.metrics()) == 1)
    until(lambda: directory.load_checkpoint()[0].round == 2)  # round 2 was recorded, then asked for
    federation.kill("coordinator")
    federation.start_coordinator()
    until(lambda: set(NAMES) <= set(federation.connected()))
    federation.run("coordinator", "run", "resume", directory.name, "--no-follow")
    assert ended(directory) == "finished", directory.document().get("error")
    # Round 2 may have been answered: it is abandoned, and counts as spent.
    assert [row["round"] for row in directory.metrics()] == [1, 3, 4]
    assert directory.load_checkpoint()[0].asked == dict.fromkeys(NAMES, 4)


def test_a_run_goes_on_after_a_department_was_killed_in_mid_round(federation: Federation) -> None:
    """Of three none may vanish: the round is abandoned. Back from its disk, the department takes part in the next."""
    directory = new_run(federation, training={"rounds": 4, "local_steps": 100}, strategy={"deadline": 30.0})
    start(federation, directory)
    until(lambda: directory.has_checkpoint() and directory.load_checkpoint()[0].round == 1)
    time.sleep(1.0)
    federation.kill("east")
    federation.start_member("east", "client", "run")
    assert ended(directory) == "finished", directory.document().get("error")
    first, *_, last = directory.metrics()  # it takes a while until the coordinator sees that it went and came back
    assert "sealed sums need 3" in first["abandoned"]
    assert "east" in first["left_out"]
    assert sorted(last["answered"]) == sorted(NAMES)


def test_port_in_use(federation: Federation, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=f"port {federation.port} .*stop the other program or give --port"):
        federation.run("second", "server", "up", "--port", str(federation.port))


def test_logs_hold_no_training_figures(federation: Federation) -> None:
    text = (federation.home("north") / "client" / "log" / "client.log").read_text()
    assert "answered" in text
    assert "loss" not in text
    assert "accuracy" not in text


LOOPBACK = """
import sys, time
from pathlib import Path
from simulations.demo import deal_out
from simulations.federation import Federation
folder = Path(sys.argv[1])
members, _ = deal_out(folder / "data")
with Federation(directory=folder, members=members[:1]):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_whoever_started_it(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C stops every process; so does a kill that leaves no time for manners."""
    with subprocess.Popen(
        [sys.executable, "-c", LOOPBACK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert running(tmp_path)
        process.send_signal(number)
        process.wait(timeout=60)
    until(lambda: not running(tmp_path), seconds=60)


def running(folder: Path) -> list[str]:
    """Processes whose state lies in ``folder``."""
    mark = f"CONFIDE_HOME={folder}".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:
            continue  # ended meanwhile, or another user's
    return found
