"""A machine's own files: client.toml, the split key, and the commands that write them."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from account_cases import identity
from federation_cases import document, toy_csv
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client import config
from client.cli import app
from client.config import DatasetSettings, SealingSettings, add_dataset, load_settings, split_key
from client.errors import ConfigError
from client.privacy_cli import privacy_app
from client.site import dataset_entry

FIRST = b'name = "north"\nserver = "fl.example.org:9092"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a machine's client, empty."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    return config.directory()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, 'make one with "confide client enrol"'),
        ('name = "north"', "server: missing"),
        ('name = "north"\nserver = "nowhere"', "server"),
        ('name = "north"\nserver = "host:0"', "the port must lie in 1 to 65535"),
        ('name = "north"\nserver = "host:65536"', "the port must lie in 1 to 65535"),
        ('name = "no/rth"\nserver = "host:1"', "name"),
        ('name = "north"\nserver = "host:1"\nserve = 3', "serve: unknown key; did you mean server?"),
        ('name = "north"\nserver = "host:1"\nallow_without_privacy = true', "allow_without_privacy: unknown key"),
        ('name = "north"\nserver = "host:1"\nthreads = true', "threads = true"),
        (
            'name = "north"\nserver = "host:1"\n[dataset.a]\npath = "x"\ndeclared = 5',
            "dataset.a.declared: unknown key; did you mean declared_size?",
        ),
        ('name = "north"\nserver = "host:1"\n[dataset.a]\npath = "x"', "dataset.a.declared_size: missing"),
        (
            'name = "north"\nserver = "host:1"\n[dataset.a]\npath = "x"\ndeclared_size = 0',
            "dataset.a.declared_size = 0",
        ),
        (
            'name = "north"\nserver = "host:1"\n[dataset.a]\npath = "x"\ndeclared_size = 9\nvalidation = 0.9',
            "dataset.a.validation = 0.9",
        ),
        ('name = "north"\nserver = "host:1"\n[sealing]\nmin_cohort = 2', "sealing.min_cohort = 2"),
        ('name = "north"\nserver = "host:1"\n[sealing]\nmin_honest = 4', "did you mean min_honest_sum?"),
        ('name = "north"\nserver = "host:1"\n[sealing]\nallow_clear = "yes"', "sealing.allow_clear"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_bad_client_toml_is_explained(folder: Path, content: str | None, said: str) -> None:
    if content is not None:
        (folder / "client.toml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert said in str(caught.value)


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    (folder / "client.toml").write_bytes(
        FIRST + b'[dataset.a]\npath = "d/a.csv"\nlabels_path = "/l"\ndeclared_size = 5\n'
        b'[dataset.b]\npath = "sklearn:iris"\ndeclared_size = 5\n'
    )
    settings = load_settings()
    assert settings.dataset["a"].path == str(folder / "d" / "a.csv")
    assert settings.dataset["a"].labels_path == "/l"
    assert settings.dataset["b"].path == "sklearn:iris"
    assert settings.private_key == str(folder / "node.key")
    assert settings.identity_key == str(folder / "identity.key")
    assert settings.governance == str(folder / "governance.pub")
    assert settings.sealing == SealingSettings(min_cohort=3, allow_clear=False)
    assert dataset_entry(settings, "c") is None


@given(
    name=st.text(min_size=1, max_size=20),
    path=st.text(min_size=1, max_size=30),
    person=st.none() | st.text(min_size=1, max_size=10),
    size=st.integers(1, 10**12),
    share=st.floats(0.01, 0.5),
)
def test_whatever_is_added_can_be_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, path: str, person: str | None, size: int, share: float
) -> None:
    file = tmp_path_factory.mktemp("client") / "client.toml"
    file.write_bytes(FIRST)
    entry = DatasetSettings(path=path, declared_size=size, person=person, validation=share)
    add_dataset(name, entry, file)
    add_dataset(name + "2", entry, file)
    stored = tomllib.loads(file.read_text(encoding="utf-8"))["dataset"]
    assert list(stored) == [name, name + "2"]
    assert DatasetSettings.model_validate(stored[name]) == entry
    with pytest.raises(ConfigError, match="already"):
        add_dataset(name, entry, file)


def test_a_name_that_is_no_text_leaves_the_file_alone(folder: Path) -> None:
    file = folder / "client.toml"
    file.write_bytes(FIRST)
    with pytest.raises(ConfigError, match="UTF-8"):
        add_dataset("a", DatasetSettings(path="bad-\udcff", declared_size=5))
    assert file.read_bytes() == FIRST


def test_the_split_key_is_made_once(folder: Path) -> None:
    key = split_key()
    assert len(key) == 32
    assert split_key() == key
    assert stat.S_IMODE((folder / "split.key").stat().st_mode) == 0o600
    (folder / "split.key").write_bytes(key[:31])
    with pytest.raises(ConfigError, match="31 bytes, not 32"):
        split_key()


# --- commands ---------------------------------------------------------------------------------------


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def dataset(*arguments: str) -> Any:
    return CliRunner().invoke(privacy_app, ["dataset", *arguments])


def test_add_list_and_check(folder: Path, tmp_path: Path) -> None:
    (folder / "client.toml").write_bytes(FIRST)
    identity(folder)
    data = toy_csv(tmp_path / "toy.csv", 50)
    added = json.loads(dataset("add", "toy", str(data), "--declared-size", "60", "--json").stdout)
    lineage = added.pop("lineage")
    assert added == {"dataset": "toy", "path": str(data), "declared_size": 60, "allowed": False}
    listed = json.loads(dataset("list", "--json").stdout)
    assert listed["toy"]["declared_size"] == 60
    assert (listed["toy"]["lineage"], listed["toy"]["version"]) == (lineage, 1)

    run = tmp_path / "run.toml"
    run.write_text(_toml(document()))
    checked = json.loads(command("check", str(run), "--json").stdout)
    assert checked["records"] == checked["train"] + checked["validation"] == 50


@pytest.mark.parametrize("path", ["absent.csv", "/absolutely/absent.csv"])
def test_a_data_set_that_is_not_there_is_not_offered(folder: Path, path: str) -> None:
    (folder / "client.toml").write_bytes(FIRST)
    result = dataset("add", "toy", path, "--declared-size", "60")
    assert isinstance(result.exception, ConfigError)
    assert "no such file" in str(result.exception)
    assert (folder / "client.toml").read_bytes() == FIRST


def test_a_declared_size_below_one_is_refused(folder: Path) -> None:
    (folder / "client.toml").write_bytes(FIRST)
    result = dataset("add", "iris", "sklearn:iris", "--declared-size", "0")
    assert "declared_size = 0" in str(result.exception)
    assert (folder / "client.toml").read_bytes() == FIRST


def test_check_of_a_data_set_that_is_not_offered_says_how_to_add_it(folder: Path, tmp_path: Path) -> None:
    (folder / "client.toml").write_bytes(FIRST)
    run = tmp_path / "run.toml"
    run.write_text(_toml(document()))
    result = command("check", str(run))
    assert isinstance(result.exception, ConfigError)
    assert "data set toy: not offered here" in str(result.exception)


def _toml(value: dict[str, Any]) -> str:
    """A run file out of a nested document, by dotted keys."""
    lines: list[str] = []

    def write(prefix: str, table: dict[str, Any]) -> None:
        for key, entry in table.items():
            if isinstance(entry, dict):
                write(f"{prefix}{key}.", entry)
            elif entry is not None:
                lines.append(f"{prefix}{key} = {json.dumps(entry)}")

    write("", value)
    return "\n".join(lines) + "\n"
