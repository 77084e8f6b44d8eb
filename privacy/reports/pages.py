"""The numbered sections of the page, one function each: a report in, HTML out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from privacy.reports.departments import departments
from privacy.reports.markup import Html, code, exact, facts, join, listed, long_table, shown, table, tag, tree

Json = Mapping[str, Any]

_MOST_PROBLEMS: Final = 200


def models(report: Json) -> Html:
    """Identity, data and utility of what was published."""
    if not report["models"]:
        return tag("p", "The bundle holds no manifest of a published model.")
    return join(*(_model(each) for each in report["models"]))


def guarantee(report: Json) -> Html:
    """What the figures mean and what was run."""
    given = report["guarantee"]
    mechanism = given["mechanism"]
    settings = [
        (
            exact(each["noise_multiplier"]),
            exact(each["sampling_rate"]),
            exact(each["max_grad_norm"]),
            exact(each["steps_per_round"]),
            exact(each["metric_noise"]),
            f"{each['runs']:,}",
        )
        for each in mechanism["settings"]
    ]
    head = ("noise_multiplier#", "sampling_rate#", "max_grad_norm#", "steps_per_round#", "metric_noise#", "runs#")
    accountants = [
        (
            each["figure"],
            join(each["accountant"], f", orders {', '.join(map(str, each['orders']))}" if each["orders"] else ""),
            each["implementation"],
            each["in_words"],
        )
        for each in given["accountants"]
    ]
    return join(
        facts(
            [
                ("unit of privacy", join(tag("b", given["unit"]["name"]), ". ", given["unit"]["in_words"])),
                ("adjacency", join(tag("b", given["adjacency"]["name"]), ". ", given["adjacency"]["in_words"])),
                ("flavor", given["flavor"]),
                ("deployment model", given["deployment_model"]),
            ]
        ),
        tag("h3", f"Mechanism as implemented: {mechanism['name']}, {mechanism['sampler']} sampling"),
        listed(mechanism["in_words"]),
        long_table(head, settings),
        tag("h3", "Accountants"),
        table(("figure", "accountant", "implementation", "meaning"), accountants),
    )


def trust(report: Json) -> Html:
    """Who sees what, and whom to trust."""
    model = report["trust_model"]
    sealing = [
        (
            each["run"],
            tree(each["mode"]),
            str(len(each["members"])),
            tree(each["threshold"]),
            tree(each["colluders"]),
            tree(each["min_honest"]),
            f"permit {tree(each['permit_serial'])}, roster {tree(each['roster_version'])}",
        )
        for each in model["sealing"]
    ]
    head = ("run", "mode", "members#", "threshold#", "colluders#", "min_honest#", "signed")
    bare = model["runs_without_roster"]
    return join(
        table(("who", "sees"), [(each["who"], each["sees"]) for each in model["who_sees_what"]]),
        tag("h3", "Secure aggregation"),
        long_table(head, sealing)
        if sealing
        else tag("p", "The bundle holds no roster: nothing shows that sums were sealed."),
        tag(
            "p",
            "The threshold is how many members must answer before a sum opens, for a round of the whole roster. The "
            "coordinator and up to ",
            code("colluders"),
            " of them together see no sum over fewer than ",
            code("min_honest"),
            " others in a round.",
            class_="small muted",
        ),
        tag("p", f"Without a roster, so perhaps in clear: {_names(bare)}.") if bare else "",
        tag("h3", "Assumed honest"),
        listed(model["assumed_honest"]),
        tag("p", f"Witnesses in the bundle: {_names(model['witnesses']) or 'none'}."),
    )


def released(report: Json) -> Html:
    """Everything that left a department's machine."""
    rows = [
        (
            each["what"],
            "always" if each["count"] is None else f"{each['count']:,}",
            tag("span", each["protection"], class_=f"flag {'good' if each['protection'] == 'accounted' else 'warn'}"),
            each["note"],
        )
        for each in report["released"]
    ]
    return table(("what", "how often#", "protection", "note"), rows)


def touches(report: Json) -> Html:
    """What else was done with private data."""
    found = report["data_touches"]
    tables = (
        ("Runs without privacy", ("data set", "run", "time"), ("where", "run", "time"), found["overrides"]),
        (
            "Open reservations, counted in full",
            ("data set", "run", "since"),
            ("where", "run", "since"),
            found["open_reservations"],
        ),
        (
            "Rounds abandoned by a department; they give nothing back",
            ("data set", "run", "reason", "rounds#"),
            ("where", "run", "reason", "rounds"),
            found["abandoned_rounds"],
        ),
        (
            "Runs that released fewer rounds than they had reserved",
            ("data set", "run", "reserved#", "released#"),
            ("where", "run", "rounds_reserved", "rounds_released"),
            found["runs_short_of_their_reservation"],
        ),
    )
    shown_ = [
        join(tag("h3", title), long_table(head, [[str(row[key]) for key in keys] for row in rows]))
        for title, head, keys, rows in tables
        if rows
    ]
    none = tag("p", "No override, no open reservation, no abandoned round, no run short of its reservation.")
    versions = (
        f"New versions of a registered data set: {found['new_versions']:,}. Each goes on spending the same budget."
    )
    return join(shown_ or none, tag("p", versions), tag("p", found["tuning"]))


def empirical(report: Json) -> Html:
    """What trying the software on canaries found."""
    found = report["empirical_audit"]
    if not found:
        return tag(
            "p",
            "No empirical audit was handed in. Run ",
            code("confide audit test --json audit.json"),
            " on the machines that trained: without it, that noise is really added rests on trust.",
        )
    methods = found.get("methods")
    rows = []
    for each in methods if isinstance(methods, list) else []:
        if isinstance(each, dict):
            cases = [case for case in each.get("cases") or [] if isinstance(case, dict)]
            passed = sum(case.get("verdict") == "CONSISTENT" for case in cases)
            one_run = each.get("one_run")
            bound = one_run if isinstance(one_run, dict) else {}
            rows.append(
                (
                    each.get("method"),
                    each.get("verdict"),
                    f"{passed} of {len(cases)} consistent",
                    tree(bound.get("epsilon")),
                    tree(bound.get("claimed")),
                    tree(each.get("problem")),
                )
            )
    head = ("method", "verdict", "conformance cases", "epsilon at least#", "epsilon claimed#", "problem")
    rest = {key: value for key, value in found.items() if key not in {"methods", "not_shown", "plans", "verdict"}}
    plans = found.get("plans")
    if isinstance(plans, dict):
        rest |= {f"plan of {name}": _in_line(plan) for name, plan in plans.items()}
    return join(
        tag(
            "p",
            "Verdict: ",
            tag("b", str(found.get("verdict", "not stated"))),
            ". FAIL refutes the claims; CONSISTENT says that nothing was found, never that privacy is proven.",
        ),
        table(head, rows) if rows else "",
        tag("h4", "What it cannot show") if found.get("not_shown") else "",
        listed(map(str, found["not_shown"])) if isinstance(found.get("not_shown"), list) else "",
        tag("h4", "Settings"),
        tree(rest),
    )


def policies(report: Json) -> Html:
    """Every policy in full."""
    parts = []
    for each in report["policies"]:
        where = [
            f"{at['department']}, from {at['from']} (entry {at['seq']}) until {at['until'] or 'the end'}"
            for at in each["in_force"]
        ]
        text = Html(escape(shown(each["text"], 70_000)))
        parts.append(
            tag(
                "article",
                tag("h3", "Policy ", code(each["digest"])),
                listed(where or ["in force nowhere"]),
                tag("p", f"Cannot be used: {each['problem']}", class_="bad") if each["problem"] else "",
                tag("pre", text),
            )
        )
    return join(parts or tag("p", "There is no policy in the bundle."))


def verification(report: Json) -> Html:
    """How the reader checks this report."""
    steps = [tag("li", each["what"], tag("pre", each["command"], class_="command")) for each in report["verification"]]
    ledgers = [
        (each["department"], code(each["origin"]), code(each["key"]), f"{each['entries']:,}", tree(each["witnessed"]))
        for each in report["ledgers"]
    ]
    return join(
        tag(
            "p",
            "BUNDLE is the folder of the evidence. None of this needs a network, or trust in whoever printed the page.",
        ),
        tag("ol", steps),
        tag("p", "Compare these keys with what each department reads to you: they are who signed."),
        table(("department", "ledger", "key", "entries#", "witnessed#"), ledgers),
    )


def not_proven(report: Json) -> Html:
    """Where the evidence ends."""
    problems = report["verdict"]["problems"]
    return join(
        listed(report["not_proven"]) if report["not_proven"] else tag("p", "The verdict names nothing."),
        tag("h3", "What the figures do not say"),
        listed(report["limits"]),
        join(tag("h3", "All problems that were found"), listed(map(problem, problems[:_MOST_PROBLEMS])))
        if problems
        else "",
    )


def standards(report: Json) -> Html:
    """Where the terms of the standards are."""
    rows = [(each["standard"], each["term"], each["section"]) for each in report["standards"]]
    note = "A concordance for readers who know these documents; it claims no certification by any of them."
    return join(tag("p", note), table(("document", "its term", "here"), rows))


SECTIONS: Final[Sequence[tuple[str, Callable[[Json], Html]]]] = (
    ("Departments", departments),
    ("Models and runs", models),
    ("Guarantee", guarantee),
    ("Trust model", trust),
    ("Released", released),
    ("Other data touches", touches),
    ("Empirical audit", empirical),
    ("Policies", policies),
    ("How to verify", verification),
    ("What is not proven", not_proven),
    ("Terms of standards", standards),
)
NOT_PROVEN: Final = 1 + [draw for _, draw in SECTIONS].index(not_proven)


def problem(found: object) -> Html:
    """Return one of the verdict's problems as a line."""
    if not isinstance(found, Mapping):
        return join(found)
    place = (
        f"{found.get('file', 'bundle')}, entry {found['seq']}" if found.get("seq") is not None else found.get("file")
    )
    return join(tag("b", place or "bundle"), ": ", found.get("what", ""), f" ({found.get('severity', '')})")


def _model(each: Json) -> Html:
    """One model."""
    privacy, made = each["privacy"], each["curators"]
    private = privacy.get("statement") or "not stated"
    curators = [(part["department"], code(part["origin"]), tree(part["size"]), _span(part["rounds"])) for part in made]
    return tag(
        "article",
        tag("h3", str(each["name"] or each["run"])),
        facts(
            [
                ("run", each["run"]),
                ("intended use", each["description"] or "not stated"),
                ("published", each["created"] or "not stated"),
                ("privacy", private if private == "private" else tag("b", str(private), class_="warn")),
                ("model", f"{tree(each['model'])}, {tree(each['rounds'])} rounds; {tree(each['task'])}"),
                ("hyper-parameters", tree(each["hyperparameters"])),
                ("utility", tree(each["utility"]) if each["utility"] else "not in the evidence"),
                ("public data and schema", tree(each["public_data"])),
                ("weights, SHA-256", code(each["weights_sha256"])),
                ("agreement, digest", code(each["spec_digest"])),
                ("software", tree(each["versions"])),
            ]
        ),
        table(("curator", "ledger", "size witnessed#", "rounds in the model"), curators)
        if curators
        else tag("p", "The manifest names no ledger: nothing ties this model to what was spent.", class_="bad"),
    )


def _in_line(fields: object) -> str:
    """Names and values one after the other."""
    pairs = fields.items() if isinstance(fields, dict) else ()
    return ", ".join(f"{name} {tree(value)}" for name, value in pairs)


def _span(rounds: object) -> str:
    """Round numbers, as ranges."""
    if not isinstance(rounds, list) or not all(type(each) is int for each in rounds):
        return str(tree(rounds))
    found: list[list[int]] = []
    for each in sorted(set(rounds)):
        if found and each == found[-1][1] + 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    return ", ".join(f"{low}–{high}" if high > low else str(low) for low, high in found) or "none"  # noqa: RUF001 - a dash


def _names(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)
