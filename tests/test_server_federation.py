"""The federation's own folder: founding, admitting, removing, renewing."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from governance_cases import admitted, command, content, fill_disk, founded, moved, now, request, succeeded
from typer.testing import CliRunner

from secagg.roster import open_roster
from secagg.thresholds import defaults
from server import membership
from server.control import Department as AtDoor
from server.errors import ControlError, GovernanceError, PkiError
from server.federation import DAY, FederationSettings, Governance, governed
from server.federation_cli import federation_app
from server.membership import admit, least_answers, register, remove, renew
from strategies.errors import SettingsError
from strategies.introduction import Request, node_key, read_invitation


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The platform team's machine."""
    return moved(tmp_path / "home", monkeypatch)


@pytest.fixture
def governance(home: Path) -> Governance:
    return founded(home)


# --- founding -----------------------------------------------------------------------------------------


def test_a_federation_is_founded_for_the_owner_alone(governance: Governance) -> None:
    secret = [governance.directory / "governance.key", governance.pki / "ca.key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}
    assert {stat.S_IMODE(f.stat().st_mode) for f in (governance.directory, governance.pki)} == {0o700}
    assert governance.key().public_key().public_bytes_raw() == governance.public_key()
    invitation = read_invitation(governance.invitation)
    assert (invitation.name, invitation.server) == ("acme", "fl.example.org:9092")
    assert invitation.governance == governance.public_key().hex()
    assert invitation.ca.encode() == (governance.pki / "ca.pem").read_bytes()
    assert invitation.fingerprint == governance.fingerprint()
    assert governance.settings() == FederationSettings(name="acme", server="fl.example.org:9092")
    assert governed() == governance


def test_a_federation_is_founded_once(governance: Governance) -> None:
    before = content(governance.directory)
    with pytest.raises(GovernanceError, match="founded once"):
        founded(governance.directory.parent)
    assert content(governance.directory) == before


@pytest.mark.parametrize("failing", range(6))
def test_a_full_disk_founds_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, failing)
        with pytest.raises((GovernanceError, PkiError)):
            founded(home)
    assert list(home.iterdir()) == []
    founded(home)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("roster_days = 0", "roster_days = 0"),
        ('mode = "clear"', "mode"),
        ("range_max = inf", "range_max"),
        ("minhonest = 3", "did you mean min_honest?"),
        ("roster_days = ", "not valid TOML"),
    ],
)
def test_a_bad_federation_toml_is_explained(governance: Governance, line: str, said: str) -> None:
    file = governance.directory / "federation.toml"
    file.write_text('name = "acme"\nserver = "host:1"\n' + line)
    with pytest.raises(GovernanceError) as caught:
        governance.settings()
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["governance.key", "governance.pub", "departments.json", "roster.json"])
@pytest.mark.parametrize("damage", ["", "{}", "[", "-----BEGIN PRIVATE KEY-----"])
def test_a_damaged_file_is_explained_and_nothing_is_written(
    governance: Governance, tmp_path: Path, name: str, damage: str
) -> None:
    admitted(governance, tmp_path, "north")
    (governance.directory / name).write_text(damage)
    before = content(governance.directory)
    result = command(federation_app, "list" if name == "roster.json" else "renew")
    assert isinstance(result.exception, GovernanceError)
    assert name in str(result.exception)
    assert content(governance.directory) == before


# --- who belongs to it --------------------------------------------------------------------------------


def test_each_change_is_a_new_version_of_the_signed_roster(governance: Governance, tmp_path: Path) -> None:
    north, south = admitted(governance, tmp_path, "north", "south")
    remove(governance, "north")
    renew(governance)
    roster, _ = open_roster(governance.envelope(), governance.public_key(), now())
    assert roster.version == 4
    assert [(member.id, member.name, member.key.hex()) for member in roster.members] == [(1, "south", south.identity)]
    versions = {}
    for number in (1, 2, 3, 4):
        envelope = (governance.directory / "rosters" / f"{number}.json").read_bytes()
        versions[number] = open_roster(envelope, governance.public_key(), now())[0]
    assert [version.version for version in versions.values()] == [1, 2, 3, 4]
    assert versions[1].members[0].key.hex() == north.identity
    assert governance.envelope() == envelope
    assert roster.expires - roster.issued == 365 * DAY


def test_an_id_is_never_given_away_again(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north", "south")
    remove(governance, "south")
    assert admit(governance, request(tmp_path, "south")).id == 2
    remove(governance, "south")
    assert admit(governance, request(tmp_path, "east")).id == 3
    assert [(d.id, d.name) for d in governance.members()] == [(0, "north"), (3, "east")]


def test_who_is_not_admitted(governance: Governance, tmp_path: Path) -> None:
    north, _south = admitted(governance, tmp_path, "north", "south")
    before = content(governance.directory)
    with pytest.raises(GovernanceError, match="north: a member already"):
        admit(governance, request(tmp_path, "north"))
    for again in (
        north.model_copy(update={"name": "east"}),
        request(tmp_path, "east").model_copy(update={"node": north.node}),
        request(tmp_path, "east").model_copy(update={"identity": north.identity}),
    ):
        with pytest.raises(GovernanceError, match="its keys were admitted before, as north"):
            admit(governance, again)
    with pytest.raises(GovernanceError, match="east: no member"):
        remove(governance, "east")
    assert content(governance.directory) == before
    remove(governance, "north")
    with pytest.raises(GovernanceError, match="enrol anew"):  # who was removed does not come back unseen
        admit(governance, north)


@pytest.mark.parametrize("failing", range(3))
def test_a_full_disk_leaves_everything_as_it_was(
    governance: Governance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    admitted(governance, tmp_path, "north")
    before, made = content(governance.directory), request(tmp_path, "south")
    with monkeypatch.context() as patch:
        fill_disk(patch, failing)
        with pytest.raises(GovernanceError, match="No space left"):
            admit(governance, made)
    assert content(governance.directory) == before
    assert admit(governance, made).id == 1
    assert governance.roster().version == 2


def test_a_version_that_was_signed_is_never_signed_again(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north")
    (governance.directory / "rosters" / "7.json").write_text("{}")  # as a crash may leave it
    assert renew(governance).version == 8


@pytest.mark.parametrize("members", [1, 2, 3, 4, 6])
def test_thresholds_follow_the_size_of_the_federation(governance: Governance, tmp_path: Path, members: int) -> None:
    admitted(governance, tmp_path, *(f"d{i}" for i in range(members)))
    roster = governance.roster()
    assert (roster.colluders, roster.min_honest) == (defaults(members) if members >= 3 else (0, 3))
    assert (least_answers(roster) is None) == (members < 3)


def test_a_changed_setting_holds_once_it_is_signed(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north")
    file = governance.directory / "federation.toml"
    file.write_text(file.read_text().replace("fl.example.org", "new.example.org").replace("sealed", "strict"))
    assert governance.roster().mode == "sealed"
    assert renew(governance).mode == governance.roster().mode == "strict"
    assert read_invitation(governance.invitation).server == "new.example.org:9092"


def test_thresholds_that_were_set_hold(home: Path, tmp_path: Path) -> None:
    governance = founded(home, mode="strict", colluders=2, min_honest=4)
    admitted(governance, tmp_path, "north", "south", "east")
    roster = governance.roster()
    assert (roster.mode, roster.colluders, roster.min_honest) == ("strict", 2, 4)
    assert least_answers(roster) is None  # three members cannot hold them


def test_an_expired_roster_can_be_read_and_renewed(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north")
    then = now() - 400 * DAY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "time", SimpleNamespace(time=lambda: then))
        old = renew(governance)
    assert old.expires < now()
    assert governance.roster() == old
    assert renew(governance).expires > now()


# --- the coordinator's door ---------------------------------------------------------------------------


class Door:
    """A coordinator that knows departments by their keys, and refuses some."""

    def __init__(self, *known: AtDoor, refusing: tuple[str, ...] = ()) -> None:
        self.known, self.refusing, self.calls = list(known), refusing, list[str]()

    def departments(self) -> list[AtDoor]:
        return list(self.known)

    def admit(self, name: str, key: bytes) -> int:
        self.calls.append(f"admit {name}")
        if name in self.refusing:
            raise ControlError("public key already in use")
        self.known.append(AtDoor(name=name, node=len(self.known), status="registered", key=key))
        return len(self.known)

    def remove(self, node: int) -> None:
        self.calls.append(f"remove {node}")
        self.known = [known for known in self.known if known.node != node]


def pem(made: Request) -> bytes:
    return node_key(made.node).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_door_learns_who_belongs(governance: Governance, tmp_path: Path) -> None:
    north, _ = admitted(governance, tmp_path, "north", "south")
    by_hand = AtDoor(name="guest", node=5, status="online", key=b"another")
    door: Any = Door(by_hand, AtDoor(name="north", node=7, status="online", key=pem(north)))
    assert register(governance, door) == []
    assert door.calls == ["admit south"]
    remove(governance, "north")
    assert register(governance, door) == []
    assert door.calls == ["admit south", "remove 7"]
    assert by_hand in door.known
    assert register(governance, door) == []
    assert len(door.calls) == 2


def test_one_department_that_is_refused_keeps_nobody_out(governance: Governance, tmp_path: Path) -> None:
    admitted(governance, tmp_path, "north", "south")
    door: Any = Door(refusing=("north",))
    assert register(governance, door) == ["department north: public key already in use"]
    assert [known.name for known in door.known] == ["south"]


# --- commands -----------------------------------------------------------------------------------------


def test_from_founding_to_a_roster_on_the_command_line(home: Path, tmp_path: Path) -> None:
    made = succeeded(federation_app, "init", "--name", "acme", "--server", "fl.example.org:9092")
    assert Path(made["invitation"]).exists()
    asked = {name: request(tmp_path, name) for name in ("north", "south", "east")}
    for i, (name, its) in enumerate(asked.items()):
        arguments = ("admit", str(tmp_path / f"{name}.json"), "--fingerprint", its.fingerprint.upper())
        assert succeeded(federation_app, *arguments) == {
            "department": name,
            "id": i,
            "fingerprint": its.fingerprint,
            "roster_version": i + 1,
            "registered": False,
        }
    assert not (home / "server").exists()  # the governance's machine need not be a coordinator's
    removed = succeeded(federation_app, "remove", "east")
    assert removed == {"department": "east", "id": 2, "roster_version": 4, "unregistered": False}
    assert succeeded(federation_app, "renew")["version"] == 5
    listed = succeeded(federation_app, "list")
    assert listed["members"] == [
        {"id": i, "name": name, "fingerprint": asked[name].fingerprint} for i, name in enumerate(("north", "south"))
    ]
    keys = ("version", "mode", "colluders", "min_honest", "threshold", "name", "governance_fingerprint")
    assert [listed[key] for key in keys] == [5, "sealed", 0, 3, None, "acme", made["governance_fingerprint"]]
    shown = command(federation_app, "list").stdout
    assert asked["north"].fingerprint in shown
    assert "too few members" in shown


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("init", "--name", "acme", "--server", "fl.example.org"), SettingsError, "server"),
        (("init", "--name", "acme", "--server", "host:70000"), SettingsError, "1 to 65535"),
        (("init", "--name", "a", "--server", "host:1", "--min-honest", "1"), SettingsError, "min_honest = 1"),
        (("list",), GovernanceError, "confide federation init"),
        (("admit", "request.json", "--fingerprint", "0"), GovernanceError, "confide federation init"),
    ],
)
def test_a_mistake_makes_nothing(home: Path, arguments: tuple[str, ...], error: type[Exception], said: str) -> None:
    result = command(federation_app, *arguments)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert list(home.iterdir()) == []


def test_nobody_is_admitted_without_a_compared_fingerprint(governance: Governance, tmp_path: Path) -> None:
    request(tmp_path, "north")
    before = content(governance.directory)
    for told, said in (((), "give --fingerprint"), (("--fingerprint", "0000"), "do not admit it")):
        result = command(federation_app, "admit", str(tmp_path / "north.json"), *told)
        assert isinstance(result.exception, GovernanceError)
        assert said in str(result.exception)
    assert content(governance.directory) == before


@pytest.mark.parametrize(("answer", "members"), [("y\n", 1), ("n\n", 0)])
def test_on_a_terminal_the_fingerprint_is_asked_about(
    governance: Governance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, members: int
) -> None:
    made = request(tmp_path, "north")
    monkeypatch.setattr("server.federation_cli._is_terminal", lambda: True)
    result = CliRunner().invoke(federation_app, ["admit", str(tmp_path / "north.json")], input=answer)
    assert len(governance.members()) == members
    assert "Did its operator read you the same" in result.output
    assert made.fingerprint in result.output or members == 0


def test_certificates_for_a_coordinator_elsewhere(governance: Governance, tmp_path: Path) -> None:
    from server.pki import carried

    out = tmp_path / "coordinator"
    succeeded(federation_app, "certificate", "--host", "fl.example.org", "--host", "10.0.0.7", "--out", str(out))
    assert sorted(file.name for file in out.iterdir()) == ["ca.pem", "server.key", "server.pem"]
    carried(out, ["fl.example.org", "10.0.0.7", "127.0.0.1"])
    again = command(federation_app, "certificate", "--host", "fl.example.org", "--out", str(out))
    assert "exists already" in str(again.exception)
