"""The report as one HTML file: no script, nothing to fetch, made to be printed on A4 and signed.

Names in a bundle are hostile text. Everything goes through ``reports.markup``, which escapes what it has not made
itself; the page's own policy forbids scripts and resources besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from privacy.reports import pages
from privacy.reports.markup import Html, code, join, left, listed, loss, percent, shown, table, tag
from privacy.reports.pages import SECTIONS
from privacy.reports.plots import bar
from privacy.reports.style import STYLE

Json = Mapping[str, Any]

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_SIGNS: Final = {"pass": "✓", "violation": "✕", "incomplete": "?"}
_FLAGS: Final = {"within": "", "over": "over its cap", "unbounded": "unbounded"}
_MOST_PROBLEMS: Final = 8


def html(report: Json) -> str:
    """Return the page of a report of :func:`privacy.report.build`."""
    mark = shown(report["bundle"]["digest"])[:16]
    corners = f"@bottom-left{{content:'Evidence {mark}…'}}@bottom-right{{content:counter(page) ' / ' counter(pages)}}"
    parts = [tag("section", tag("h2", f"{n} · {name}"), draw(report), id=f"s{n}") for n, (name, draw) in _numbered()]
    document = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", f"Privacy audit report: {report['verdict']['verdict']}"),
            tag("style", Html(f"{STYLE}@page{{{corners}}}")),
        ),
        tag("body", tag("main", tag("header", _cover(report), class_="cover"), parts, _sign_off(report))),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{document}\n"


def _numbered() -> list[tuple[int, tuple[str, Any]]]:
    """Sections with their numbers."""
    return list(enumerate(SECTIONS, 1))


def _cover(report: Json) -> Html:
    """What somebody learns in half a minute."""
    summary, verdict = report["summary"], report["verdict"]
    counts = [(summary[key], key) for key in ("departments", "datasets", "runs", "models")]
    words = {"datasets": "data sets"}
    return join(
        tag("p", "Confide", class_="kicker"),
        tag("h1", "Differential privacy audit report"),
        tag(
            "p",
            f"Evidence of {report['bundle']['created'] or 'unknown date'}, SHA-256 ",
            code(report["bundle"]["digest"]),
            class_="small muted",
        ),
        _verdict(verdict),
        tag(
            "ul", [tag("li", tag("b", f"{n:,}"), _plural(n, words.get(key, key))) for n, key in counts], class_="counts"
        ),
        _spent(report),
        tag("div", tag("h3", "In plain words"), listed(_plainly(report)), class_="plain"),
        tag(
            "nav",
            tag("h3", "Contents"),
            tag("ol", [tag("li", tag("a", name, href=f"#s{n}")) for n, (name, _) in _numbered()]),
        ),
    )


def _verdict(verdict: Json) -> Html:
    """The verdict, and under it whatever was found against it."""
    found, problems = verdict["verdict"], verdict["problems"]
    banner = tag(
        "div",
        tag("span", _SIGNS[found], class_="sign", aria_hidden="true"),
        tag("div", tag("strong", found.upper()), tag("span", verdict["in_words"])),
        class_=f"verdict {found}",
        role="status",
    )
    named: list[object] = [pages.problem(each) for each in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        named.append(f"and {len(problems) - _MOST_PROBLEMS:,} more, under “What is not proven”")
    named += [
        f"{file}: {count:,} lines could not be read and are in no figure of this report"
        for file, count in verdict["unreadable_lines"].items()
    ]
    return join(banner, tag("div", listed(named), class_="problems") if named else "")


def _spent(report: Json) -> Html:
    """One row a data set: what was spent of what."""
    rows = []
    for each in report["datasets"]:
        spent, budget, reading = each["spent"], each["budget"], each["reading"]
        flags = [flag for flag in (_FLAGS[each["state"]], "cap raised" if budget["cap_raised"] else "") if flag]
        if spent["open_reservations"]:
            flags.append("run open")
        rows.append(
            [
                each["department"],
                join(each["dataset"], " ", [tag("span", flag, class_=f"flag {_tone(flag)}") for flag in flags]),
                tag("b", loss(spent["enforced_epsilon"]), class_="bad" if each["state"] != "within" else None),
                "none" if budget["cap"] is None else f"{budget['cap']:g}",
                bar(spent["enforced_epsilon"], budget["cap"]),
                left(budget["remaining"]),
                "no bound" if reading is None else percent(reading["tpr_at_1pct_fpr"]),
            ]
        )
    head = ("department", "data set", "spent ε#", "cap ε#", "spent of cap", "left ε#", "recognised*#")
    note = (
        "* At most this share of the used records can be recognised as used, if 1 accusation in 100 may be false "
        "(guessing: 1%). δ of each figure is in section 1."
    )
    return join(tag("div", table(head, rows), class_="scroll"), tag("p", note, class_="small muted"))


def _plainly(report: Json) -> list[object]:
    """The first page's sentences."""
    summary, found = report["summary"], report["verdict"]["verdict"]
    everywhere = summary["person_in_all"]["epsilon"]
    said: list[object] = []
    if summary["unbounded"]:
        said.append(
            f"Trained without privacy on {'; '.join(summary['unbounded'])}: "
            "there epsilon is unbounded, and no cap holds."
        )
    if summary["over_cap"]:
        said.append(f"More was spent than the cap now in force allows: {'; '.join(summary['over_cap'])}.")
    for late, when in ((True, "when results of earlier runs could be known"), (False, "before anything was released")):
        raised = [
            f"{each['department']} / {each['dataset']}"
            for each in report["datasets"]
            if each["budget"]["cap_raised"] and each["budget"]["raised_after_results"] is late
        ]
        if raised:
            said.append(f"A cap was raised {when}: {'; '.join(raised)}. The largest cap ever signed is what counts.")
    if found == "pass" and not said:
        said.append("Each department set a cap on what any one of its records may reveal, and no cap was ever passed.")
    said.append(
        "Epsilon (ε) bounds what anybody can learn about one record from everything that left the department's "
        "machine. Small is private: at 0 nothing can be learnt."
    )
    if summary["datasets"] > 1:
        whole = "unbounded" if everywhere is None else f"at most ε = {loss(everywhere)}"
        said.append(f"A person with one record in every data set above pays in each: {whole} in all.")
    unproven = tag("a", "what is not proven", href=f"#s{pages.NOT_PROVEN}")
    return [*said, join("This report also says ", unproven, ", and differential privacy is not “anonymous” in law.")]


def _sign_off(report: Json) -> Html:
    """Lines for an auditor's hand."""
    return tag(
        "section",
        tag("h2", "Sign-off"),
        tag(
            "p",
            "I recomputed the verdict from the evidence with SHA-256 ",
            code(report["bundle"]["digest"]),
            ", compared the "
            "ledgers' keys with those that the departments read to me, and read sections 1 to "
            f"{len(SECTIONS)}.",
        ),
        tag(
            "div",
            [tag("div", label) for label in ("name", "organisation", "place and date", "signature")],
            class_="signoff",
        ),
        id="sign-off",
    )


def _tone(flag: str) -> str:
    """How loud a flag is."""
    return "bad" if flag in {"unbounded", "over its cap"} else "warn"


def _plural(count: int, word: str) -> str:
    """``1 department``, ``2 departments``."""
    return word.removesuffix("s") if count == 1 else word
