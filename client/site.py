"""Which machine is this, and which data set does a run mean here?"""

from __future__ import annotations

import json
from functools import lru_cache, partial

import torch
from flwr.app import Context

from client import config
from client.data import DatasetEntry, DepartmentData, Split, load
from client.descriptions import check_description
from client.errors import ConfigError, RefusalError
from client.identity import load_me
from client.sealing import Sealing
from client.state import DiskJournal, MemoryJournal
from client.train import Site
from client.vault import DiskVault
from models.inputs.bundled import PREFIX
from models.inputs.schema import DataSettings
from privacy.noise import SecureRandom
from strategies.agreement import canonical, read_spec
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
            f'no [dataset."{name}"] in client.toml; add it with "confide client dataset add" to take part',
        )
    return Site(
        data=partial(_load, description, entry, own.name),
        journal=DiskJournal(config.directory() / "runs"),
        random=_fresh,
        sealing=None if settings.secagg.clear else _sealing(own),
        allow_clear=own.sealing.allow_clear,
        allow_without_privacy=own.allow_without_privacy,
        max_epsilon=own.dataset[name].max_epsilon,
        max_delta=own.dataset[name].max_delta,
        declared_size=entry.declared_size,
        agree=partial(check_description, config.directory(), name, description),
    )


def _sealing(own: config.ClientSettings) -> Sealing:
    """This machine's identity and state for sealed sums; raises :class:`RefusalError` where it has none."""
    try:
        return Sealing(me=load_me(own), vault=DiskVault(config.directory() / "sealing"))
    except ConfigError as error:
        raise RefusalError(Status.SEALING_REFUSED, str(error)) from None


def dataset_entry(settings: config.ClientSettings, name: str) -> DatasetEntry | None:
    """This machine's entry for a data set's public name, or None."""
    entry = settings.dataset.get(name)
    if entry is None:
        return None
    return DatasetEntry(
        path=entry.path,
        declared_size=entry.declared_size,
        labels_path=entry.labels_path,
        person=entry.person,
        split_key=config.split_key(),
        validation=entry.validation,
    )


def _fresh(_purpose: str) -> SecureRandom:
    """A generator keyed by the operating system."""
    return SecureRandom()


@lru_cache(maxsize=2)
def _load(description: str, entry: DatasetEntry, name: str) -> DepartmentData:
    """Read a data set once per process and description."""
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
    return Site(data=data, allow_clear=True, journal=_stock_journals.setdefault(share, MemoryJournal()), random=_fresh)


def _every(split: Split, start: int, step: int) -> Split:
    """Every ``step``-th record from ``start``."""
    chosen = torch.arange(start, len(split.inputs), step)
    return Split(inputs=split.inputs[chosen], targets=split.targets[chosen])
