"""The benchmark of sealed sums: it runs, both sides add up to the last bit, and a wrong sum stops it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import secagg_flower, secagg_sealed
from benchmarks.secagg import Row, main, measure
from benchmarks.secagg_sealed import Federation, WrongSum, keystream_and_add
from secagg.masks import CHUNK, add_masks

KEYS = {
    *("n", "threshold", "parameters", "drops", "client_setup_ms", "client_upload_ms", "client_unmask_ms", "server_ms"),
    *("upload_over_keystream", "bytes_per_parameter", "flower_client_ms", "flower_server_ms"),
}


def run(n: int, size: int) -> list[Row]:
    return list(measure(n, [size], Console(file=io.StringIO()), 0.0))


@pytest.mark.slow
def test_the_quick_benchmark_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json", str(tmp_path / "rows.json")])
    rows: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    # Of 11 members 8 must survive.
    assert [(row["n"], row["threshold"], row["parameters"], row["drops"]) for row in rows] == [
        (11, 8, 100_000, 0),
        (11, 8, 100_000, 3),
    ]
    assert all(row.keys() >= KEYS for row in rows)
    assert all(value > 0 for row in rows for key, value in row.items() if key.endswith("_ms"))
    assert all(4 < row["bytes_per_parameter"] < 4.02 for row in rows)
    captured = capsys.readouterr()
    assert "at most 3 may drop" in captured.err
    assert "100,000" in captured.out


def test_both_sides_add_up_with_and_without_drops() -> None:
    # What is measured raises unless both sums are right.
    assert [(row.drops, row.threshold) for row in run(5, 1000)] == [(0, 4), (1, 4)]


def test_a_wrong_sealed_sum_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = secagg_sealed.SealedRound.finish

    def wrong(self: Any) -> Any:
        total, contributors = finish(self)
        total[0] += np.uint32(1)
        return total, contributors

    monkeypatch.setattr(secagg_sealed.SealedRound, "finish", wrong)
    with pytest.raises(WrongSum, match="sealed"):
        Federation(3).measure(100, 0, 0.0)


def test_a_wrong_sum_of_flowers_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = secagg_flower.Cohort(5, 4, 1)
    _, sent, plain = cohort.uploads(100, 0.0)
    cohort.server(1, sent, plain, 0.0)
    plain[1][7] += 1
    with pytest.raises(WrongSum, match=r"SecAgg\+"):
        cohort.server(1, sent, plain, 0.0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bare_keystream_is_what_masks_are_made_of(threads: int) -> None:
    keys = [bytes([i]) * 32 for i in range(3)]
    bare = np.zeros(3 * CHUNK + 5, np.uint32)
    masked = bare.copy()
    keystream_and_add(bare, keys, threads)
    add_masks(masked, [(key, 1) for key in keys])
    assert np.array_equal(bare, masked)
