"""What a department allows to be done with its data: a small signed TOML file.

``docs/ledger-spec.md`` is the reference. Parsing is strict: a key that is not known, a number that is not
written as one, a combination that contradicts itself are errors that name the key, its value and the fix.
"""

from __future__ import annotations

import codecs
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, cast, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import PolicyError
from privacy.filter import floor, usable
from privacy.policy_table import KEYS, Cap, DatasetPolicy, Mode, Period, one_budget_a_group, read
from privacy.policy_template import TEMPLATE
from privacy.renyi import FILTER_ORDERS
from privacy.toml_table import Table, shown

__all__ = ["TEMPLATE", "Cap", "DatasetPolicy", "Period", "Policy", "digest", "sign", "verify"]

MAX_BYTES = 64 * 1024
LABEL = b"confide/policy/v1\n"
MAX_ORDERS, MAX_ORDER = 32, 256
TOP = ("version", "unit", "adjacency", "mode", "orders", "dataset")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy; ``digest`` is the SHA-256 of its bytes, as 64 hexadecimal digits."""

    digest: str
    unit: Literal["record"] = "record"
    adjacency: Literal["zero-out"] = "zero-out"
    mode: Mode = "renyi-filter"
    orders: tuple[int, ...] = FILTER_ORDERS
    datasets: Mapping[str, DatasetPolicy]

    @staticmethod
    def parse(text: bytes) -> Policy:
        """Return the policy that these bytes, TOML in UTF-8, are; the result is cached.

        Raises:
            PolicyError: they are none, or contradict themselves; one line with the key, its value and the fix.
        """
        return _parse(text)

    def dataset(self, name: str) -> DatasetPolicy | None:
        """Return a data set's table; None where there is none, so that every run on it is denied."""
        return self.datasets.get(name)

    def warnings(self) -> list[str]:
        """Return what is allowed but unwise, one sentence each."""
        if not self.datasets:
            return ['no data set has a table, so every run is denied; add [dataset."NAME"]']
        return [f"data set {table.name}: {one}" for table in self.datasets.values() for one in self._doubts(table)]

    def _doubts(self, table: DatasetPolicy) -> list[str]:
        """What is unwise in one table."""
        found = []
        cap, pinned = table.lifetime, self.mode == "pinned"
        if cap.delta >= 1 / table.declared_size:
            found.append(
                f"delta = {cap.delta_text} is not below 1/declared_size = {1 / table.declared_size:.3g}: publishing "
                "one record outright would satisfy it; take a smaller delta"
            )
        for key, epsilon in (("lifetime", cap.epsilon), ("period", table.period.epsilon if table.period else None)):
            if epsilon is None or pinned:
                continue
            share = usable(epsilon, self.orders, cap.delta)
            if share == 0:
                least = floor(self.orders, cap.delta)
                found.append(
                    f"{key} epsilon = {epsilon:g} admits no run at all: with these orders the filter starts at "
                    f'{least:.3g}; raise it, add larger orders, or use mode = "pinned"'
                )
            elif share < 0.7 * epsilon:
                found.append(
                    f"{key} epsilon = {epsilon:g}: with these orders the filter lets only about {share:.2g} of it be "
                    'spent; raise it, add larger orders, or use mode = "pinned"'
                )
        if cap.epsilon > 10:
            found.append(f"lifetime epsilon = {cap.epsilon_text}: above about 10 little is promised to anybody")
        if table.sigma_min is not None and table.sigma_min < 0.5:
            found.append(f"sigma_min = {table.sigma_min:g} is below 0.5: epsilon grows very fast there")
        if pinned and table.metrics == "dp" and table.max_evaluations is None:
            found.append("without metric_sigma_min and max_evaluations no validation metrics can be released")
        if table.allow_without_privacy:
            found.append("allow_without_privacy = true: a single such run makes epsilon unbounded for ever")
        return found


def digest(text: bytes) -> str:
    """Return the name under which a policy is stored and logged: its SHA-256, hexadecimal."""
    return hashlib.sha256(text).hexdigest()


def sign(text: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the ledger key's signature (64 bytes) over a policy."""
    return key.sign(LABEL + text)


def verify(text: bytes, signature: bytes, key: bytes) -> None:
    """Check a policy's signature against the ledger's public key (32 bytes).

    Raises:
        PolicyError: it is by another key, or of other bytes.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, LABEL + text)
    except (InvalidSignature, ValueError):
        raise PolicyError(
            f"policy {digest(text)}: its signature is not this ledger's; read the policy, and if it is what you want, "
            "sign it with `confide privacy policy sign`"
        ) from None


@lru_cache(maxsize=256)
def _parse(text: bytes) -> Policy:
    """A policy from its bytes."""
    top = Table(_toml(text), "", TOP, elsewhere=KEYS)
    top.required("version", "1")
    if top.integer("version", least=0, example=1) != 1:
        raise top.error("version", "this Confide reads version 1; write version = 1")
    for key, value in (("unit", "record"), ("adjacency", "zero-out")):
        top.required(key, f'"{value}"')
        top.choice(key, (value,))
    mode = cast("Mode", top.choice("mode", get_args(Mode)) or "renyi-filter")
    orders = _orders(top)
    datasets: dict[str, DatasetPolicy] = {}
    if "dataset" in top:
        tables = top.table("dataset", None)
        datasets = {name: read(tables, name, mode) for name in tables}
        one_budget_a_group(tables, datasets)
    return Policy(digest=digest(text), mode=mode, orders=orders, datasets=MappingProxyType(datasets))


def _toml(text: bytes) -> dict[str, object]:
    """The TOML of a policy, whatever it says."""
    if len(text) > MAX_BYTES:
        raise PolicyError(f"the policy has {len(text)} bytes: at most {MAX_BYTES} are read; shorten it")
    if text.startswith(codecs.BOM_UTF8):
        raise PolicyError("the policy starts with a byte order mark: save it as UTF-8 without one")
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise PolicyError(f"the policy is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a plain ValueError
        detail = str(error).splitlines()[0] if not isinstance(error, RecursionError) else "nested too deeply"
        raise PolicyError(f"the policy is not TOML: {detail}; compare it with `confide privacy policy init`") from None


def _orders(top: Table) -> tuple[int, ...]:
    """The orders of the filter."""
    orders = top.get("orders", list(FILTER_ORDERS))
    if not isinstance(orders, list) or not 1 <= len(orders) <= MAX_ORDERS:
        raise top.error("orders", f"must be a list of 1 to {MAX_ORDERS} integers; remove it for {list(FILTER_ORDERS)}")
    for order in orders:
        if isinstance(order, bool) or not isinstance(order, int) or not 2 <= order <= MAX_ORDER:
            raise top.error("orders", f"{shown(order)} is not an integer in 2 to {MAX_ORDER}; remove it")
    if any(one >= two for one, two in pairwise(orders)):
        raise top.error("orders", f"must rise strictly; write orders = {sorted(set(orders))}")
    return tuple(orders)
