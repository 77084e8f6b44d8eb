"""Which registry a command means where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.publishing.usual import Where, remember, usual


def test_which_registry_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert usual(None, None) == Where(registry=str(tmp_path / "home" / "registry"), artifacts=None)
    assert list((tmp_path / "home").iterdir()) == []  # looking makes nothing
    remember(Where(registry="models", artifacts=None))
    assert usual(None, None).registry == str(tmp_path / "models")
    remember(Where(registry="postgresql://me:secret@db/models", artifacts="s3://models"))
    file = tmp_path / "home" / "publisher" / "registry.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert usual(None, None).artifacts == "s3://models"
    assert usual("other", None) == Where(registry="other", artifacts=None)
    monkeypatch.setenv("CONFIDE_REGISTRY", "sqlite:///env.db")
    assert usual(None, None) == Where(registry="sqlite:///env.db", artifacts=None)
    monkeypatch.delenv("CONFIDE_REGISTRY")
    for rubbish in ("", "[]", '{"registry": 3}', '{"registry": "a", "artifacts": 3}'):
        file.write_text(rubbish)
        assert usual(None, None).registry == str(tmp_path / "home" / "registry")
