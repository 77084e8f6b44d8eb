"""Where state lives."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from strategies.errors import SettingsError
from strategies.home import home, room


def test_rooms_are_made_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "a" / "home"))
    assert room("client") == tmp_path / "a" / "home" / "client"
    assert room("client").is_dir()
    assert stat.S_IMODE(home().stat().st_mode) == stat.S_IMODE(room("client").stat().st_mode) == 0o700


def test_a_home_that_cannot_be_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file" / "home"), "~no-such-person-here/home"):
        monkeypatch.setenv("CONFIDE_HOME", place)
        with pytest.raises(SettingsError, match="CONFIDE_HOME"):
            home()
