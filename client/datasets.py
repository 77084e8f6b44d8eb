"""Registering data sets: validated once, known to the ledger by a keyed digest, configured in client.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client import config
from client.commitment import commitment, split_commitment
from client.data import DatasetEntry
from client.errors import ConfigError
from client.policies import allowed, ledger_to_read, ledger_to_write
from models.inputs.errors import DataError
from privacy.ledger import Ledger
from strategies.toml import validated


def add(
    name: str, path: str, *, declared_size: int, labels_path: str | None, person: str | None, run: Path | None
) -> dict[str, Any]:
    """Validate, register and offer a data set. Raises :class:`ConfigError`, or an error of the data or the ledger."""
    settings = config.load_settings()
    if name in settings.dataset:
        raise ConfigError(
            f'dataset {name}: is offered already; register new data with "confide privacy dataset update {name}"'
        )
    given: dict[str, Any] = {
        "path": config.located(path),
        "declared_size": declared_size,
        "labels_path": None if labels_path is None else config.located(labels_path),
        "person": person,
    }
    own = validated(config.DatasetSettings, given, where=f"dataset {name}")
    entry = entry_of(own)
    validate(name, entry, settings.name, run)
    ledger = ledger_to_write(settings)
    content = commitment(entry)
    twin = next(
        (known for known, it in ledger.registrations().items() if it.commitment == content and known != name), None
    )
    if twin is not None:
        raise ConfigError(
            f"dataset {name}: these are the data of {twin}, which have a budget already; offer them under that name"
        )
    lineage = _register(ledger, name, entry)["lineage"]  # first: what is offered must be registered
    config.add_dataset(name, own)
    return {
        "dataset": name,
        "path": own.path,
        "declared_size": declared_size,
        "lineage": lineage,
        "allowed": allowed(ledger, name),
    }


def update(name: str, *, run: Path | None) -> dict[str, Any]:
    """Register the data as they are now as a new version of the same lineage. Raises as :func:`add`."""
    settings = config.load_settings()
    own = settings.dataset.get(name)
    if own is None:
        raise ConfigError(f'dataset {name}: not offered here; add it with "confide privacy dataset add"')
    entry = entry_of(own)
    validate(name, entry, settings.name, run)
    return _register(ledger_to_write(settings), name, entry)


def listed() -> dict[str, Any]:
    """What this machine offers, and what its ledger knows of it."""
    settings = config.load_settings()
    ledger = ledger_to_read() if Ledger.exists(config.ledger_directory()) else None
    known = {} if ledger is None else ledger.registrations()
    return {
        name: own.model_dump()
        | {
            "version": known[name].version if name in known else None,
            "lineage": known[name].lineage if name in known else None,
            "allowed": ledger is not None and allowed(ledger, name),
        }
        for name, own in settings.dataset.items()
    }


def entry_of(own: config.DatasetSettings) -> DatasetEntry:
    """A data set's entry with this machine's secret."""
    return DatasetEntry(
        path=own.path,
        declared_size=own.declared_size,
        labels_path=own.labels_path,
        person=own.person,
        split_key=config.split_key(),
        validation=own.validation,
    )


def validate(name: str, entry: DatasetEntry, department: str, run: Path | None) -> None:
    """Read the data now, while nobody is listening: what does not fit must not be found out in a run.

    Without a run file only that there is something to read. Raises a DataError or :class:`ConfigError`.
    """
    if run is None:
        commitment(entry)
        return
    from client import descriptions  # noqa: PLC0415 - needs torch
    from client.data import load  # noqa: PLC0415 - as above
    from models.inputs.resolve import resolve  # noqa: PLC0415 - as above
    from strategies.jsonfile import canonical  # noqa: PLC0415 - as above
    from strategies.runfile import load as load_run  # noqa: PLC0415 - as above

    described = resolve(load_run(run).data)
    if described.name != name:
        raise ConfigError(f"--run {run}: describes data set {described.name}, not {name}; give the run file for it")
    try:
        load(described, entry, name=department)
    except DataError as error:
        raise ConfigError(f"dataset {name}: {error}") from None
    descriptions.approve(config.directory(), name, canonical(described.public_part()))


def _register(ledger: Ledger, name: str, entry: DatasetEntry) -> dict[str, Any]:
    """Enter the data set's present state."""
    before = ledger.registration(name)
    after = ledger.register(
        name,
        declared_size=entry.declared_size,
        commitment=commitment(entry),
        split=split_commitment(name, entry),
    )
    return {
        "dataset": name,
        "lineage": after.lineage,
        "version": after.version,
        "changed": before is None or before.version != after.version,
    }
