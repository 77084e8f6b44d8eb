"""The benchmark of publishing: it runs, and its table says what its rows do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.publish import SETTINGS, Row, digits, main, verdicts


def test_the_benchmark_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--models", "mlp", "--json", str(tmp_path / "rows.json")])
    rows = [Row(**row) for row in json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))]
    assert [row.variant for row in rows] == ["float32", "int8-dynamic", "int8-static"]
    full, dynamic, _ = rows
    assert full.parameters == 55_050
    assert full.ratio == 1
    assert dynamic.ratio <= SETTINGS["mlp"].bar
    assert all(row.latency_ms_b1 > 0 < row.eager_ms_b1 for row in rows)
    told = capsys.readouterr().out
    assert "of float32's bytes (at most 0.30)" in told
    assert "of eager PyTorch's latency (at most 0.5)" in told


def test_bars_are_told_apart() -> None:
    full = Row(
        model="cnn",
        parameters=1,
        variant="float32",
        bytes=100,
        ratio=1.0,
        accuracy=0.9,
        accuracy_change=0.0,
        kept=True,
        latency_ms_b1=0.4,
        eager_ms_b1=1.0,
    )
    good = replace(full, variant="int8-static", ratio=0.29, accuracy_change=-0.004)
    assert [met for _, met in verdicts([full, good])] == [True, True, True]
    assert [met for _, met in verdicts([full, replace(good, ratio=0.31)])] == [False, True, True]
    assert [met for _, met in verdicts([full, replace(good, accuracy_change=-0.006)])] == [True, False, True]
    assert [met for _, met in verdicts([replace(full, latency_ms_b1=0.6), good])] == [True, True, False]


def test_models_are_of_the_sizes_that_bars_are_set_for() -> None:
    from models import zoo

    sizes = {
        label: sum(p.numel() for p in zoo.build(one.name, one.signature, one.hyperparameters, seed=0).parameters())
        for label, one in SETTINGS.items()
    }
    assert all(49_000 <= sizes[label] <= 61_000 for label in ("cnn", "mlp", "lstm", "transformer-60k"))
    assert 110_000 <= sizes["transformer-110k"] <= 112_000


def test_test_digits_are_no_training_digits() -> None:
    one, same, other = digits(50, test=False, seed=0), digits(50, test=False, seed=0), digits(50, test=True, seed=0)
    assert np.array_equal(one.pictures, same.pictures)
    assert not np.array_equal(one.pictures, other.pictures)
    assert 0 <= one.pictures.min() < one.pictures.max() <= 1
    assert one.inputs("image").shape == (50, 1, 28, 28)
    assert one.inputs("sequence").min() == -1
