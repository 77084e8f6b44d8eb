"""Verifier, part 3 of 7: the form of an entry (``docs/ledger-spec.md``, "Entries", "Mechanism" and "Cost")."""

from __future__ import annotations

from privacy import verify_values as read
from privacy.verify_spending import Steps
from privacy.verify_values import Json, Refused, shown

_MECHANISM = read.fields(
    {
        "unit": read.one_of("record"),
        "adjacency": read.one_of("zero-out"),
        "sampler": read.one_of("poisson"),
        "sampling_rate": read.rate,
        "noise_multiplier": read.above_0,
        "max_grad_norm": read.above_0,
        "steps_per_round": read.at_least(1),
        "rounds": read.integer,
        "declared_size": read.at_least(1),
        "delta": read.delta,
        "metric_noise": read.or_null(read.above_0),
        "evaluations": read.integer,
    }
)
_COST = read.fields(
    {
        "orders": read.each(read.integer),
        "rdp": read.fields({"training": read.each(read.real), "validation": read.each(read.real)}),
    }
)
_RUN, _PAID = ("dataset", "run"), ("dataset", "run", "mechanism", "cost")
# What a kind uses, the fields of its `ref`, its id.
_KINDS: dict[str, tuple[tuple[str, ...], dict[str, read.Check], str]] = {
    "genesis": ((), {"name": read.name, "key": read.digest}, "genesis"),
    "key": ((), {"key": read.digest, "proof": read.hex64}, "key:{key}"),
    "policy": ((), {"digest": read.digest, "supersedes": read.or_null(read.digest)}, "policy:{seq}"),
    "dataset": (
        ("dataset",),
        {
            "lineage": read.lineage,
            "version": read.at_least(1),
            "declared_size": read.integer,
            "commitment": read.digest,
            "split": read.digest,
        },
        "dataset:{dataset}:{version}",
    ),
    "reserve": (_PAID, {"spec": read.digest, "model": read.text, "dataset_version": read.integer}, "reserve:{run}"),
    "release": (
        _RUN,
        {
            "round": read.integer,
            "train": read.flag,
            "evaluate": read.flag,
            "model": read.digest,
            "update": read.digest,
        },
        "release:{run}:{round}",
    ),
    "settle": (_PAID, {"reservation": read.integer}, "settle:{run}"),
    "abandon": (_RUN, {"round": read.integer, "reason": read.text}, "abandon:{run}:{round}"),
    "override": (_RUN, {"spec": read.digest, "reason": read.one_of("privacy-off")}, "override:{run}"),
    "checkpoint": (
        (),
        {
            "size": read.at_least(1),
            "root": read.digest,
            "witness": read.signer,
            "key": read.digest,
            "cosignature": read.from_base64,
        },
        "checkpoint:{size}:{witness}",
    ),
}
_USED: dict[str, read.Check] = {"dataset": read.name, "run": read.name, "mechanism": _MECHANISM, "cost": _COST}


def _unused(value: object) -> None:
    """What a kind does not use."""
    if value is not None:
        raise Refused("must be null in an entry of this kind")


_ENTRY = {
    kind: read.fields(
        {
            "v": read.one_of("1"),
            "origin": read.ledger_name,
            "seq": read.integer,
            "prev": read.digest,
            "kind": read.one_of(kind),
            "id": read.text,
            "time": read.time,
            "policy_digest": read.or_null(read.digest),
            "ref": read.fields(ref),
            **{name: check if name in uses else _unused for name, check in _USED.items()},
        }
    )
    for kind, (uses, ref, _) in _KINDS.items()
}


def parse(value: Json) -> Json:
    """Return an entry, its values read, if it has the form of its kind."""
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Refused(f"{shown(kind)} is no kind of entry")
    found: Json = _ENTRY[kind](value)
    wanted = _KINDS[kind][2].format_map({**found["ref"], **found})
    if found["id"] != wanted:
        raise Refused(f"id: {shown(found['id'])} in place of {shown(wanted)}")
    mechanism, cost = found["mechanism"], found["cost"]
    if mechanism and mechanism["metric_noise"] is None and mechanism["evaluations"]:
        raise Refused("mechanism: evaluations without metric_noise")
    if cost and any(len(part) != len(cost["orders"]) for part in cost["rdp"].values()):
        raise Refused("cost: not one figure an order")
    return found


def steps(mechanism: Json) -> tuple[Steps, Steps]:
    """Return what a mechanism releases of training and of validation records."""
    q, sigma, metric = (mechanism[name] for name in ("sampling_rate", "noise_multiplier", "metric_noise"))
    training = Steps({(q, sigma): mechanism["steps_per_round"] * mechanism["rounds"]})
    return training, Steps({} if metric is None else {(1.0, metric): mechanism["evaluations"]})
