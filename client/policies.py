"""The operator's policy: a first draft, what it says, and putting it in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client import config
from client.errors import ConfigError
from client.identity import load_key
from models.errors import ModelError
from models.files import read_bounded, write_atomic
from privacy.errors import BudgetExceeded, LedgerBehind, PolicyError, PolicyRefusal, PrivacyError
from privacy.ledger import Ledger
from privacy.policy import MAX_BYTES, TEMPLATE, Policy

_open: dict[tuple[Path, bytes], Ledger] = {}

TABLE = """
[dataset.{name}]
declared_size = {size}
lifetime = {{ epsilon = "8", delta = "{delta}" }}   # what its records may cost in all, for ever
"""


def draft(settings: config.ClientSettings) -> bytes:
    """A first policy: the template, and a table for each data set that this machine offers."""
    text = TEMPLATE
    for name, entry in settings.dataset.items():
        # Below one over the size: otherwise publishing one record outright would be allowed.
        delta = "1e-5" if entry.declared_size < 100_000 else f"1e-{len(str(entry.declared_size))}"
        text += TABLE.format(name=config.toml_text(name), size=entry.declared_size, delta=delta)
    return text.encode()


def check(file: Path) -> Policy:
    """Read a policy strictly; raises :class:`PolicyError`."""
    try:
        text = read_bounded(file, MAX_BYTES)
    except ModelError as error:
        hint = "" if file.exists() else '; write one with "confide privacy policy init"'
        raise PolicyError(f"{error}{hint}") from None
    try:
        return Policy.parse(text)
    except PolicyError as error:
        raise PolicyError(f"{file}: {error}") from None


def caps(policy: Policy) -> dict[str, Any]:
    """What a policy allows, by data set."""
    return {
        name: {
            "epsilon": table.lifetime.epsilon_text,
            "delta": table.lifetime.delta_text,
            "per_run": table.per_run,
            "period": None if table.period is None else {"days": table.period.days, "epsilon": table.period.epsilon},
            "metrics": table.metrics,
            "group": table.group,
            "allow_without_privacy": table.allow_without_privacy,
        }
        for name, table in policy.datasets.items()
    }


def judge(policy: Policy, run_file: Path) -> dict[str, Any]:
    """Whether a run would be admitted now, by the policy *in force*, which must be this one."""
    from client.account import Account  # noqa: PLC0415 - needs torch, and policies are checked without
    from client.errors import RefusalError  # noqa: PLC0415 - as above
    from strategies.agreement import resolve  # noqa: PLC0415 - as above
    from strategies.runfile import load  # noqa: PLC0415 - as above

    ledger = ledger_to_read()
    if ledger.policy().digest != policy.digest:
        raise PolicyError('policy: not the one in force; sign it first with "confide privacy policy sign"')
    run = resolve(load(run_file), enforced=True)
    if run.data.name is None:
        raise ConfigError(f"{run_file}: data.name: missing; a run names the data set it wants")
    reason = None
    try:
        Account(ledger=ledger, dataset=run.data.name).check(run, "a run that is only being considered")
    except (BudgetExceeded, PolicyRefusal, RefusalError) as error:
        reason = str(error)
    return {"admitted": reason is None, "reason": reason}


def sign(settings: config.ClientSettings, file: Path) -> tuple[str, list[str]]:
    """Put a policy in force; returns its digest and what to think twice about. Raises :class:`PolicyError`."""
    policy = check(file)
    ledger = ledger_to_write(settings)
    warnings = [*policy.warnings(), *_loosened(ledger, policy)]
    return ledger.sign_policy(read_bounded(file, MAX_BYTES)), warnings


def _loosened(ledger: Ledger, policy: Policy) -> list[str]:
    """What a policy allows beyond the one in force, a sentence each: reports will say so for ever."""
    try:
        before = ledger.policy()
    except PolicyError:
        return []
    found = []
    for name, table in policy.datasets.items():
        old = before.dataset(name)
        if old is None:
            continue
        if (table.lifetime.epsilon, table.lifetime.delta) > (old.lifetime.epsilon, old.lifetime.delta):
            found.append(f"data set {name}: its lifetime cap is raised; reports will say that it was")
        if old.group is not None and table.group != old.group:
            found.append(
                f"data set {name}: leaves the budget that it shared in group {old.group}; reports will say that its "
                "cap was raised"
            )
    return found


def ledger_to_read() -> Ledger:
    """This machine's ledger, if there is one; raises :class:`PrivacyError`."""
    folder = config.ledger_directory()
    if not _exists(folder):
        raise PolicyError(f'{folder}: no ledger yet; register data with "confide privacy dataset add"')
    return _known(Ledger.open(folder))


def ledger_to_write(settings: config.ClientSettings) -> Ledger:
    """This machine's ledger, made if there is none; raises :class:`PrivacyError` or :class:`ConfigError`."""
    folder, key = config.ledger_directory(), load_key(settings)
    if _exists(folder):
        return _known(Ledger.open(folder, key=key))
    return _known(Ledger.create(folder, key=key, name=settings.name))


def _exists(folder: Path) -> bool:
    """Whether there is a ledger. One that is gone is not begun anew: it would forget what was spent."""
    there = Ledger.exists(folder)
    if not there and _origin_file().exists():
        raise LedgerBehind(
            f"{folder}: the ledger is gone, and a new one would forget what was spent; put it back. If it is lost, see "
            '"The privacy ledger" in docs/operations.md'
        )
    return there


def _known(ledger: Ledger) -> Ledger:
    """Refuse another ledger than the one that this machine began; the first is remembered."""
    file = _origin_file()
    if not file.exists():
        write_atomic(file, f"{ledger.origin}\n".encode())
    elif file.read_text(encoding="utf-8").strip() != ledger.origin:
        raise LedgerBehind(
            f"{config.ledger_directory()}: another ledger than the one this machine began, which held what was spent; "
            "put that one back"
        )
    return ledger


def _origin_file() -> Path:
    """Remembers that there is a ledger, and which."""
    return config.directory() / "ledger.origin"


def open_ledger(settings: config.ClientSettings) -> Ledger:
    """This machine's ledger, to write in; one object a process, so that what was read of it is kept.

    Raises :class:`PolicyError` where there is none yet, a LedgerError where it cannot be used, and
    :class:`ConfigError` without the key.
    """
    folder, key = config.ledger_directory(), load_key(settings)
    if not _exists(folder):
        raise PolicyError(
            f'{folder}: no ledger yet; register data with "confide privacy dataset add", write a policy with '
            '"confide privacy policy init" and sign it with "confide privacy policy sign"'
        )
    known = folder, key.public_key().public_bytes_raw()
    if known not in _open:
        _open[known] = _known(Ledger.open(folder, key=key))
    return _open[known]


def allowed(ledger: Ledger, dataset: str) -> bool:
    """Whether the policy in force has a table for a data set."""
    try:
        return ledger.policy().dataset(dataset) is not None
    except PrivacyError:
        return False
