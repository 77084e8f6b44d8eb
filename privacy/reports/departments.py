"""The section about the departments: their ledgers, data sets, runs and caps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from privacy.reports.markup import Html, code, exact, facts, join, left, long_table, loss, percent, table, tag, tree
from privacy.reports.plots import budget, trade_off

Json = Mapping[str, Any]

_ACHIEVE: Final = "What any attack can achieve, at most; upright: its largest advantage over guessing."


def departments(report: Json) -> Html:
    """Every department's ledger, and every data set of it."""
    ledgers = {each["origin"]: each for each in report["ledgers"]}
    parts = []
    for origin, group in groupby(report["datasets"], key=lambda each: each["origin"]):
        mine, ledger = list(group), ledgers.pop(origin, None)
        parts.append(
            tag("article", tag("h3", mine[0]["department"]), _ledger(ledger), map(_dataset, mine), class_="department")
        )
    parts += [tag("article", tag("h3", each["department"]), _ledger(each)) for each in ledgers.values()]
    return join(parts or tag("p", "There is no ledger in the bundle."))


def _ledger(ledger: Json | None) -> Html:
    """One line about a ledger."""
    if ledger is None:
        return tag("p", "Named by the verdict; its ledger cannot be read.", class_="bad")
    seen = "no witness's note" if ledger["witnessed"] is None else f"{tree(ledger['witnessed'])} witnessed"
    return tag(
        "p",
        code(ledger["origin"]),
        f": {ledger['entries']:,} entries, {seen}, {ledger['from']} to {ledger['to']}.",
        class_="origin",
    )


def _dataset(each: Json) -> Html:
    """One data set: pictures, figures, runs, caps."""
    budget_, spent, reading = each["budget"], each["spent"], each["reading"]
    names = [run["run"] for run in each["runs"]]
    right = (
        tag("p", "Nothing bounds what an attacker can tell.", class_="bad")
        if reading is None
        else tag("figure", trade_off(reading["curve"]), tag("figcaption", _ACHIEVE))
    )
    caption = "Enforced ε after each entry, below the lifetime cap (dashed). Numbers are the runs below."
    return join(
        tag("h4", f"Data set {each['dataset']}"),
        tag("div", tag("figure", budget(each["history"], names), tag("figcaption", caption)), right, class_="pictures"),
        tag("p", reading["in_words"], class_="plain") if reading else "",
        facts(_figures(each, budget_, spent)),
        _runs(each["runs"]),
        _caps(budget_["caps"]),
    )


def _figures(each: Json, budget_: Json, spent: Json) -> list[tuple[object, object]]:
    """The figures of a data set."""
    enforced, again, delta = spent["enforced_epsilon"], spent["recomputed_epsilon"], f"δ = {spent['delta']:g}"
    note = ""
    if enforced is not None and again is not None and abs(again - enforced) > 1e-3 * max(1.0, enforced):
        note = f" This report computes {loss(again)} from the entries that it can read."
    period = budget_["period"]
    versions = each["registration"]["versions"]
    groups = [
        f"{group['records']} record{'s' * (group['records'] > 1)}: {loss(group['epsilon'])}" for group in each["groups"]
    ]
    rows: list[tuple[object, object]] = [
        ("enforced over the lifetime", join(tag("b", f"ε = {loss(enforced)}"), f" at {delta}.{note}")),
        (
            "PLD over the lifetime",
            f"ε = {loss(spent['pld_epsilon'])} at {delta}"
            if spent["pld_epsilon"] is not None
            else "unbounded"
            if enforced is None
            else "not computed",
        ),
        (
            "lifetime cap",
            "no policy names this data set"
            if budget_["cap"] is None
            else f"ε = {exact(budget_['cap'])} at {delta} ({budget_['mode'] or 'its policy cannot be read'}); "
            f"left: {left(budget_['remaining'])}",
        ),
        ("records of one person, on either side of the split (PLD)", "; ".join(groups)),
    ]
    if budget_["cap_raised"]:
        when = "when results could be known" if budget_["raised_after_results"] else "before anything was released"
        rows.append(("cap raised", tag("b", f"{when}: ε = {exact(budget_['highest_cap'])} is the largest ever signed")))
    if period:
        rows.append(
            (f"last {period['days']} days", f"ε = {loss(period['enforced_epsilon'])} of {exact(period['cap'])}")
        )
    if budget_["per_run"] is not None:
        rows.append(("cap of a run", f"ε = {exact(budget_['per_run'])} (PLD)"))
    if budget_["group"] is not None:
        rows.append(("budget shared with", f"the data sets of group {budget_['group']}: figures are of all of them"))
    if each["reading"]:
        rows.append(("largest attack advantage", percent(each["reading"]["advantage"])))
    if versions:
        rows.append(
            (
                "registration",
                f"version {versions[-1]['version']} of lineage {each['registration']['lineage'][:8]}…, "
                f"{int(versions[-1]['declared_size']):,} records declared",
            )
        )
    if each["registration"]["split_changed"]:
        rows.append(
            ("split changed", "training and validation records may have changed places, so their costs are added")
        )
    return rows


def _runs(runs: Sequence[Json]) -> Html:
    """The runs of a data set."""
    rows = [
        (
            str(number),
            join(run["run"], tag("span", " ", run["model"], class_="muted")),
            tag("time", run["time"][:10]),
            run["state"] if run["state"] == "settled" else tag("span", run["state"], class_="flag warn"),
            "none"
            if run["rounds_charged"] is None
            else f"{run['rounds_charged']:,} of {run['rounds_reserved'] or 0:,}",
            f"{run['releases']['vectors']:,}",
            loss(run["enforced_epsilon"]),
            loss(run["pld_epsilon"])
            if run["pld_epsilon"] is not None
            else "unbounded"
            if run["state"] == "unprotected"
            else "none",
        )
        for number, run in enumerate(runs, 1)
    ]
    head = ("#", "run", "reserved", "state", "rounds charged#", "vectors sent#", "enforced ε#", "PLD ε#")
    return long_table((Html("no."), *head[1:]), rows)


def _caps(caps: Sequence[Json]) -> Html:
    """Every cap that was ever signed, where there was more than one."""
    if len(caps) < 2:
        return Html("")
    rows = [
        (
            each["time"],
            exact(each["epsilon"]),
            exact(each["delta"]),
            "yes" if each["after_releases"] else "no",
            code(each["digest"][:16] + "…"),
        )
        for each in caps
    ]
    return join(tag("h4", "Caps ever signed"), table(("time", "ε#", "δ#", "after releases", "policy"), rows))
