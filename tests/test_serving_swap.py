"""Versions exchanged while requests are in flight, damaged ones that never answer, and an end that loses nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bundle_cases as cases
import pytest
from serving_cases import ANSWER, BODY, SECOND, STEP, Folders, bundle, fragile_onnx, serving, wait_for
from serving_load import HEAD

from models.errors import BundleError
from server.errors import RegistryError, ServingError
from server.publishing.promotion import promote
from server.publishing.registry import Registry
from server.serving import process
from server.serving.rollback import Probation, RollbackRule

HERE = Path(__file__).parent
LARGE = json.dumps({"dataframe_records": [{"age": 100, "dose": 5, "pulse": 200}]}).encode()


def version(server: Any) -> int:
    return int(server.client.get("/version").json()["version"])


@pytest.fixture
def two(tmp_path: Path) -> Folders:
    return Folders(bundle(tmp_path / "1"), bundle(tmp_path / "2", bias=SECOND))


@pytest.mark.slow
def test_nothing_is_lost_when_the_alias_moves(tmp_path: Path) -> None:
    registry = Folders(bundle(tmp_path / "1", sequence=True), bundle(tmp_path / "2", bias=SECOND, sequence=True))
    with serving(registry) as server:
        command = [sys.executable, str(HERE / "serving_load.py"), str(server.port), "10000", "32", STEP.decode()]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        wait_for(lambda: _answered(server) > 3000, 60)
        registry.aliases["champion"] = 2
        out, _ = load.communicate(timeout=120)
    found = json.loads(out)
    counts = {(status, model, tuple(predictions)): count for status, model, predictions, count in found["seen"]}
    # Every answer is a version's own: none is mixed, and none says the other's name.
    assert counts.keys() == {(200, f"ward/{number}", (ANSWER[number],)) for number in (1, 2)}
    assert sum(counts.values()) == 10_000
    assert min(counts.values()) > 1000


def _answered(server: Any) -> float:
    """How many requests were answered."""
    time.sleep(0.3)  # asking costs the server time
    lines = server.client.get("/metrics").text.splitlines()
    return max((float(line.split()[1]) for line in lines if line.startswith("confide_requests_total")), default=0)


def test_the_alias_is_followed_both_ways(two: Folders) -> None:
    with serving(two) as server:
        for number in (1, 2, 1):
            two.aliases["champion"] = number
            wait_for(lambda number=number: version(server) == number)
            assert {each["prediction"] for each in server.predict().json()["predictions"]} == {ANSWER[number]}
        metrics = server.client.get("/metrics").text
    assert "confide_version_changes_total 3.0" in metrics
    assert metrics.count("confide_model{") == 1


def test_a_fixed_version_stays(two: Folders) -> None:
    with serving(two, spec="2") as server:
        two.aliases["champion"] = 1
        two.folders[2] = two.folders[1]
        time.sleep(0.2)
        assert version(server) == 2
    assert two.fetched == [2]


def test_a_damaged_version_never_answers(two: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = two.folders[2] / "variants/float32.onnx"
    whole = file.read_bytes()
    with serving(two) as server:
        for damaged in (whole[:-1], b"", bytes([*whole[:100], whole[100] ^ 1, *whole[101:]])):
            file.write_bytes(damaged)
            two.aliases["champion"] = 2
            before = len(two.fetched)
            wait_for(lambda before=before: len(two.fetched) > before)
            assert (server.predict().status_code, version(server)) == (200, 1)
        assert 'confide_version_failures_total{reason="BundleError"}' in server.client.get("/metrics").text
        file.write_bytes(whole)
        wait_for(lambda: version(server) == 2)
    assert "differs from what was signed; " in caplog.text
    assert "goes on answering" in caplog.text


def test_a_damaged_version_is_asked_for_less_and_less(two: Folders) -> None:
    (two.folders[2] / "card.md").write_text("# other\n")
    with serving(two):
        two.aliases["champion"] = 2
        time.sleep(1.6)
    assert 3 <= two.fetched.count(2) <= 6  # at 0, 0.05, 0.15, 0.35, 0.75 and 1.55 seconds or later, not 32 times


def test_a_version_signed_by_somebody_else_never_answers(two: Folders) -> None:
    cases.seal(two.folders[2], cases.STRANGER)
    with serving(two) as server:
        two.aliases["champion"] = 2
        wait_for(lambda: 2 in two.fetched)
        assert version(server) == 1


def test_a_registry_that_is_away_changes_nothing(two: Folders) -> None:
    with serving(two) as server:
        two.broken = True
        wait_for(lambda: 'reason="RegistryError"' in server.client.get("/metrics").text)
        assert server.predict().status_code == 200
        two.aliases["champion"], two.broken = 2, False
        wait_for(lambda: version(server) == 2)


def test_without_a_first_version_there_is_no_server(two: Folders) -> None:
    two.aliases["champion"] = 7
    with pytest.raises(RegistryError, match="no such version"), serving(two):
        pass
    two.aliases["champion"] = 1
    cases.edit(two.folders[1], "privacy.json", mode="off")
    with pytest.raises(BundleError, match=r"privacy\.json"), serving(two):
        pass


def test_a_new_version_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Folders(bundle(tmp_path / "1"), bundle(tmp_path / "2", model=fragile_onnx()))
    moves: list[str] = []

    def back(_: Any, name: str, alias: str) -> None:
        moves.append(f"{name}@{alias}")
        registry.aliases[alias] = 1

    monkeypatch.setattr(process, "_roll_back", back)
    with serving(registry, poll_seconds=0.05, rollback_rule=RollbackRule(requests=20, threshold=0.2)) as server:
        for _ in range(10):
            server.predict(LARGE)  # the first version is not on probation, and answers these well
        registry.aliases["champion"] = 2
        wait_for(lambda: version(server) == 2)
        for _ in range(4):
            assert server.predict(LARGE).json()["predictions"][0]["prediction"] is None
        time.sleep(0.2)
        assert version(server) == 2
        server.predict(b"{")  # a caller's mistake is none of the model's
        server.predict(LARGE)
        wait_for(lambda: version(server) == 1)
        assert "confide_version_rollbacks_total 1.0" in server.client.get("/metrics").text
    assert moves == ["ward@champion"]


def test_another_servers_rollback_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Folders(bundle(tmp_path / "1"), bundle(tmp_path / "2", model=fragile_onnx()))
    moves: list[str] = []
    monkeypatch.setattr(process, "_roll_back", lambda *_: moves.append("back"))
    with serving(registry, poll_seconds=0.5, rollback_rule=RollbackRule(requests=5, threshold=0.0)) as server:
        registry.aliases["champion"] = 2
        wait_for(lambda: version(server) == 2)
        registry.aliases["champion"] = 1  # another server was quicker
        server.predict(LARGE)
        wait_for(lambda: version(server) == 1)
    assert moves == []


def test_only_the_first_requests_are_a_probation() -> None:
    woken: list[int] = []
    probation = Probation(RollbackRule(requests=10, threshold=0.1), lambda: woken.append(1))
    probation.note(failed=True)
    for _ in range(9):
        probation.note(failed=False)
    for _ in range(5):
        probation.note(failed=True)
    assert (probation.failed, woken) == (False, [])
    for field in ({"requests": 0}, {"threshold": 1.0}):
        with pytest.raises(ServingError, match=next(iter(field))):
            RollbackRule(**field)  # type: ignore[arg-type]  # a float stands for either


RUN = """
import sys
from pathlib import Path
from serving_cases import Folders
from server.serving.process import serve
serve(Folders(Path(sys.argv[1])), "ward", port=0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_is_in_hand(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", RUN, str(bundle(tmp_path / "1"))]
    environment = {"PYTHONPATH": f"{HERE}:{HERE.parent}", "PATH": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            assert line.startswith("ward 1 (float32) answers at http://127.0.0.1:"), line
            port = int(line.rpartition(":")[2])
            head = HEAD.format(len(BODY))
            with socket.create_connection(("127.0.0.1", port), timeout=10) as busy:
                busy.sendall(head.encode() + BODY[:20])
                time.sleep(0.2)
                server.send_signal(number)
                wait_for(lambda: _refused(port))
                assert server.poll() is None
                busy.sendall(BODY[20:])
                answer = busy.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'{"predictions":[' in answer
            assert server.wait(15) == 0
            assert server.stderr is not None
            assert server.stderr.read() == ""
        finally:
            server.kill()


def _refused(port: int) -> bool:
    """Nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.slow
def test_from_a_real_registry(tmp_path: Path) -> None:
    registry = Registry.at(str(tmp_path / "registry"), keys=[cases.PUBLIC])

    def publish(number: int, **parts: Any) -> None:
        folder = bundle(tmp_path / str(number), **parts)
        assert registry.publish(folder, cases.verify(folder, [cases.PUBLIC])) == number

    publish(1)
    promote(registry, "ward", 1)
    rule = RollbackRule(requests=5, threshold=0.0)
    with serving(registry, poll_seconds=0.1, rollback_rule=rule) as server:
        assert server.predict().json()["predictions"][0]["prediction"] == "no"
        # A version that fails its first requests is taken back, in the registry too.
        publish(2, model=fragile_onnx())
        promote(registry, "ward", 2)
        wait_for(lambda: version(server) == 2)
        server.predict(LARGE)
        wait_for(lambda: version(server) == 1)
        assert registry.alias("ward", "champion") == 1
        # One flipped byte in the registry, and nobody gets the version.
        publish(3, bias=(7.0, 0.0))
        flip(tmp_path / "registry", cases.linear_onnx((7.0, 0.0)))
        registry.set_alias("ward", "champion", 3)
        wait_for(lambda: 'reason="BundleError"' in server.client.get("/metrics").text)
        assert version(server) == 1
    with pytest.raises(BundleError, match=r"float32\.onnx"), serving(registry, spec="3"):
        pass


def flip(folder: Path, content: bytes) -> None:
    """Flip one byte of the file of that content."""
    (file,) = [file for file in folder.rglob("float32.onnx") if file.read_bytes() == content]
    file.write_bytes(bytes([*content[:50], content[50] ^ 1, *content[51:]]))
