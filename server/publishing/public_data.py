"""The records that a published model is compressed and measured with, and why each of them is public.

Compression takes nothing but :class:`models.public.PublicRecords`. This is the one place where such records are made
for a publication: from the run's public test set, from a file that the publisher names as public, or made up. What is
known to be private here is refused: the sources that a simulation trained on, and the data sets that a department on
this machine has registered (by name and file; their content is not read).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import PrivateDataRefused
from models.inputs.bundled import PREFIX
from models.inputs.prepare import Prepared, prepare_simulated_test, prepare_source, prepare_test
from models.inputs.schema import DataSettings
from models.public import Declared, PublicRecords
from models.signature import Signature
from server.errors import PublishError
from strategies.registered import registered_sources

MOST_CALIBRATION = 2048  # records: more make neither quantisation nor distillation better, and take longer
CALIBRATION_SHARE = 3  # every third record of a test set, where it has to serve for both
SYNTHETIC = 1024
OVERLAP = 0.5  # of a file's records that a private source has, too: then it is that source, or a part of it


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """``calibration`` is what compression sees, ``evaluation`` what it is measured on: they share no record."""

    calibration: PublicRecords
    evaluation: PublicRecords | None


def public_data(
    settings: DataSettings, signature: Signature, *, simulated: bool, calibration: str | None = None
) -> PublicData:
    """Return the public records of a run.

    Args:
        settings: the run's ``[data]``.
        signature: the model's.
        simulated: whether the run was a simulation, whose own sources are then private.
        calibration: a public source to calibrate and distil with (a path, or ``sklearn:NAME``).

    Raises:
        PrivateDataRefused: what was named is known to be private.
        DataError: a source cannot be read.
        PublishError: a source is empty.
    """
    private = dict(_trained_on(settings)) if simulated else {}
    if settings.test is not None and settings.test.path is not None:
        _refuse_known("data.test.path", settings.test.path, private)
    test = prepare_simulated_test(settings) if simulated else prepare_test(settings)
    origin, source = _described(settings)
    if calibration is not None:
        given = _declared_file(settings, calibration, private)
        if test is None:
            return PublicData(calibration=given, evaluation=None)
        seen = {row.tobytes() for row in given.inputs}
        new = np.array([row.tobytes() not in seen for row in test.inputs], np.bool_)
        return PublicData(
            calibration=given, evaluation=_records(test, origin, source, which=new) if new.any() else None
        )
    ours = np.zeros(0, np.bool_) if test is None else _every_third(test)
    if test is None or ours.all():
        made_up = PublicRecords.synthetic(signature, records=SYNTHETIC, seed=0)
        return PublicData(calibration=made_up, evaluation=None if test is None else _records(test, origin, source))
    return PublicData(
        calibration=_records(test, origin, f"{source}, every third record", which=ours),
        evaluation=_records(test, origin, f"{source}, the rest", which=~ours),
    )


def _every_third(test: Prepared) -> npt.NDArray[np.bool_]:
    """Which records compression sees: what it has seen says little about what a model has learnt.

    Records that look the same stay together, so that none of them is on both sides.
    """
    groups: dict[bytes, int] = {}
    members = np.array([groups.setdefault(row.tobytes(), len(groups)) for row in test.inputs])
    ours: npt.NDArray[np.bool_] = (members % CALIBRATION_SHARE == 0) & (members < CALIBRATION_SHARE * MOST_CALIBRATION)
    return ours


def _described(settings: DataSettings) -> tuple[Declared, str]:
    """Where the run's own public test set comes from, without a path of this machine."""
    test = settings.test
    named = test.path if test is not None and test.path is not None else settings.path
    if named is not None and named.startswith(PREFIX):
        return "bundled", named
    return "test set", "the run's public test set" if named is None else f"the public test set {Path(named).name}"


def _records(
    prepared: Prepared, origin: Declared, source: str, which: npt.NDArray[np.bool_] | None = None
) -> PublicRecords:
    """Prepared records, declared public."""
    rows = slice(None) if which is None else which
    return PublicRecords.declared(prepared.inputs[rows], prepared.targets[rows], origin=origin, source=source[:200])


def _refuse_known(field: str, given: str, private: Mapping[str, str]) -> None:
    """Refuse a source that is known to be private: by its place, so that nothing of it is read."""
    places = {name: _place(known) for name, known in private.items()} | registered_sources()
    for name, known in {} if given.startswith(PREFIX) else places.items():
        if _same(_place(given), known):
            raise PrivateDataRefused(
                f"{field} = {given}: is the private source {name}; compression costs no privacy because it sees "
                "public or synthetic records alone: name a public source, or leave it out"
            )


def _declared_file(settings: DataSettings, given: str, private: Mapping[str, str]) -> PublicRecords:
    """A source that the publisher says is public, unless it is known not to be."""
    if given.startswith(PREFIX):
        return _records(_read(settings, given), "bundled", given)
    _refuse_known("calibration", given, private)
    path = Path(given).expanduser()
    prepared = _read(settings, str(path.resolve()))
    mine = set(prepared.keys)
    for name, known in private.items():
        shared = mine.intersection(_read(settings, known).keys)
        if len(shared) > OVERLAP * len(mine):
            raise PrivateDataRefused(
                f"calibration = {given}: more than half of its records are those of the private source {name}; name a "
                "public source, or leave it out"
            )
    return _records(prepared, "file", f"the file {path.name}, declared public by the publisher")


def _read(settings: DataSettings, path: str) -> Prepared:
    """Records of a source by the run's own public description."""
    plain = settings.model_copy(update={"person": None, "department_column": None, "partition": None, "test": None})
    prepared = prepare_source(plain, path)
    if not prepared.records:
        raise PublishError(f"calibration = {path}: holds no record; name another public source, or leave it out")
    return prepared


def _trained_on(settings: DataSettings) -> Iterator[tuple[str, str]]:
    """The sources that a simulation trained on, bundled public sets left out."""
    named = {"data.path": settings.path} | {f"data.departments.{k}": v for k, v in (settings.departments or {}).items()}
    for field, path in named.items():
        if path is not None and not path.startswith(PREFIX):
            yield field, path


def _place(source: str) -> Path:
    """Where a source lies."""
    return Path(source.removeprefix("hf:")).expanduser()


def _same(path: Path, known: Path) -> bool:
    """Whether two paths are one file, or one lies within the other."""
    try:
        if path.samefile(known):
            return True
    except OSError:
        pass
    mine, other = path.resolve(), known.resolve()
    return mine.is_relative_to(other) or other.is_relative_to(mine)
