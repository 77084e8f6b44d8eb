"""Where a registry is: its database, or the server that has one, and where its artifacts lie."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock, Timeout

from server.errors import RegistryError

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
_SCHEMES = "a folder, file:///FOLDER, sqlite:////FILE, postgresql://..., http(s)://..."
_LOCK_SECONDS = 60
_CONNECT_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Place:
    """A registry's whereabouts.

    Attributes:
        url: what MLflow is given.
        shown: the same for people, without a password.
        database: the SQLite file, where it is one.
        artifacts: the URL or path under which all bundles lie; None: wherever the MLflow server says.
    """

    url: str
    shown: str
    database: Path | None
    artifacts: str | None

    @property
    def folder(self) -> Path | None:
        """The folder in which bundles lie, where they are files here."""
        if self.artifacts is None or _scheme(self.artifacts) not in ("", "file"):
            return None
        return _path(self.artifacts)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing an SQLite registry meanwhile; a real database needs no help.

        Raises:
            RegistryError: somebody else has had it for a minute, or it cannot be written.
        """
        if self.database is None:
            yield
            return
        try:
            self.database.parent.mkdir(parents=True, exist_ok=True)
            # One object for a path, so that whoever holds the lock may take it again.
            lock = FileLock(f"{self.database}.lock", is_singleton=True)
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise RegistryError(
                f"{self.shown}: another process has been writing for {_LOCK_SECONDS} s; try again when it is done"
            ) from None
        except OSError as error:
            raise RegistryError(f"{self.shown}: cannot be written ({error.strerror}); choose another place") from None
        try:
            yield
        finally:
            lock.release()

    def check(self, *, create: bool) -> None:
        """See quickly whether the database answers; MLflow would go on trying for minutes.

        Raises:
            RegistryError: it does not, or (unless ``create``) there is none.
        """
        if self.database is not None:
            self._check_file(self.database, create=create)
        elif self.url.startswith("postgresql"):
            self._check_postgresql()

    def _check_file(self, database: Path, *, create: bool) -> None:
        """An SQLite file exists, or may be made, and is one."""
        if not database.exists():
            if create:
                return
            raise RegistryError(f"{self.shown}: no registry there; correct it, or publish a run to it first")
        try:
            with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as file:
                file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise RegistryError(f"{self.shown}: no SQLite database ({error}); correct it, or restore it") from None

    def _check_postgresql(self) -> None:
        """A PostgreSQL server lets us in."""
        import sqlalchemy  # noqa: PLC0415  # slow, and needed for this kind of registry alone

        try:
            engine = sqlalchemy.create_engine(self.url, connect_args={"connect_timeout": _CONNECT_SECONDS})
            with contextlib.closing(engine.connect()):
                pass
            engine.dispose()
        except ImportError as error:
            raise RegistryError(
                f"{self.shown}: needs the package {error.name}; pip install '{error.name}[binary]'"
            ) from None
        except sqlalchemy.exc.SQLAlchemyError as error:
            # Its text may hold the password.
            raise RegistryError(
                f"{self.shown}: cannot be reached ({type(error).__name__}); correct the address, or start the database"
            ) from None


def place(url: str, artifacts: str | None = None) -> Place:
    """Return where ``url`` leads; nothing is opened or made.

    Args:
        url: a folder or ``file://`` URL (``mlflow.db`` and ``artifacts/`` in it), ``sqlite:///FILE`` (artifacts
            beside it), ``postgresql://...`` (``artifacts`` is required) or an MLflow server.
        artifacts: a folder or URL under which bundles are kept instead.

    Raises:
        RegistryError: an unknown scheme, or ``artifacts`` is missing or of no use.
    """
    scheme = _scheme(url)
    if not url or "\0" in url or not _is_url(url):
        raise RegistryError(f"registry {_without_password(url)!r}: give {_SCHEMES}")
    if artifacts is not None and _scheme(artifacts) in ("", "file"):
        artifacts = str(_path(artifacts))
    if scheme in ("", "file", "sqlite"):
        if scheme == "sqlite":
            database = Path(unquote(url.removeprefix("sqlite:///"))).absolute()
            if not url.startswith("sqlite:///") or not database.name:
                raise RegistryError(f"registry {url!r}: give sqlite:///FILE (four slashes before an absolute path)")
        else:
            database = _path(url) / DATABASE
        if "?" in str(database):
            raise RegistryError(f"registry {url!r}: an SQLite file's path holds no question mark; choose another")
        known = artifacts or str(database.parent / ARTIFACTS)
        return Place(url=f"sqlite:///{database}", shown=url, database=database, artifacts=known)
    if scheme in ("http", "https"):
        return Place(url=url, shown=_without_password(url), database=None, artifacts=artifacts)
    if re.fullmatch(r"postgresql(\+\w+)?", scheme):
        if artifacts is None:
            raise RegistryError(
                f"registry {_without_password(url)}: a database holds no files; name a folder or URL for artifacts"
            )
        return Place(url=url, shown=_without_password(url), database=None, artifacts=artifacts)
    raise RegistryError(f"registry {_without_password(url)}: unknown scheme {scheme!r}; give {_SCHEMES}")


def _is_url(url: str) -> bool:
    """Whether what looks like a URL can be taken apart."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return not _scheme(url)


def _scheme(url: str) -> str:
    """A URL's scheme, "" for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    return found[1].lower() if found else ""


def _path(url: str) -> Path:
    """The absolute path that a path or ``file://`` URL names."""
    if not _scheme(url):
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise RegistryError(f"registry {url!r}: a file URL names a folder of this machine; give file:///FOLDER")
    return Path(unquote(parts.path))


def _without_password(url: str) -> str:
    """A URL without what stands before its host, or its query."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return f"{_scheme(url)}://..."
