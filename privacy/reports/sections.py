"""The parts of a report that are about the whole bundle: models, guarantee, trust, releases, how to verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from privacy.renyi import FILTER_ORDERS
from privacy.reports import words
from privacy.reports.evidence import Evidence, Terms
from privacy.reports.spend import Books, Run

Json = dict[str, Any]
# What a department may say when a round fails, because of what its data are.
_ABOUT_DATA = frozenset({"data-unusable", "training-failed"})


def models(evidence: Evidence) -> list[Json]:
    """Identity, data domain and utility of every published model."""
    return [_model(run, manifest) for run, manifest in sorted(evidence.models.items())]


def guarantee(books: Sequence[Books], terms: Sequence[Terms]) -> Json:
    """What the figures mean, the mechanism as implemented, and who computed what."""
    policies = [book.policy for book in books if book.policy]
    return {
        "unit": {"name": _one(term.unit for term in terms) or "record", "in_words": words.UNIT},
        "adjacency": {"name": _one(term.adjacency for term in terms) or "zero-out", "in_words": words.ADJACENCY},
        "flavor": words.FLAVOUR,
        "deployment_model": words.DEPLOYMENT,
        "mechanism": {
            "name": "DP-SGD",
            "sampler": _one(term.sampler for term in terms) or "poisson",
            "in_words": list(words.MECHANISM),
            "settings": [each | {"runs": count} for each, count in _counted([setting(term) for term in terms])],
        },
        "accountants": [
            {
                "figure": "enforced",
                "accountant": "Rényi filter" if {p.mode for p in policies} != {"pinned"} else "pinned worst case (PLD)",
                "orders": sorted({order for p in policies for order in p.orders} or FILTER_ORDERS),
                "implementation": f"confide {_version('confide')}, privacy/renyi.py and privacy/filter.py",
                "in_words": words.ENFORCED,
            },
            {
                "figure": "PLD",
                "accountant": "privacy loss distributions",
                "orders": None,
                "implementation": f"dp-accounting {_version('dp-accounting')}",
                "in_words": words.PLD,
            },
            {
                "figure": "attack bounds",
                "accountant": "trade-off curve of the privacy loss distribution",
                "orders": None,
                "implementation": f"riskcal {_version('riskcal')}",
                "in_words": "Bounds on every attack, for the runs as they were made.",
            },
        ],
    }


def trust(evidence: Evidence) -> Json:
    """Who sees what, how sums were sealed, and whom the figures rely on."""
    return {
        "who_sees_what": [{"who": who, "sees": sees} for who, sees in words.WHO_SEES_WHAT],
        "sealing": [_sealing(run, signed) for run, signed in sorted(evidence.rosters.items())],
        "runs_without_roster": sorted(set(evidence.models) - set(evidence.rosters)),
        "witnesses": list(evidence.witnesses),
        "assumed_honest": list(words.HONEST),
    }


def released(runs: Sequence[tuple[str, Run]], published: Sequence[Json]) -> list[Json]:
    """Everything that left a department's machine, with how often and under what protection."""
    private = [run for _, run in runs if not run.unprotected]
    exposed = [run for _, run in runs if run.unprotected]
    codes: Counter[str] = Counter()
    for _, run in runs:
        codes.update(run.abandoned)
    empty = sum(run.sent for run in private) - sum(max(run.trained, run.evaluated) for run in private)
    rows = [
        _row("noised model updates", sum(run.trained for run in private), "accounted", "in the training figures"),
        _row("noised validation metrics", sum(run.evaluated for run in private), "accounted", "in the same vectors"),
    ]
    if empty > 0:
        rows.append(_row("vectors that may hold neither", empty, "accounted", "they cost nothing"))
    if exposed:
        note = "runs without differential privacy: " + ", ".join(sorted({run.name for run in exposed}))
        rows.append(
            _row("model updates and metrics WITHOUT noise", sum(run.sent for run in exposed), "unprotected", note)
        )
    for code, count in sorted(codes.items()):
        note = "depends on the data" if code in _ABOUT_DATA else "one word of a fixed list"
        rows.append(_row(f"status code “{code}”", count, "unprotected", note))
    without = [model["run"] for model in published if model["privacy"].get("mode") == "off"]
    bare = bool(without or exposed)
    note = (
        "some may hold what no noise covers" if bare else "made of the releases above alone, which costs nothing more"
    )
    rows.append(_row("published models", len(published), "unprotected" if bare else "accounted", note))
    return rows + [_row(what, None, "unprotected", note) for what, note in words.UNPROTECTED]


def touches(runs: Sequence[tuple[str, Run]], books: Sequence[Books]) -> Json:
    """What else was done with private data: failures, what is still open, new versions."""
    unused = [
        {"where": where, "run": run.name, "rounds_reserved": run.reserved.rounds, "rounds_released": run.trained}
        for where, run in runs
        if run.reserved is not None and run.trained < run.reserved.rounds
    ]
    return {
        "open_reservations": [
            {"where": where, "run": run.name, "since": run.time} for where, run in runs if run.state == "open"
        ],
        "overrides": [{"where": where, "run": run.name, "time": run.time} for where, run in runs if run.unprotected],
        "abandoned_rounds": [
            {"where": where, "run": run.name, "reason": reason, "rounds": count}
            for where, run in runs
            for reason, count in sorted(run.abandoned.items())
        ],
        "runs_short_of_their_reservation": unused,
        "new_versions": sum(max(0, len(a.versions) - 1) for book in books for a in book.accounts.values()),
        "tuning": "Runs in these ledgers are all counted. The evidence cannot show trials outside of them.",
    }


def verification(digest: str) -> list[Json]:
    """The exact commands with which the reader checks this report."""
    pipeline = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    return [
        {"what": f"the bundle is the one reported on: {digest}", "command": f"cd BUNDLE && {pipeline}"},
        {"what": "the verdict, with Confide", "command": "confide audit verify BUNDLE"},
        {
            "what": "the verdict, with a few readable files and nothing else of Confide",
            "command": "python privacy/verify.py BUNDLE --json",
        },
        {"what": "the noise that the software really adds", "command": "confide audit test --json audit.json"},
        {"what": "this report, from the same bundle", "command": "confide audit report BUNDLE"},
    ]


def setting(terms: Terms) -> Json:
    """Return the public constants of a mechanism."""
    return {
        "noise_multiplier": terms.noise_multiplier,
        "sampling_rate": terms.sampling_rate,
        "max_grad_norm": terms.max_grad_norm,
        "steps_per_round": terms.steps_per_round,
        "metric_noise": terms.metric_noise,
    }


def _model(run: str, manifest: Mapping[str, Any]) -> Json:
    """One manifest; fields that it lacks are None."""
    ledgers = manifest.get("ledgers")
    privacy = manifest.get("privacy")
    figures = next((manifest[key] for key in ("metrics", "result") if isinstance(manifest.get(key), dict)), None)
    task = manifest.get("task")
    return {
        "run": run,
        **{key: manifest.get(key) for key in ("name", "description", "created", "rounds", "model", "hyperparameters")},
        **{key: manifest.get(key) for key in ("spec_digest", "weights_sha256", "versions")},
        "task": task.get("loss_name") if isinstance(task, dict) else None,
        "public_data": manifest.get("data"),
        "utility": figures,
        "privacy": privacy if isinstance(privacy, dict) else {},
        "curators": [
            {"department": department, **{key: part.get(key) for key in ("origin", "size", "root", "rounds")}}
            for department, part in sorted(ledgers.items() if isinstance(ledgers, dict) else ())
            if isinstance(part, dict)
        ],
    }


def _sealing(run: str, signed: Mapping[str, Any]) -> Json:
    """The terms of one run's sums, for a round in which the whole roster takes part."""
    roster, permit = signed["roster"], signed["permit"]
    members = roster.get("members")
    names = (
        [str(member.get("name", "")) for member in members if isinstance(member, dict)]
        if isinstance(members, list)
        else []
    )
    n, c, m, mode = len(names), roster.get("colluders"), roster.get("min_honest"), roster.get("mode")
    threshold = None
    if type(c) is int and type(m) is int:
        # docs/secagg-spec.md, "Thresholds"
        threshold = {"sealed": (n + c + m + 1) // 2, "strict": max((n + c) // 2 + 1, c + m)}.get(str(mode))
    return {
        "run": run,
        "mode": mode,
        "members": names,
        "threshold": threshold,
        "colluders": c,
        "min_honest": m,
        "max_rounds": permit.get("max_rounds"),
        "permit_serial": permit.get("serial"),
        "roster_version": roster.get("version"),
        "governance": signed["governance"],
    }


def _counted(settings: Sequence[Json]) -> Iterator[tuple[Json, int]]:
    """Each different setting with how often it was used, the most frequent first."""
    counts = Counter(tuple(setting.items()) for setting in settings)
    yield from ((dict(items), count) for items, count in counts.most_common())


def _row(what: str, count: int | None, protection: str, note: str) -> Json:
    """One line of the table of releases."""
    return {"what": what, "count": count, "protection": protection, "note": note}


def _one(values: Iterator[str] | Any) -> str:
    """The different values, as one text."""
    return ", ".join(sorted(set(values)))


def _version(package: str) -> str:
    """The version installed here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
