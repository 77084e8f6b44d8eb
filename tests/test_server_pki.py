"""The federation's authority and the coordinator's certificates."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from pki_cases import ensure

from server import pki
from server.errors import PkiError
from server.pki import Pki, carried, issue


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def accepted(made: Pki, host: x509.GeneralName) -> None:
    """What a client's TLS library checks."""
    store = Store([certificate(made.authority)])
    verifier = PolicyBuilder().store(store).build_server_verifier(host)  # type: ignore[arg-type]  # DNS name or IP
    verifier.verify(certificate(made.certificate), [])


def test_every_host_and_address_is_certified(tmp_path: Path) -> None:
    import ipaddress

    made = ensure(tmp_path / "pki", ["fl.example.org", "127.0.0.1", "::1"])
    accepted(made, x509.DNSName("fl.example.org"))
    for address in ("127.0.0.1", "::1"):
        accepted(made, x509.IPAddress(ipaddress.ip_address(address)))
    with pytest.raises(x509.verification.VerificationError):
        accepted(made, x509.DNSName("other.example.org"))
    usage = certificate(made.certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_private_keys_are_the_owner_s_alone(tmp_path: Path) -> None:
    made = ensure(tmp_path / "pki", ["localhost"])
    assert stat.S_IMODE(made.key.stat().st_mode) == stat.S_IMODE(made.authority_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700


def test_what_is_good_is_kept_and_what_is_due_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure(tmp_path, ["localhost"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ensure(tmp_path, ["localhost"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    ensure(tmp_path, ["localhost", "10.0.0.7"])  # one more name: a new server certificate
    assert made.authority.read_bytes() == before["ca.pem"]  # departments trust this one
    assert made.certificate.read_bytes() != before["server.pem"]

    monkeypatch.setattr(pki, "SERVER_DAYS", 20)
    made.certificate.unlink()
    ensure(tmp_path, ["localhost"])
    soon = made.certificate.read_bytes()
    monkeypatch.undo()
    ensure(tmp_path, ["localhost"])  # expires within a month: renewed
    assert made.certificate.read_bytes() != soon
    left = certificate(made.certificate).not_valid_after_utc - datetime.now(UTC)
    assert left > timedelta(days=390)
    assert made.authority.read_bytes() == before["ca.pem"]


def test_an_interrupted_renewal_is_made_good(tmp_path: Path) -> None:
    made, other = ensure(tmp_path / "a", ["localhost"]), ensure(tmp_path / "b", ["localhost"])
    made.key.write_bytes(other.key.read_bytes())  # the key was replaced, its certificate not yet
    ensure(made.directory, ["localhost"])
    key = load_pem_private_key(made.key.read_bytes(), None)
    assert key.public_key() == certificate(made.certificate).public_key()
    accepted(made, x509.DNSName("localhost"))


def test_another_authority_s_certificate_is_replaced(tmp_path: Path) -> None:
    made, other = ensure(tmp_path / "a", ["localhost"]), ensure(tmp_path / "b", ["localhost"])
    for name in ("server.pem", "server.key"):
        (made.directory / name).write_bytes((other.directory / name).read_bytes())
    ensure(made.directory, ["localhost"])
    accepted(made, x509.DNSName("localhost"))


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "server.pem", "server.key"])
def test_a_damaged_file_is_explained(tmp_path: Path, name: str) -> None:
    ensure(tmp_path, ["localhost"])
    (tmp_path / name).write_text("damaged")
    with pytest.raises(PkiError, match="cannot be made or read"):
        ensure(tmp_path, ["localhost", "new.example.org"])


def test_a_lost_authority_key_is_not_silently_replaced(tmp_path: Path) -> None:
    made = ensure(tmp_path, ["localhost"])
    made.authority_key.unlink()
    before = made.authority.read_bytes()
    with pytest.raises(PkiError):
        ensure(tmp_path, ["localhost", "new.example.org"])
    assert made.authority.read_bytes() == before


@pytest.mark.parametrize("host", ["bad host\u00e9", ""])
def test_a_host_that_cannot_be_certified_is_explained(tmp_path: Path, host: str) -> None:
    with pytest.raises(PkiError):
        ensure(tmp_path, [host])


def test_an_authority_elsewhere_signs_and_its_key_stays_there(tmp_path: Path) -> None:
    authority = ensure(tmp_path / "federation", ["unused"]).directory
    made = issue(tmp_path / "server", ["fl.example.org"], authority=authority)
    accepted(made, x509.DNSName("fl.example.org"))
    assert sorted(path.name for path in made.directory.iterdir()) == ["ca.pem", "server.key", "server.pem"]


def test_another_federations_certificates_are_replaced(tmp_path: Path) -> None:
    old, new = (ensure(tmp_path / name, ["unused"]).directory for name in ("old", "new"))
    issue(tmp_path / "server", ["localhost"], authority=old)
    made = issue(tmp_path / "server", ["localhost"], authority=new)
    assert made.authority.read_bytes() == (new / "ca.pem").read_bytes()
    accepted(made, x509.DNSName("localhost"))


def test_carried_certificates_are_used_as_they_are(tmp_path: Path) -> None:
    made = ensure(tmp_path, ["fl.example.org", "127.0.0.1"])
    made.authority_key.unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert carried(tmp_path, ["fl.example.org", "127.0.0.1"]) == made
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("nothing", "no ca.pem, server.pem, server.key"),
        ("no key", "no server.key"),
        ("another name", "does not name other.example.org"),
        ("expired", "expires on "),
        ("another authority", "not signed by the authority in ca.pem"),
        ("another key", "not of the key in server.key"),
        ("damaged", "cannot be made or read"),
    ],
)
def test_what_was_not_carried_over_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, said: str
) -> None:
    folder, host = tmp_path / "server", "fl.example.org"
    if damage == "expired":
        monkeypatch.setattr(pki, "SERVER_DAYS", 0)
    if damage != "nothing":
        made = ensure(folder, [host])
    if damage == "no key":
        made.key.unlink()
    elif damage == "another name":
        host = "other.example.org"
    elif damage == "another authority":
        made.authority.write_bytes(ensure(tmp_path / "other", [host]).authority.read_bytes())
    elif damage == "another key":
        made.key.write_bytes(ensure(tmp_path / "other", [host]).key.read_bytes())
    elif damage == "damaged":
        made.certificate.write_text("damaged")
    with pytest.raises(PkiError) as caught:
        carried(folder, [host])
    assert said in str(caught.value)
    if damage != "damaged":
        assert "confide federation certificate" in str(caught.value)
