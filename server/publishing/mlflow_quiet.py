"""MLflow without its telemetry, its chatter, or its patience."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from models.text import printable
from server.errors import RegistryError
from server.publishing.registry_place import Place

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST = 300
_DRIVER = re.compile(r"\((?:sqlite3|psycopg\w*)\.[\w.]+\) ([^\n]*)")
# A registry that is down should be an error in seconds: MLflow's own settings are two minutes and seven tries.
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def connect(place: Place) -> MlflowClient:
    """Return a client; an SQLite database that is not there yet is made (some seconds).

    Raises:
        RegistryError: MLflow is not installed, or the registry is of a version that this one cannot use.
    """
    _load()
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds, and is an extra

    with asking(place):
        client = MlflowClient(tracking_uri=place.url, registry_uri=place.url)
        client.search_registered_models(max_results=1)
    return client


def artifacts(place: Place, location: str) -> Any:
    """Return MLflow's repository of the files at a URL."""
    from mlflow.store.artifact.artifact_repository_registry import (  # noqa: PLC0415  # as in connect
        get_artifact_repository,
    )

    return get_artifact_repository(location, tracking_uri=place.url)


@contextlib.contextmanager
def asking(place: Place) -> Iterator[None]:
    """Turn whatever MLflow, and what it is built on, may raise into a :class:`RegistryError`."""
    _load()
    import sqlalchemy.exc  # noqa: PLC0415  # as in connect
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  # as in connect

    try:
        with hushed():
            yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError) as error:
        said = _said(error).replace(place.url.rstrip("/"), place.shown.rstrip("/"))
        raise RegistryError(f"{place.shown}: {said}; see that it is up, writable and has space") from None


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Leave out one warning: MLflow 3 uses a way of loading that SQLAlchemy 2.1 has deprecated.

    The filter stays, as filters that are taken back would be taken back from other threads as well.
    """
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", module=r"mlflow\.")
    yield


def _load() -> None:
    """Import MLflow, told beforehand to send nothing, to be quiet and to give up soon."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with hushed():
            importlib.import_module("mlflow")
    except ImportError as error:
        raise RegistryError(f"registry: needs the package {error.name}; pip install 'confide[publish]'") from None
    # What it logs, tracebacks included, is in our errors.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.CRITICAL)


def _said(error: Exception) -> str:
    """What an error says, in a line: what follows may be whole statements with their values."""
    text = str(error)
    cause = _DRIVER.search(text)
    line = cause[1] if cause else (text.splitlines() or [""])[0].partition(" with exception ")[0]
    return printable(line, _LONGEST).rstrip(". ") or type(error).__name__
