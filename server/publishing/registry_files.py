"""Bundles on their way to and from a registry's artifacts, which anybody may have written to.

Where a bundle lies follows from the registry's settings, the model's name and a run's id. Addresses that the
database gives are not followed: whoever writes to it could have this machine open what they like.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.bundle import STATEMENT, Bundle, statement, verify
from models.bundle_files import read
from models.errors import BundleError
from server.errors import RegistryError
from server.publishing.mlflow_quiet import artifacts, asking
from server.publishing.registry_place import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUNDLE = "bundle"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def location(place: Place, client: MlflowClient, name: str, run_id: str) -> str:
    """Return the URL of a run's bundle.

    Raises:
        RegistryError: the run is none, or an MLflow server keeps its artifacts elsewhere.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise RegistryError(f"{place.shown}: {name} names no run of ours; publish it with confide")
    if place.artifacts is not None:
        return f"{experiment_artifacts(place, name)}/{run_id}/artifacts/{BUNDLE}"
    with asking(place):
        given: str = client.get_run(run_id).info.artifact_uri
    # With a host in it, this machine would be sent there; without, it is the server that was asked.
    if not re.fullmatch(r"mlflow-artifacts:/(?!/)[A-Za-z0-9._/-]+", given) or ".." in given:
        raise RegistryError(
            f"{place.shown}: keeps files of {name} elsewhere than the server itself; name that folder or URL for "
            "artifacts, if it is meant"
        )
    return f"{given}/{BUNDLE}"


def experiment_artifacts(place: Place, name: str) -> str | None:
    """Return the URL under which a model's runs keep their files; None where the server chooses."""
    folder = place.folder
    if folder is not None:
        return (folder / name).as_uri()
    return None if place.artifacts is None else f"{place.artifacts.rstrip('/')}/{name}"


def upload(place: Place, where: str, folder: Path) -> None:
    """Copy a bundle's files to where they are to be; raises :class:`RegistryError`."""
    with asking(place):
        artifacts(place, where.removesuffix(f"/{BUNDLE}")).log_artifacts(str(folder), BUNDLE)


def download(place: Place, where: str, keys: Sequence[bytes], into: Path, *, name: str) -> Bundle:
    """Return a verified copy of the bundle at ``where``, in the folder ``into/DIGEST``.

    Only what the signed statement names is fetched, each file by that name; it comes to lie under its final
    name in one step, complete and verified.

    Raises:
        BundleError: it is not signed by one of ``keys``, is another model's than ``name``, or a file is missing
            or differs.
        RegistryError: the registry does not answer, or ``into`` cannot be written.
    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=into) as held:
            fetched = Path(held)
            envelope = _fetch(place, where, STATEMENT, fetched)
            signed = statement(envelope, keys)
            if signed.predicate.get("name") != name:
                raise BundleError(f"{STATEMENT}: signed for another model than {name}; tell whoever keeps the registry")
            complete = fetched / signed.digest
            _lay(complete, STATEMENT, envelope)
            for file in sorted(signed.files):
                _lay(complete, file, _fetch(place, where, file, fetched))
            verify(complete, keys)
            final = into / signed.digest
            with contextlib.suppress(OSError):  # another process may have brought the same bundle meanwhile
                complete.rename(final)
            return verify(final, keys)
    except OSError as error:
        raise RegistryError(f"{into}: cannot be written ({error.strerror}); free space or choose another") from None


def cached(into: Path, digest: str, keys: Sequence[bytes], *, name: str) -> Bundle | None:
    """Return the bundle of that digest from ``into``, verified; one that is damaged is moved out of the way."""
    folder = into / digest
    if not folder.is_dir() or folder.is_symlink():
        return None
    try:
        bundle = verify(folder, keys)
        if (bundle.digest, bundle.name) == (digest, name):
            return bundle
    except BundleError:
        pass
    doomed = into / f".damaged-{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        folder.rename(doomed)
        shutil.rmtree(doomed)
    return None


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="confide-") as folder:
        yield Path(folder)


def _fetch(place: Place, where: str, file: str, into: Path) -> bytes:
    """The bytes of one file of a bundle in a registry; nothing of it is believed yet."""
    if place.folder is not None:
        return read(_local(place.folder, where), file)
    with asking(place), tempfile.TemporaryDirectory(dir=into) as held:
        got = Path(artifacts(place, where).download_artifacts(file, held))
        return read(got.parent, got.name)


def _local(folder: Path, where: str) -> Path:
    """The path of a location that is under ``folder``."""
    return folder.joinpath(*where.split("/")[-4:])


def _lay(folder: Path, file: str, data: bytes) -> None:
    """Write a file of a bundle; its name was checked when the statement was read."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
