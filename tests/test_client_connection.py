"""A coordinator that must not be trusted, or cannot be, is refused before anything is sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pki_cases import ensure

from client import runner
from client.config import ClientSettings
from client.errors import ConfigError, NotTrustedError
from server import pki as pki_module
from server.pki import Pki


@contextmanager
def listening(pki: Pki | None) -> Iterator[int]:
    """A TLS listener with the PKI's certificate (or one that speaks no TLS); yields its port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(20)

        def serve() -> None:
            try:
                connection, _ = server.accept()
                with connection:
                    if pki is None:
                        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                        return
                    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                    context.load_cert_chain(pki.certificate, pki.key)
                    context.wrap_socket(connection, server_side=True).close()
            except OSError:
                pass  # a refused handshake is what most of these tests want

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(timeout=20)


def settings(folder: Path, server: str, certificate: Path) -> ClientSettings:
    """A department's configuration with a key file."""
    (folder / "node.key").write_bytes(b"key")
    return ClientSettings(
        name="north", server=server, root_certificate=str(certificate), private_key=str(folder / "node.key")
    )


def test_the_right_coordinator_is_accepted(tmp_path: Path) -> None:
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    with listening(pki) as port:
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{port}", pki.authority))


def test_another_hosts_certificate(tmp_path: Path) -> None:
    pki = ensure(tmp_path / "pki", ["other.example.org"])
    with listening(pki) as port, pytest.raises(NotTrustedError, match=r"IP address mismatch.*client\.toml"):
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{port}", pki.authority))


def test_another_federations_coordinator(tmp_path: Path) -> None:
    pki, other = ensure(tmp_path / "pki", ["127.0.0.1"]), ensure(tmp_path / "other", ["127.0.0.1"])
    with listening(pki) as port, pytest.raises(NotTrustedError, match="certificate is refused"):
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{port}", other.authority))


def test_expired_server_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki_module, "SERVER_DAYS", 0)
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    expire(pki, monkeypatch)
    with listening(pki) as port, pytest.raises(NotTrustedError, match="expired"):
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{port}", pki.authority))


def expire(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server certificate again as one that ended yesterday."""
    real = datetime.now(UTC)

    class Past(datetime):
        """A clock two days behind."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # only UTC is asked for
            return real - timedelta(days=2)

    monkeypatch.setattr(pki_module, "datetime", Past)
    pki_module._make_server(pki, ["127.0.0.1"], pki)


def test_expired_root_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    later = datetime.now(UTC) + timedelta(days=4000)

    class Future(datetime):
        """A clock far ahead."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # only UTC is asked for
            return later

    monkeypatch.setattr(runner, "datetime", Future)
    with pytest.raises(NotTrustedError, match=r"root_certificate = .*: expired on \d{4}"):
        runner.check_connection(settings(tmp_path, "127.0.0.1:9", pki.authority))


def test_no_tls_there(tmp_path: Path) -> None:
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    with listening(None) as port, pytest.raises(NotTrustedError, match="no TLS there"):
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{port}", pki.authority))


def test_a_coordinator_that_is_away_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers
        caplog.set_level("WARNING", logger="confide.client")
        runner.logger.parent.propagate = True  # type: ignore[union-attr]  # caplog listens at the root
        runner.check_connection(settings(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}", pki.authority))
    assert "will keep trying" in caplog.text


@pytest.mark.parametrize("field", ["root_certificate", "private_key"])
def test_missing_files_are_named(tmp_path: Path, field: str) -> None:
    pki = ensure(tmp_path / "pki", ["127.0.0.1"])
    wrong = settings(tmp_path, "127.0.0.1:9", pki.authority).model_copy(update={field: str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=f"{field} = .*none: no such file"):
        runner.check_connection(wrong)


def test_a_root_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match="not a PEM certificate"):
        runner.check_connection(settings(tmp_path, "127.0.0.1:9", tmp_path / "ca.pem"))
