"""The benchmark of the ledger: it runs, and what it writes is verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ledger import BARS, main


def test_the_benchmark_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--entries", "200", "--folder", str(tmp_path), "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["entries"] >= 200
    assert all(figures[name] > 0 for name in BARS)
    assert "(at most 10" in capsys.readouterr().out


def test_too_few_entries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--entries", "10"])
    assert "at least 200" in capsys.readouterr().err
