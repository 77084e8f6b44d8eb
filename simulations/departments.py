"""Simulated departments from a run file: a file each, a column, or a partition of one source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from client.data import DatasetEntry, DepartmentData, assemble, load
from client.sealing import Sealing
from client.state import MemoryJournal
from client.train import Site
from models.errors import nearest
from models.inputs.errors import OneClass
from models.inputs.prepare import Prepared, chosen, prepare_source
from models.inputs.resolve import resolve
from models.inputs.splits import set_aside
from privacy.noise import SecureRandom
from server.evaluation import TestSet, as_test_set, load_test
from simulations.partition import department_names, partition
from strategies.errors import SettingsError
from strategies.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A simulation's data: departments by name, and the public test set if there is one."""

    departments: Mapping[str, DepartmentData]
    test: TestSet | None

    def sizes(self) -> dict[str, int]:
        """Declared size of each department."""
        return {name: data.declared_size for name, data in self.departments.items()}


def bench(settings: RunSettings) -> Bench:
    """Load and deal out the data of a run file.

    Raises :class:`SettingsError` without a source, and the errors of the data and partition rooms.
    """
    data = resolve(settings.data)
    if data.departments is not None:
        return _checked(settings, Bench(departments=_a_file_each(settings), test=load_test(data)))
    if data.path is None:
        raise SettingsError(
            "data: no source; give departments = { name = path, … }, or path with department_column or partition"
        )
    prepared = prepare_source(data, data.path, data.labels_path)
    if prepared.targets.dtype == np.int64 and (prepared.targets == prepared.targets[0]).all():
        raise OneClass(f"{data.path}: all labels are the same; check the label column and data.classes")
    rows = np.arange(prepared.records)
    if data.test is None or data.test.share is None:
        test = load_test(data)
    else:
        # By person where persons are known: nobody's other rows may be trained on.
        held_out = set_aside(prepared.units, data.test.share)
        if not held_out.any():
            raise SettingsError(
                f"data.test.share = {data.test.share:g}: not one of {prepared.records} records is set aside; "
                "raise it or add records"
            )
        test = as_test_set(chosen(prepared, held_out))
        rows = rows[~held_out]
    return _checked(settings, Bench(departments=_dealt_out(settings, prepared, rows), test=test))


def _checked(settings: RunSettings, made: Bench) -> Bench:
    """Refuse what would wait for ever, go unnoticed, or leave nothing to measure on."""
    known = list(made.departments)
    if len(known) < settings.strategy.min_departments:
        raise SettingsError(
            f"strategy.min_departments = {settings.strategy.min_departments}: "
            f"the data give {len(known)} department(s); lower it"
        )
    for name in settings.data.declared_sizes:
        if name not in made.departments:
            raise SettingsError(f"data.declared_sizes.{name}: there is no such department; {nearest(name, known)}")
    if made.test is None and not any(len(data.validation.targets) for data in made.departments.values()):
        raise SettingsError("data.validation: no record is held out to measure on; raise it, or give [data.test]")
    return made


def sites(settings: RunSettings, data: Mapping[str, DepartmentData], sealing: Mapping[str, Sealing]) -> dict[str, Site]:
    """A simulated machine for each department, with its part in sealed sums where there is one.

    With a seed, every purpose of every department gets its own reproducible stream; without,
    noise is as unpredictable as in deployment.
    """
    return {name: _site(settings, name, own, sealing.get(name)) for name, own in data.items()}


def _site(settings: RunSettings, name: str, data: DepartmentData, sealing: Sealing | None) -> Site:
    """One simulated machine."""
    seed = settings.seed

    def random(purpose: str) -> SecureRandom:
        return SecureRandom() if seed is None else SecureRandom.seeded(seed, name, purpose)

    gradients = settings.performance.gradients
    return Site(
        data=data,
        journal=MemoryJournal(),
        random=random,
        sealing=sealing,
        simulated=True,
        declared_size=data.declared_size,
        gradients=None if gradients == "auto" else gradients,
    )


def _a_file_each(settings: RunSettings) -> dict[str, DepartmentData]:
    """One source per department."""
    loaded = {}
    for name, path in (settings.data.departments or {}).items():
        declared = settings.data.declared_sizes.get(name)
        entry = DatasetEntry(
            path=path,
            declared_size=declared or 1,
            split_key=_split_key(settings),
            person=settings.data.person,
            validation=settings.data.validation,
        )
        data = load(settings.data, entry, name=name)
        # In a simulation the researcher sees the data; a real department declares a size itself.
        loaded[name] = data if declared else _declared(data, data.records)
    return loaded


def _dealt_out(settings: RunSettings, prepared: Prepared, rows: np.ndarray) -> dict[str, DepartmentData]:
    """One source, dealt out by a column or a partition."""
    data = settings.data
    groups = None if prepared.groups is None else [prepared.groups[i] for i in rows.tolist()]
    if data.department_column is not None:
        parts = partition(prepared.targets[rows], kind="column", groups=groups)
        names = department_names(kind="column", groups=groups)
    elif data.partition is not None:
        plan = data.partition
        parts = partition(
            prepared.targets[rows],
            kind=plan.kind,
            departments=plan.departments,
            alpha=plan.alpha,
            groups=groups,
            seed=plan.seed,
        )
        names = department_names(kind=plan.kind, departments=plan.departments, groups=groups)
    else:
        raise SettingsError('data.path: say how it is dealt out: department_column, or [data.partition] kind = "iid"')
    departments = {}
    for name, part in zip(names, parts, strict=True):
        departments[name] = assemble(
            prepared,
            name=name,
            declared_size=data.declared_sizes.get(name, len(part)),
            split_key=_split_key(settings),
            validation=data.validation,
            rows=rows[part],
            allow_one_class=True,
        )
    return departments


def _declared(data: DepartmentData, size: int) -> DepartmentData:
    """The same data with another declared size, and without the warnings about the old one."""
    return DepartmentData(
        name=data.name, train=data.train, validation=data.validation, declared_size=size, records=data.records
    )


def _split_key(settings: RunSettings) -> bytes:
    """A simulation's split is reproducible; a real department's key is secret and random."""
    return _key(f"split {settings.seed}")


def _key(purpose: str) -> bytes:
    """32 bytes for a purpose."""
    return hashlib.blake2b(f"confide simulation: {purpose}".encode(), digest_size=32).digest()
