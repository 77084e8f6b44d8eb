"""The audit report of a bundle, as data: ``report_html`` prints it, ``json.dumps`` stores it.

It says what was spent and by whom, how that is known, and what is not known. Field names follow NIST SP 800-226
(2025), the tiers of OpenDP's registry of deployments, and ISO/IEC 27559:2022 where these have names; ``standards``
in the report says where each of their terms is. The same evidence gives the same report, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from privacy.canonical import CanonicalError, unix
from privacy.errors import AccountingError
from privacy.renyi import FILTER_ORDERS
from privacy.reports import reading, sections, words
from privacy.reports.evidence import Evidence, LedgerText, plain, read
from privacy.reports.spend import Account, Books, Run, alone, mechanisms

FORMAT: Final = "confide/report/v1"
GROUPS: Final = (1, 2, 5)

Json = dict[str, Any]


def build(bundle: Path, verdict: Mapping[str, Any], audit: Mapping[str, Any] | None = None) -> Json:
    """Return the report of a bundle: objects, arrays, text, finite numbers, true, false and None.

    Args:
        bundle: folder of the evidence; damaged evidence is reported on as far as it can be read.
        verdict: ``privacy.verify.Verdict.to_dict()`` of the same bundle.
        audit: ``privacy.audit.AuditResult.to_dict()``, where the software was tested.

    Raises:
        LedgerError: the folder is no bundle, or cannot be read.
        MissingExtra: riskcal, of the extra ``audit``, is not installed.
    """
    evidence, judged = read(bundle), plain(verdict)
    books = [Books(ledger, evidence.policies) for ledger in evidence.ledgers]
    datasets = _datasets(evidence, books, judged)
    runs = [
        (f"{ledger.department} / {account.name}", run)
        for ledger, book in zip(evidence.ledgers, books, strict=True)
        for account in book.accounts.values()
        for run in account.runs.values()
    ]
    published = sections.models(evidence)
    return {
        "format": FORMAT,
        "bundle": {"digest": evidence.digest, "created": evidence.created},
        "verdict": _verdict(judged, evidence),
        "summary": _summary(datasets, runs, published),
        "models": published,
        "guarantee": sections.guarantee(books, [run.terms for _, run in runs if run.terms]),
        "datasets": datasets,
        "ledgers": [_ledger(ledger, judged) for ledger in evidence.ledgers],
        "trust_model": sections.trust(evidence),
        "released": sections.released(runs, published),
        "data_touches": sections.touches(runs, books),
        "empirical_audit": None if audit is None else plain(audit),
        "verification": sections.verification(evidence.digest),
        "policies": _policies(evidence, books),
        "not_proven": [str(each) for each in _list(judged, "not_proven")],
        "limits": list(words.LIMITS),
        "standards": [
            {"standard": standard, "term": term, "section": section} for standard, term, section in words.STANDARDS
        ],
    }


def _verdict(judged: Json, evidence: Evidence) -> Json:
    """The verdict, its problems, and what this report itself could not read."""
    found = judged.get("verdict")
    found = found if found in words.HEADLINES else "violation"
    return {
        "verdict": found,
        "exit_code": judged.get("exit_code"),
        "in_words": words.HEADLINES[found],
        "problems": _list(judged, "problems"),
        "unreadable_lines": {ledger.file: ledger.unreadable for ledger in evidence.ledgers if ledger.unreadable},
    }


def _summary(datasets: list[Json], runs: list[tuple[str, Run]], published: list[Json]) -> Json:
    """What fits on the first page."""
    spent = [each["spent"] for each in datasets]
    bounded = all(each["enforced_epsilon"] is not None for each in spent)
    return {
        "departments": len({each["department"] for each in datasets}),
        "datasets": len(datasets),
        "runs": len({run.name for _, run in runs}),
        "models": len(published),
        "unbounded": [f"{each['department']} / {each['dataset']}" for each in datasets if each["state"] == "unbounded"],
        "over_cap": [f"{each['department']} / {each['dataset']}" for each in datasets if each["state"] == "over"],
        # Basic composition: for a person who has one record in every data set here.
        "person_in_all": {
            "epsilon": sum(each["enforced_epsilon"] for each in spent) if bounded else None,
            "delta": sum(each["delta"] for each in spent),
        },
    }


def _datasets(evidence: Evidence, books: list[Books], judged: Json) -> list[Json]:
    """Every data set of the ledgers, and those that only the verdict names."""
    rows = [row for row in _list(judged, "datasets") if isinstance(row, dict)]
    now = _when(evidence)
    found = []
    for ledger, book in zip(evidence.ledgers, books, strict=True):
        for account in sorted(book.accounts.values(), key=lambda account: account.name):
            mine = [row for row in rows if row.get("dataset") == account.name and row.get("origin") == ledger.origin]
            rows = [row for row in rows if row not in mine]
            found.append(_dataset(ledger, book, account, mine[0] if mine else {}, now))
    for row in rows:
        nothing = LedgerText(
            file="",
            origin=str(row.get("origin")),
            department=str(row.get("department")),
            key="",
            entries=(),
            unreadable=0,
        )
        found.append(_dataset(nothing, Books(nothing, {}), Account(name=str(row.get("dataset"))), row, now))
    return found


def _dataset(ledger: LedgerText, book: Books, account: Account, row: Json, now: int) -> Json:
    """One data set: its budget, what was spent, what that means, and on what."""
    table = account.caps[-1].table if account.caps else None
    delta = _number(row, "delta", None) or book.delta(account)
    unbounded = any(each.overrides for each in book.group(account))
    computed = book.epsilon(account)
    enforced = None if unbounded else _number(row, "enforced_epsilon", computed)
    cap = table.lifetime.epsilon if table else _number(row, "cap", None)
    highest = max((each.table.lifetime.epsilon for each in account.caps), default=cap)
    raises = [new for old, new in pairwise(account.caps) if new.table.lifetime.epsilon > old.table.lifetime.epsilon]
    raised = bool(raises) or row.get("cap_raised") is True
    over = None not in (enforced, cap) and enforced > cap  # type: ignore[operator]  # neither is None
    return {
        "department": ledger.department,
        "origin": ledger.origin,
        "dataset": account.name,
        "state": "unbounded" if enforced is None else "over" if over else "within",
        "registration": {
            "lineage": str(account.versions[-1].ref.get("lineage", "")) if account.versions else None,
            "versions": [
                {key: str(entry.ref.get(key, "")) for key in ("version", "declared_size", "commitment", "split")}
                | {"time": entry.time}
                for entry in account.versions
            ],
            "split_changed": book.added(account),
        },
        "budget": {
            "mode": book.policy.mode if book.policy else None,
            "cap": cap,
            "highest_cap": highest,
            "cap_raised": raised,
            # Where only the verdict knows of a raise, the worse is said.
            "raised_after_results": raised and (not raises or any(each.after_releases for each in raises)),
            "remaining": None if enforced is None or cap is None else max(0.0, cap - enforced),
            "group": table.group if table else None,
            "per_run": table.per_run if table else None,
            "period": book.period(account, now),
            "caps": [
                {
                    "seq": each.seq,
                    "time": each.time,
                    "digest": each.digest,
                    "epsilon": each.table.lifetime.epsilon,
                    "delta": each.table.lifetime.delta,
                    "after_releases": each.after_releases,
                }
                for each in account.caps
            ],
        },
        "spent": {
            "enforced_epsilon": enforced,
            "pld_epsilon": None if unbounded else _number(row, "pld_epsilon", None),
            "delta": delta,
            "recomputed_epsilon": computed,
            "open_reservations": sum(run.state == "open" for run in account.runs.values()),
            "overrides": len(account.overrides),
        },
        **_meaning(book, account, delta, unbounded=unbounded),
        "runs": [_run(book, run, delta) for run in account.runs.values()],
        "history": [
            {"seq": p.seq, "time": p.time, "event": p.event, "run": p.run, "epsilon": p.epsilon, "cap": p.cap}
            for p in account.history
        ],
    }


def _meaning(book: Books, account: Account, delta: float, *, unbounded: bool) -> Json:
    """Groups of records, and what an attacker can do; None where nothing bounds it."""
    training, validation = (mechanisms(steps) for steps in book.spent(account))
    if unbounded:
        return {"groups": [{"records": k, "epsilon": None} for k in GROUPS], "reading": None}
    apart = [training, validation] if not book.added(account) else [training + validation]
    single = [reading.epsilon(part, delta) for part in apart]
    one = {"records": 1, "epsilon": None if None in single else max(e for e in single if e is not None)}
    # Records of one person may stand in both compartments: together they pay at most for both.
    more = [{"records": k, "epsilon": _grouped(training + validation, delta, k)} for k in GROUPS[1:]]
    found = reading.read(apart)
    return {
        "groups": [one, *more],
        "reading": None
        if found is None
        else {
            "advantage": found.advantage,
            "tpr_at_1pct_fpr": found.tpr_at_1pct_fpr,
            "curve": [list(point) for point in found.curve],
            "in_words": reading.in_words(found),
        },
    }


def _grouped(steps: tuple[reading.Steps, ...], delta: float, k: int) -> float | None:
    """What ``k`` records of one person pay together, by PLD; None where nothing bounds it."""
    from privacy.accountants import Mechanism  # noqa: PLC0415 - loads torch
    from privacy.groups import group_epsilon  # noqa: PLC0415 - as above

    parts = [Mechanism(sampling_rate=q, noise_multiplier=sigma, steps=count) for q, sigma, count in steps]
    try:
        return group_epsilon(parts, delta, k)
    except AccountingError:
        return None


def _run(book: Books, run: Run, delta: float) -> Json:
    """One run on one data set."""
    terms = run.terms
    orders = book.policy.orders if book.policy else FILTER_ORDERS
    private = terms is not None and not run.unprotected
    parts = [reading.epsilon([part], delta) for part in (terms.training, terms.validation)] if terms and private else []
    return {
        "run": run.name,
        "time": run.time,
        "state": run.state,
        "model": run.model,
        "enforced_epsilon": alone(terms, orders, delta) if terms and private else None,
        "pld_epsilon": max(p for p in parts if p is not None) if parts and None not in parts else None,
        "delta": delta,
        "mechanism": sections.setting(terms) if terms else None,
        "rounds_reserved": run.reserved.rounds if run.reserved else None,
        "rounds_charged": terms.rounds if terms else None,
        "steps_charged": terms.training[2] if terms else None,
        "evaluations_charged": terms.evaluations if terms else None,
        "releases": {"vectors": run.sent, "training": run.trained, "metrics": run.evaluated},
        "abandoned": dict(run.abandoned),
    }


def _ledger(ledger: LedgerText, judged: Json) -> Json:
    """Identity of one ledger, and how much of it somebody else has seen."""
    rows = [row for row in _list(judged, "ledgers") if isinstance(row, dict) and row.get("file") == ledger.file]
    ends = [ledger.entries[0].time, ledger.entries[-1].time] if ledger.entries else [None, None]
    return {
        "department": ledger.department,
        "file": ledger.file,
        "origin": ledger.origin,
        "key": ledger.key,
        "entries": len(ledger.entries) + ledger.unreadable,
        "unreadable": ledger.unreadable,
        "witnessed": rows[0].get("size_witnessed") if rows else None,
        "from": ends[0],
        "to": ends[1],
    }


def _policies(evidence: Evidence, books: list[Books]) -> list[Json]:
    """Every policy in full, with where and since when it was in force."""
    used: dict[str, list[Json]] = {}
    for ledger, book in zip(evidence.ledgers, books, strict=True):
        for index, (entry, digest) in enumerate(book.policies):
            until = book.policies[index + 1][0].time if index + 1 < len(book.policies) else None
            used.setdefault(digest, []).append(
                {"department": ledger.department, "seq": entry.seq, "from": entry.time, "until": until}
            )
    known = {digest: (each.text, each.problem) for digest, each in evidence.policies.items()}
    known = dict.fromkeys(used, ("", "not in the bundle")) | known
    return [
        {"digest": digest, "text": text, "problem": problem, "in_force": used.get(digest, [])}
        for digest, (text, problem) in sorted(known.items(), key=lambda item: str(used.get(item[0], "")))
    ]


def _when(evidence: Evidence) -> int:
    """When the bundle was made, in Unix seconds; failing that, its newest entry's time."""
    try:
        return unix(evidence.created)
    except CanonicalError:
        return max((unix(entry.time) for ledger in evidence.ledgers for entry in ledger.entries), default=0)


def _list(value: Json, key: str) -> list[Any]:
    """A list of the verdict; empty where it has none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _number(row: Json, key: str, otherwise: float | None) -> float | None:
    """A number of the verdict, None where it says so; ``otherwise`` where it is silent."""
    value = row.get(key, otherwise)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
