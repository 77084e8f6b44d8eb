"""The reference of a bundle, and the tests that live traffic is held against it by."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import bundle_cases as cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from models.errors import BundleError
from models.reference import MAX_FEATURES, POINTS, read_reference, reference, summaries
from models.signature import Signature, Target
from server.errors import ServingError
from server.serving.drift import Drift, DriftSettings, chi_square, holm, kolmogorov_smirnov

SIGNATURE = Signature(kind="vector", shape=(3,), target="classes", outputs=2)


def task(kind: str = "vector", outputs: int = 2, target: str = "classes") -> dict[str, Any]:
    return cases.TASK | {"signature": {"kind": kind, "outputs": outputs, "target": target}}


def records(count: int, *, seed: int, shift: float = 0.0, ill: float = 0.3) -> NDArray[np.float32]:
    """A number, a whole number and a flag."""
    draw = np.random.default_rng(seed)
    columns = [draw.normal(shift, 0.4, count), draw.integers(0, 5, count) / 5, draw.random(count) < ill]
    return np.clip(np.stack(columns, 1), -1, 1).astype(np.float32)


def scores_of(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([inputs.sum(1), 1 - inputs.sum(1)], 1)


def made(inputs: NDArray[np.float32], **changes: Any) -> dict[str, Any]:
    given = {"origin": "test set", "features": ["a", "b", "c"], "task": task()} | changes
    document = reference(inputs, scores_of(inputs), **given)
    return dict(json.loads(json.dumps(document, allow_nan=False)))


def drift(**options: Any) -> Drift:
    return Drift(read_reference(made(records(3000, seed=0))), SIGNATURE, DriftSettings(window=1000, **options))


def feed(monitor: Drift, inputs: NDArray[np.float32], *, a_request: int = 20) -> None:
    for at in range(0, len(inputs), a_request):
        part = inputs[at : at + a_request]
        monitor.observe(part, scores_of(part))


def test_traffic_like_the_reference_raises_no_alarm() -> None:
    monitor, alarms = drift(), 0
    for seed in range(1, 101):
        feed(monitor, records(1000, seed=seed))
        assert monitor.judge()
        assert monitor.drifted == (), seed
        alarms += min(finding.p_value for finding in monitor.findings if finding.subject == "input") < 0.05
    assert alarms <= 10  # about 3 of 100, by a calibration over 150 references
    assert monitor.to_dict()["windows"] == 100
    assert monitor.to_dict()["status"] == "steady"


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"shift": 0.2}, "a"), ({"ill": 0.5}, "c")],
)
def test_what_moved_is_named_and_only_that(changes: dict[str, float], name: str) -> None:
    monitor = drift()
    feed(monitor, records(1000, seed=1, **changes))
    monitor.judge()
    assert [finding.name for finding in monitor.drifted if finding.subject == "input"] == [name]
    assert monitor.to_dict()["status"] == "drift"
    json.dumps(monitor.to_dict(), allow_nan=False)


def test_predicted_classes_are_watched_by_themselves() -> None:
    monitor = drift()
    inputs = records(1000, seed=1)
    for at in range(0, 1000, 20):
        monitor.observe(inputs[at : at + 20], -scores_of(inputs[at : at + 20]))
    monitor.judge()
    assert [(finding.subject, finding.name) for finding in monitor.drifted] == [("prediction", "classes")]


def test_a_small_change_matters_only_if_it_is_said_to() -> None:
    for effect, expected in ((0.0, ["c"]), (0.1, [])):
        monitor = drift(effect=effect)
        feed(monitor, records(1000, seed=1, ill=0.38))
        monitor.judge()
        assert [f.name for f in monitor.drifted if f.subject == "input"] == expected


def test_windows_do_not_overlap_and_an_unfinished_one_says_nothing() -> None:
    monitor = drift()
    feed(monitor, records(999, seed=1, shift=1))
    assert not monitor.judge()
    assert monitor.to_dict()["status"] == "waiting"
    feed(monitor, records(1, seed=1, shift=1))
    assert monitor.judge()
    assert not monitor.judge()
    assert monitor.to_dict()["records"] == 0


def test_one_request_is_not_the_traffic() -> None:
    monitor = drift()
    inputs = records(1000, seed=1)
    for _ in range(9):
        monitor.observe(inputs, scores_of(inputs))
    assert not monitor.judge()
    monitor.observe(inputs, scores_of(inputs))
    assert monitor.judge()


def test_synthetic_records_are_no_yardstick() -> None:
    monitor = Drift(read_reference(made(records(500, seed=0), origin="synthetic")), SIGNATURE, DriftSettings())
    feed(monitor, records(2000, seed=1, shift=1))
    assert not monitor.judge()
    told = monitor.to_dict()
    assert (told["status"], told["findings"]) == ("not judged", [])
    assert "synthetic" in told["reason"]


def test_values_are_watched_by_their_distribution() -> None:
    inputs = records(2000, seed=0)
    document = reference(
        inputs, inputs[:, :1], origin="file", features=["a", "b", "c"], task=task(outputs=1, target="value")
    )
    value = Signature(kind="vector", shape=(3,), target="value", outputs=1)
    monitor = Drift(read_reference(document), value, DriftSettings())
    for at in range(0, 1000, 20):
        monitor.observe(inputs[at : at + 20], inputs[at : at + 20, :1] + np.float32(0.5))
    monitor.judge()
    assert [(finding.subject, finding.name) for finding in monitor.drifted] == [("prediction", "output 0")]


@given(seed=st.integers(0, 2**20), size=st.integers(2, 200), shift=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_kolmogorov_smirnov_is_scipys_where_every_value_is_kept(seed: int, size: int, shift: float) -> None:
    draw = np.random.default_rng(seed)
    old = draw.integers(0, 30, POINTS).astype(np.float32)
    new = (draw.integers(0, 30, size) + round(shift * 10)).astype(np.float32)
    moved, p_value = kolmogorov_smirnov(np.sort(old), new, len(old))
    expected = stats.ks_2samp(old, new, method="asymp")
    assert moved == pytest.approx(expected.statistic, abs=1e-12)
    assert p_value == pytest.approx(expected.pvalue, rel=1e-9)


@given(seed=st.integers(0, 2**20), size=st.integers(POINTS + 1, 3000), kinds=st.sampled_from([2, 7, 50, 10**6]))
@settings(max_examples=60, deadline=None)
def test_what_order_statistics_leave_out_is_within_what_is_taken_off(seed: int, size: int, kinds: int) -> None:
    values = (np.random.default_rng(seed).integers(0, kinds, size) + 2).astype(np.float32)
    scores = np.stack([values, values], 1)
    document = reference(values[:, None], scores, origin="file", features=["x"], task=task())
    points = read_reference(document).inputs[0].points
    assert len(points) == POINTS
    assert kolmogorov_smirnov(points, values, size)[0] <= 2 / (POINTS - 1)
    assert kolmogorov_smirnov(points, values, size)[1] == 1


def test_chi_square_is_scipys() -> None:
    old, new = np.array([100, 60, 40]), np.array([30, 40, 30])
    _, moved, p_value = chi_square(old, new)
    assert p_value == pytest.approx(stats.chi2_contingency([old, new], correction=False).pvalue)
    assert moved == pytest.approx(0.2)


def test_rare_classes_are_pooled() -> None:
    old, new = np.array([500, 490, 4, 3, 3, 0]), np.array([50, 45, 1, 1, 3, 0])
    # Of 1100 records 10, 5, 4, 4 and none are of the rare ones: fewer than 5 are expected of each in the window.
    pooled = stats.chi2_contingency([[500, 490, 10], [50, 45, 5]], correction=False)
    assert chi_square(old, new)[2] == pytest.approx(pooled.pvalue)
    assert chi_square(np.array([10, 0]), np.array([7, 0]))[1:] == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(raw <= value <= 1 for raw, value in zip(p_values, corrected, strict=True))
    assert min(corrected) == min(min(p_values) * len(p_values), 1)
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [value for _, value in pairs] == sorted(corrected)
    assert pairs[-1][1] <= max(p * (len(pairs) - k) for k, (p, _) in enumerate(pairs))


def test_points_come_back_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(size=(200, 1)).astype(np.float32)
    document = reference(values, np.hstack([values, values]), origin="file", features=["x"], task=task())
    back = read_reference(json.loads(json.dumps(document))).inputs[0].points
    np.testing.assert_array_equal(back, np.sort(values[:, 0]))


def test_a_reference_is_small_whatever_the_model() -> None:
    inputs = np.random.default_rng(0).normal(size=(400, 5000)).astype(np.float32)
    scores = np.random.default_rng(1).normal(size=(400, 3000)).astype(np.float32)
    for target in get_args(Target):
        document = reference(inputs, scores, origin="file", features=None, task=task(outputs=3000, target=target))
        assert len(document["inputs"]) == MAX_FEATURES
        assert len(json.dumps(document)) < 2_000_000
        wide = Signature(kind="vector", shape=(5000,), target=target, outputs=3000)
        monitor = Drift(read_reference(document), wide, DriftSettings(window=100))
        monitor.observe(inputs, scores)
        assert monitor.to_dict()["records"] == 10


def test_what_records_are_summarised_by() -> None:
    image = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))]).astype(np.float32)
    names, values = summaries("image", image)
    assert (len(names), values.tolist()) == (2, [[0.0, 0.0], [1.0, 0.0]])
    tokens = np.array([[5, 1, 7, 0], [1, 0, 0, 0]])
    names, values = summaries("tokens", tokens)
    assert names == ["tokens", "share of unknown tokens"]
    np.testing.assert_allclose(values, [[3, 1 / 3], [1, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "confide-reference/2"}, "format"),
        ({"records": "many"}, "ValueError"),
        ({"inputs": [{"name": "a"}]}, "KeyError"),
        ({"inputs": [{"name": "a", "position": 0, "share": None, "points": [2.0, 1.0]}]}, "ValueError"),
        ({"inputs": [{"name": "a", "position": 0, "share": 2.0, "points": []}]}, "ValueError"),
        ({"inputs": [{"name": "a", "position": 7, "share": 0.5, "points": []}]}, "position"),
        ({"classes": [1, 2, 3]}, "classes"),
    ],
)
def test_a_malformed_reference_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        Drift(read_reference(made(records(50, seed=0)) | changes), SIGNATURE, DriftSettings())


def test_what_cannot_be_a_reference_is_refused() -> None:
    inputs = records(10, seed=0)
    with pytest.raises(BundleError, match="not a finite"):
        reference(inputs, scores_of(inputs) * np.nan, origin="file", features=None, task=task())
    with pytest.raises(BundleError, match="scores of shape"):
        reference(inputs, scores_of(inputs)[:5], origin="file", features=None, task=task())
    with pytest.raises(BundleError, match="2 feature names"):
        reference(inputs, scores_of(inputs), origin="file", features=["a", "b"], task=task())


@pytest.mark.parametrize("field", [{"window": 99}, {"significance": 0}, {"effect": 1.0}])
def test_settings_out_of_range_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ServingError, match=next(iter(field))):
        DriftSettings(**field)


LIGHT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "opacus", "flwr", "dp_accounting", "onnx", "sklearn", "mlflow"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import models.reference, server.models_cli, server.publishing.promotion, server.serving.process
"""


def test_the_serving_process_needs_neither_torch_nor_flower() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
