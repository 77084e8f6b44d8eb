"""Enrolling a machine: what it makes, whom it believes, and who it then is in a sealed sum."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client import config
from client.cli import app
from client.config import load_settings
from client.enrol import enrol
from client.errors import ConfigError
from client.identity import load_me
from server.federation import FederationSettings, Governance, found
from strategies.errors import SettingsError
from strategies.fingerprint import machine_fingerprint, matches
from strategies.introduction import read_invitation, read_request, write_request

MADE = ["ca.pem", "client.toml", "enrolment-request.json", "governance.pub", "identity.key", "node.key", "node.pub"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a machine's client, empty."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path / "home"))
    return config.directory()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Governance:
    """A federation to enrol with."""
    settings = FederationSettings(name="acme", server="fl.example.org:9092")
    return found(tmp_path_factory.mktemp("governance") / "federation", settings)


def test_enrolling_makes_keys_a_request_and_two_fingerprints(folder: Path, federation: Governance) -> None:
    result = enrol(folder, name="north", invitation=federation.invitation)
    assert sorted(path.name for path in folder.iterdir()) == MADE
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["node.key"] == modes["identity.key"] == modes["client.toml"] == 0o600
    node: Any = serialization.load_ssh_private_key((folder / "node.key").read_bytes(), None)
    assert serialization.load_ssh_public_key((folder / "node.pub").read_bytes()) == node.public_key()
    assert load_settings().server == "fl.example.org:9092"
    assert (folder / "ca.pem").read_bytes() == (federation.pki / "ca.pem").read_bytes()

    request = read_request(Path(result["request"]))
    assert request.name == "north"
    assert result["fingerprint"] == request.fingerprint
    assert [len(group) for group in result["fingerprint"].split(" ")] == [4] * 8
    assert result["governance_fingerprint"] == federation.fingerprint()


def test_who_this_machine_is_in_a_sealed_sum(folder: Path, federation: Governance) -> None:
    result = enrol(folder, name="north", invitation=federation.invitation)
    with (folder / "client.toml").open("a") as settings:
        settings.write("[sealing]\nmin_cohort = 5\nmin_honest_sum = 4\nmin_colluders = 2\n")
    me = load_me(load_settings())
    assert me.key.public_key().public_bytes_raw().hex() == read_request(Path(result["request"])).identity
    assert me.governance == federation.public_key()
    assert (me.floors.min_cohort, me.floors.min_honest, me.floors.min_colluders) == (5, 4, 2)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("identity.key", None, "identity_key = .*cannot be read .*enrol this machine anew"),
        ("governance.pub", None, "governance = .*cannot be read .*enrol this machine anew"),
        ("identity.key", b"-----BEGIN PRIVATE KEY-----", "identity_key = .*damaged"),
        ("governance.pub", b"", "governance = .*damaged"),
        ("identity.key", "governance.pub", "no Ed25519 private key"),
        ("governance.pub", "identity.key", "no Ed25519 public key"),
    ],
)
def test_a_lost_identity_is_explained(
    folder: Path, federation: Governance, file: str, damage: bytes | str | None, said: str
) -> None:
    enrol(folder, name="north", invitation=federation.invitation)
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / damage).read_bytes() if isinstance(damage, str) else damage)
    with pytest.raises(ConfigError, match=said):
        load_me(load_settings())


def test_an_identity_that_others_can_read_is_refused(folder: Path, federation: Governance) -> None:
    enrol(folder, name="north", invitation=federation.invitation)
    (folder / "identity.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        load_me(load_settings())


def test_enrolling_twice_keeps_the_first_keys(folder: Path, federation: Governance) -> None:
    enrol(folder, name="north", invitation=federation.invitation)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for removed in (None, "client.toml", "node.key"):
        if removed:
            (folder / removed).unlink()
            del before[removed]
        with pytest.raises(ConfigError, match="exists already"):
            enrol(folder, name="north", invitation=federation.invitation)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_fingerprint_read_over_the_telephone_decides(folder: Path, federation: Governance) -> None:
    other = "0000" + federation.fingerprint()[4:]
    with pytest.raises(ConfigError, match="do not enrol"):
        enrol(folder, name="north", invitation=federation.invitation, fingerprint=other)
    assert list(folder.iterdir()) == []
    told = federation.fingerprint().upper().replace(" ", "  ")
    enrol(folder, name="north", invitation=federation.invitation, fingerprint=told)


@pytest.mark.parametrize("field", ["name", "server", "ca", "governance", "signature"])
def test_an_invitation_changed_on_its_way_is_refused(
    folder: Path, tmp_path: Path, federation: Governance, field: str
) -> None:
    document = json.loads(federation.invitation.read_text())
    another = found(tmp_path / "other", FederationSettings(name="bcme", server="evil.example.org:9092"))
    document[field] = json.loads(another.invitation.read_text())[field]
    changed = tmp_path / "invitation.json"
    changed.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="changed after it was signed"):
        enrol(folder, name="north", invitation=changed)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read .*correct the path"),
        (b"\xff", "not the JSON file"),
        (b"[]", "not the JSON file"),
        (b"[" * 60_000, "not the JSON file"),
        (b" " * 70_000, "larger than"),
        (b"{}", "missing"),
    ],
)
def test_what_is_no_invitation_is_explained(folder: Path, tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "invitation.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        enrol(folder, name="north", invitation=file)
    assert list(folder.iterdir()) == []


def test_a_name_that_cannot_be_makes_nothing(folder: Path, federation: Governance) -> None:
    with pytest.raises((ConfigError, SettingsError), match="name"):
        enrol(folder, name="../north", invitation=federation.invitation)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("failing", range(len(MADE)))
def test_enrolling_on_a_full_disk_makes_nothing(
    folder: Path, federation: Governance, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    (folder / "ca.pem").write_text("here before")
    replace, calls = os.replace, iter(range(10))

    def full(source: Any, target: Any) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ConfigError, match="No space left"):
            enrol(folder, name="north", invitation=federation.invitation)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"ca.pem": "here before"}
    enrol(folder, name="north", invitation=federation.invitation)


@pytest.mark.parametrize("field", ["name", "node", "identity", "signature"])
def test_a_request_changed_on_its_way_is_refused(tmp_path: Path, field: str) -> None:
    documents = [
        json.loads(write_request(Ed25519PrivateKey.generate(), name=name, node=NODES[i].public_key()))
        for i, name in enumerate(("north", "south"))
    ]
    file = tmp_path / "enrolment-request.json"
    file.write_text(json.dumps(documents[0] | {field: documents[1][field]}))
    with pytest.raises(SettingsError, match="changed after it was signed"):
        read_request(file)


def test_only_the_key_that_flower_authenticates_with_will_do(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(SettingsError, match="node: not a P-384 public key"):
        write_request(key, name="north", node=ec.generate_private_key(ec.SECP256R1()).public_key())
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"name": "north", "node": "none", "identity": "0" * 64, "signature": "0" * 128}))
    with pytest.raises(SettingsError, match="node: not a P-384 public key"):
        read_request(file)


def test_a_signed_file_of_one_kind_is_none_of_another(tmp_path: Path, federation: Governance) -> None:
    with pytest.raises(SettingsError):
        read_request(federation.invitation)
    file = tmp_path / "request.json"
    file.write_bytes(write_request(Ed25519PrivateKey.generate(), name="north", node=NODES[0].public_key()))
    with pytest.raises(SettingsError):
        read_invitation(file)


NODES = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]


def test_a_fingerprint_covers_both_keys() -> None:
    shown = {machine_fingerprint(node.public_key(), identity) for node in NODES for identity in (bytes(32), b"\1" * 32)}
    assert len(shown) == 4


@given(st.lists(st.sampled_from([" ", "\t", "\n", "  "]), min_size=8, max_size=8), st.booleans())
def test_how_a_fingerprint_is_written_does_not_matter(spaces: list[str], upper: bool) -> None:
    shown = "0123 4567 89ab cdef 0123 4567 89ab cdef"
    told = "".join(space + group for space, group in zip(spaces, shown.split(), strict=True))
    assert matches(shown, told.upper() if upper else told)
    assert not matches(shown, told[:-1])
    assert not matches(shown, "")


def test_the_command(folder: Path, federation: Governance) -> None:
    arguments = ["enrol", "--name", "north", "--invitation", str(federation.invitation)]
    made = CliRunner().invoke(app, [*arguments, "--json"])
    assert made.exit_code == 0, made.output
    assert set(json.loads(made.stdout)) == {"config", "request", "fingerprint", "governance_fingerprint"}
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)


def test_the_command_shows_what_is_to_be_compared(folder: Path, federation: Governance) -> None:
    made = CliRunner().invoke(app, ["enrol", "--name", "north", "--invitation", str(federation.invitation)])
    assert federation.fingerprint() in made.stdout
    assert read_request(folder / "enrolment-request.json").fingerprint in made.stdout
