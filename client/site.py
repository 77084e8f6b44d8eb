"""Which machine is this, and which data set does a run mean here?"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache, partial

import torch
from flwr.app import Context

from client import config
from client.account import Account, registered
from client.commitment import commitment, split_commitment
from client.data import DatasetEntry, DepartmentData, Split, load
from client.datasets import entry_of
from client.descriptions import check_description
from client.errors import ConfigError, RefusalError
from client.identity import load_me
from client.policies import open_ledger
from client.sealing import Sealing
from client.state import DiskJournal, MemoryJournal
from client.train import Site
from client.vault import DiskVault
from models.inputs.bundled import PREFIX
from models.inputs.schema import DataSettings
from privacy.ledger import Ledger
from privacy.noise import SecureRandom
from strategies.agreement import read_spec
from strategies.jsonfile import canonical
from strategies.status import Status
from strategies.toml import validated

# A bundled public set is the same on every machine, so its split needs no secret.
PUBLIC_SPLIT_KEY = b"confide: public example split".ljust(32, b".")


def site_for(spec: str, context: Context) -> Site:
    """The site that answers a spec here.

    An enrolled machine (one with a ``client.toml``) maps the data set's name to its own path.
    A stock SuperNode has none; it may take part only in runs on scikit-learn's bundled public
    sets, with the share that its ``partition-id`` and ``num-partitions`` name.
    """
    _, settings = read_spec(spec)
    settings.data.refuse_paths()  # before anything opens a file that the server named
    name = settings.data.name
    if name is None:
        raise RefusalError(Status.BAD_MESSAGE, "data.name: missing; a run names the data set it wants")
    description = canonical(settings.data.public_part())
    if not (config.directory() / config.FILE).exists():
        return _bundled_site(name, description, context)
    own = config.load_settings()
    entry = dataset_entry(own, name)
    if entry is None:
        raise RefusalError(
            Status.UNKNOWN_DATASET,
            f'no [dataset."{name}"] in client.toml; add it with "confide privacy dataset add" to take part',
        )
    ledger = open_ledger(own)
    account = Account(ledger=ledger, dataset=name)
    return Site(
        data=partial(_registered, ledger, name, description, entry, own.name),
        journal=DiskJournal(config.directory() / "runs"),
        random=_fresh,
        sealing=None if settings.secagg.clear else _sealing(own, account.min_cohort()),
        allow_clear=own.sealing.allow_clear,
        account=account,
        declared_size=entry.declared_size,
        agree=partial(check_description, config.directory(), name, description),
    )


def _sealing(own: config.ClientSettings, min_cohort: int) -> Sealing:
    """This machine's identity and state for sealed sums; raises :class:`RefusalError` where it has none."""
    try:
        me = load_me(own)
    except ConfigError as error:
        raise RefusalError(Status.SEALING_REFUSED, str(error)) from None
    floors = replace(me.floors, min_cohort=max(me.floors.min_cohort, min_cohort))
    return Sealing(me=replace(me, floors=floors), vault=DiskVault(config.directory() / "sealing"))


def dataset_entry(settings: config.ClientSettings, name: str) -> DatasetEntry | None:
    """This machine's entry for a data set's public name, or None."""
    own = settings.dataset.get(name)
    return None if own is None else entry_of(own)


def _fresh(_purpose: str) -> SecureRandom:
    """A generator keyed by the operating system."""
    return SecureRandom()


def _registered(ledger: Ledger, dataset: str, description: str, entry: DatasetEntry, name: str) -> DepartmentData:
    """The data set as it was registered; raises :class:`RefusalError` where it was changed since."""
    known = registered(ledger, dataset)
    if known.declared_size != entry.declared_size or known.split != split_commitment(dataset, entry):
        raise RefusalError(
            Status.DATASET_CHANGED,
            f"data set {dataset}: client.toml has another size, person column, share or split key than were "
            f'registered; put them back, or register the change with "confide privacy dataset update {dataset}"',
        )
    return _load(description, entry, name, known.commitment)


@lru_cache(maxsize=2)
def _load(description: str, entry: DatasetEntry, name: str, content: bytes | None = None) -> DepartmentData:
    """Read a data set once per process, description and registered content."""
    if content is not None and commitment(entry) != content:
        raise RefusalError(
            Status.DATASET_CHANGED,
            "the data are not those that were registered; register them as a new version with "
            '"confide privacy dataset update"',
        )
    settings = validated(DataSettings, json.loads(description), where="spec: data")
    # How many records there are here is no question for the server to ask.
    settings = settings.model_copy(update={"max_rows": DataSettings.model_fields["max_rows"].default})
    return load(settings, entry, name=name)


_stock_journals: dict[int, MemoryJournal] = {}


def _bundled_site(name: str, description: str, context: Context) -> Site:
    """A stock SuperNode's share of a bundled public data set."""
    if not name.startswith(PREFIX):
        raise RefusalError(Status.UNKNOWN_DATASET, f"{name}: this machine is not enrolled and knows no data sets")
    share, shares = context.node_config.get("partition-id"), context.node_config.get("num-partitions")
    if not isinstance(share, int) or not isinstance(shares, int) or not 0 <= share < shares:
        raise RefusalError(
            Status.UNKNOWN_DATASET,
            "node-config: needs partition-id and num-partitions, with 0 <= partition-id",
        )
    entry = DatasetEntry(path=name, declared_size=1_000_000, split_key=PUBLIC_SPLIT_KEY)
    whole = _load(description, entry, f"node-{share}")
    train = _every(whole.train, share, shares)
    data = DepartmentData(
        name=whole.name,
        train=train,
        validation=_every(whole.validation, share, shares),
        declared_size=len(train.inputs),
        records=len(train.inputs),
    )
    # The records are public: there is nothing to seal.
    journal = _stock_journals.setdefault(share, MemoryJournal())
    return Site(data=data, public=True, allow_clear=True, journal=journal, random=_fresh)


def _every(split: Split, start: int, step: int) -> Split:
    """Every ``step``-th record from ``start``."""
    chosen = torch.arange(start, len(split.inputs), step)
    return Split(inputs=split.inputs[chosen], targets=split.targets[chosen])
