"""A model server, asked by callers: right answers, plain refusals, bounds that hold, nothing of a request in a log."""

from __future__ import annotations

import gc
import io
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundle_cases as cases
import httpx
import numpy as np
import pytest
from pki_cases import ensure
from serving_cases import BODY, FIRST, ROWS, STEP, Folders, Running, bundle, fragile_onnx, raw, serving, wait_for

from models.errors import BundleError
from server.errors import PortInUseError, ServingError
from server.serving import process
from server.serving.active import ActiveModel
from server.serving.limits import Limits, Token

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-of-some-length"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("bundles") / "first")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    limits = Limits(body_bytes=20_000, records=50, seconds=0.5, header_seconds=0.5)
    with serving(Folders(folder), limits=limits) as running:
        yield running


def test_predictions_are_the_models(server: Running, folder: Path) -> None:
    answer = server.predict()
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    # age, dose and pulse scaled to [-1, 1], times the weights of bundle_cases, plus the bias
    scaled = np.array([[-0.2, -0.4, 50 / 85 - 1], [-0.94, -0.96, 90 / 85 - 1]])
    scores = scaled @ np.array([[1, -1], [0.5, -0.5], [0, 1]]) + np.array(FIRST)
    assert [each["prediction"] for each in predictions] == ["no", "no"]
    assert predictions[0]["probability"] == pytest.approx(1 / (1 + np.exp(scores[0, 1] - scores[0, 0])))
    assert answer.headers["x-confide-model"] == "ward/1"
    assert answer.headers["x-confide-digest"] == cases.verify(folder, [cases.PUBLIC]).digest
    assert answer.headers["cache-control"] == "no-store"


def test_every_form_of_the_protocol_gives_the_same(server: Running) -> None:
    names = list(ROWS[0])
    cells = [list(row.values()) for row in ROWS]
    forms = [
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"dataframe_split": {"columns": names, "data": cells}},
        {"inputs": {name: [row[name] for row in ROWS] for name in names}},
    ]
    found = {server.predict(json.dumps(form).encode()).text for form in forms}
    csv = "\n".join([",".join(names), *(",".join(map(str, row)) for row in cells)])
    found.add(server.predict(csv.encode(), "text/csv; charset=utf-8").text)
    assert len(found) == 1
    assert "predictions" in found.pop()


def test_what_it_says_of_itself(server: Running) -> None:
    told = server.client.get("/").json()
    assert (told["name"], told["version"], told["variant"]) == ("ward", 1, "float32")
    assert server.predict(json.dumps(told["schema"]["example"]).encode()).status_code == 200
    assert server.client.get("/version").json()["digest"] == told["digest"]
    assert {server.client.get(path).status_code for path in told["endpoints"] if path != "/invocations"} == {200}
    assert server.client.head("/ping").status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"instances": []}', "no records"),
        (b'{"dataframe_records": [{"age": 1, "dose": 1, "puls": 1}]}', "record 1"),
        (b'{"dataframe_records": [{"age": "old", "dose": 1, "pulse": 1}]}', "'age'"),
        (b'{"dataframe_records": [{"age": NaN, "dose": 1, "pulse": 1}]}', "NaN"),
        (json.dumps({"dataframe_records": ROWS * 26}).encode(), "50"),
    ],
)
def test_bad_records_are_named(server: Running, body: bytes, said: str) -> None:
    answer = server.predict(body)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error_code", "message"}
    assert said in answer.json()["message"]


def test_bad_requests_are_named(server: Running) -> None:
    def code(method: str, path: str, **options: Any) -> tuple[int, str]:
        answer = server.client.request(method, path, **options)
        return answer.status_code, answer.json()["error_code"]

    assert code("GET", "/nothing") == (404, "ENDPOINT_NOT_FOUND")
    assert code("GET", "/%00%ff../etc") == (404, "ENDPOINT_NOT_FOUND")
    assert code("GET", "/invocations") == (405, "METHOD_NOT_ALLOWED")
    assert code("POST", "/ping") == (405, "METHOD_NOT_ALLOWED")
    assert server.client.get("/invocations").headers["allow"] == "POST"
    assert code("POST", "/invocations", content=BODY) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert code("POST", "/invocations", content=BODY, headers={"Content-Type": "application/octet-stream"})[0] == 415
    assert code("POST", "/invocations", content=BODY, headers=JSON | {"Content-Encoding": "gzip"})[0] == 415


def test_a_token_opens_all_and_nothing_else_does(folder: Path) -> None:
    with serving(Folders(folder), token=TOKEN) as server:
        assert {server.client.get(path).status_code for path in ("/ping", "/health", "/ready")} == {200}
        for path in ("/", "/version", "/metrics", "/drift", "/nothing", "/ping/"):
            assert server.client.get(path).status_code == 401, path
        wrong = ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff"]
        for header in wrong:
            answer = server.client.post(
                "/invocations", content=BODY, headers={**JSON, "Authorization": header.encode("latin-1")}
            )
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), header
        right = server.client.post("/invocations", content=BODY, headers=JSON | {"Authorization": f"bearer {TOKEN}"})
        assert right.status_code == 200


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ServingError, match="16 characters"):
        Token("short")
    assert Token(None).allows(None)


def test_nothing_of_a_request_is_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scores = ActiveModel.scores

    def fail(self: ActiveModel, inputs: Any) -> Any:
        if len(inputs) == 3:
            time.sleep(0.8)
        if len(inputs) in (2, 3):
            raise RuntimeError("CANARY")
        return scores(self, inputs)

    caplog.set_level(logging.DEBUG)
    with serving(Folders(folder), limits=Limits(seconds=0.5)) as server:
        headers = JSON | {
            "X-Canary": "CANARY",
            "Authorization": "Bearer CANARY",
            "Upgrade": "CANARY",
            "Connection": "upgrade",
        }
        server.client.get("/CANARY?q=CANARY", headers=headers)
        server.predict(b'{"dataframe_records": [{"age": "CANARY", "dose": 1, "pulse": 1}]}')
        server.predict(b"CANARY")
        raw(server, b"CANARY \x00 CANARY\r\n\r\n")
        server.predict(json.dumps({"dataframe_records": ROWS[:1]}).encode())
        monkeypatch.setattr(ActiveModel, "scores", fail)
        failed = server.predict()
        late = server.predict(json.dumps({"dataframe_records": [*ROWS, ROWS[0]]}).encode())
        wait_for(lambda: "in_hand 0.0" in server.client.get("/metrics").text)
        gc.collect()
        metrics = server.client.get("/metrics").text
    assert (failed.status_code, failed.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert late.status_code == 504
    assert "RuntimeError" in caplog.text
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert ours
    assert not any("CANARY" in line for line in ours)
    assert not any("CANARY" in str(record.exc_info) for record in caplog.records)
    assert "CANARY" not in failed.text + metrics + "".join(capfd.readouterr())


def test_figures_add_up(folder: Path) -> None:
    with serving(Folders(folder)) as server:
        for body in (BODY, BODY, b"{"):
            server.predict(body)
        lines = server.client.get("/metrics").text.splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert figures['confide_requests_total{status="200"}'] == "2.0"
    assert figures['confide_requests_total{status="400"}'] == "1.0"
    assert figures["confide_request_records_sum"] == "4.0"
    assert figures['confide_predictions_total{predicted="no",version="1"}'] == "4.0"
    assert float(figures["confide_request_seconds_count"]) == 3
    assert any(key.startswith("confide_model{") and 'version="1"' in key for key in figures)


def test_drift_is_seen_and_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "JUDGE_SECONDS", 0.05)
    young = [{"age": age % 10, "dose": age % 50 / 10, "pulse": 30 + age * 17 % 170} for age in range(100)]
    with serving(Folders(folder), drift=process.DriftSettings(window=100)) as server:
        for _ in range(20):
            server.predict(json.dumps({"dataframe_records": young}).encode())
        wait_for(lambda: server.client.get("/drift").json()["windows"] >= 1)
        for _ in range(20):
            server.predict(json.dumps({"dataframe_records": young}).encode())
        wait_for(lambda: server.client.get("/drift").json()["windows"] >= 2)
        told, metrics = server.client.get("/drift").json(), server.client.get("/metrics").text
    assert told["status"] == "drift"
    assert [each["name"] for each in told["findings"] if each["subject"] == "input" and each["drifted"]] == ["age"]
    assert 'confide_drift{subject="input"} 1.0' in metrics
    assert len([line for line in caplog.messages if "'age'" in line]) == 1


def test_scores_that_are_no_numbers_are_said_to_be_none(tmp_path: Path) -> None:
    registry = Folders(bundle(tmp_path / "1", model=fragile_onnx()))
    large = {"age": 100, "dose": 5, "pulse": 200}
    with serving(registry) as server:
        answer = server.predict(json.dumps({"dataframe_records": [ROWS[0], large]}).encode())
        metrics = server.client.get("/metrics").text
    assert answer.status_code == 200
    assert [each["prediction"] for each in answer.json()["predictions"]] == ["no", None]
    assert "confide_scores_not_finite_total 1.0" in metrics


def test_sequences_and_pieces_of_a_large_request(tmp_path: Path) -> None:
    registry = Folders(bundle(tmp_path / "1", sequence=True))
    with serving(registry) as server:
        assert len(server.predict(STEP).json()["predictions"]) == 2
        many = json.dumps({"instances": [[[0.1, 0.2, 0.3]]] * 1000}).encode()
        assert len(server.predict(many).json()["predictions"]) == 1000


def test_a_model_that_does_not_fit_is_refused_before_it_answers(tmp_path: Path) -> None:
    wrong = bundle(tmp_path / "1", model=cases.linear_onnx((float("nan"), 0)))
    with pytest.raises(ServingError, match="not finite"), serving(Folders(wrong)):
        pass
    other = io.BytesIO(cases.linear_onnx().replace(b"scores", b"scorez"))
    with pytest.raises(ServingError, match="scorez"), serving(Folders(bundle(tmp_path / "2", model=other.read()))):
        pass
    with pytest.raises(BundleError, match=r"'int8'.*float32"), serving(Folders(bundle(tmp_path / "3")), variant="int8"):
        pass


def test_the_bytes_that_run_are_those_that_were_verified(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "1")
    verified = cases.verify(folder, [cases.PUBLIC])
    (folder / "variants/float32.onnx").write_bytes(cases.linear_onnx((0.0, 1000.0)))
    version = Folders(folder).version("ward", "1")
    with pytest.raises(BundleError, match="differs from what was signed"):
        ActiveModel(verified, version, variant=None, limits=Limits(), drift=process.DriftSettings())


def test_addresses_that_cannot_be_used(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match="--port"):
            process.serve(Folders(folder), "ward", port=taken.getsockname()[1])  # type: ignore[arg-type]  # stands in
    with pytest.raises(ServingError, match="no-such-host"):
        process.bound("no-such-host.invalid", 0)
    with pytest.raises(ServingError):
        process.bound("127.0.0.1", 99_999)


def test_certificates(folder: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ServingError, match=r"missing\.pem"),
        serving(Folders(folder), certificate=(tmp_path / "missing.pem", tmp_path / "missing.key")),
    ):
        pass


def test_answers_are_private_on_the_way_with_a_certificate(folder: Path, tmp_path: Path) -> None:
    pki = ensure(tmp_path, ["127.0.0.1"])
    with serving(Folders(folder), certificate=(pki.certificate, pki.key)) as server:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(pki.authority))
        with httpx.Client(verify=trusted, trust_env=False) as client:
            answer = client.post(f"{server.url}/invocations", content=BODY, headers=JSON)
        assert answer.status_code == 200


def test_the_image_holds_what_was_tested() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    wanted = image.partition("constraints.txt \\\n")[2].partition("&&")[0].replace("\\", "").split()
    assert len(wanted) > 15
    assert {name.lower() for name in wanted} <= pinned
    assert "USER 10001" in image
    assert not {"torch", "opacus", "flwr"} & set(wanted)
