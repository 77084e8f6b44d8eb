"""The printed report: well-formed, safe whatever names say, and it says what matters on top."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import Department, mechanism, write
from report_cases import department, federation, model, naked, policy_text, row, train, verdict

from privacy import groups
from privacy.report import build
from privacy.report_html import html
from privacy.reports import markup, plots
from privacy.reports.pages import NOT_PROVEN, SECTIONS

EVIL = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u202egnp\x00\n"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "nav"),
    *(
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "div",
        "span",
        "b",
        "strong",
        "a",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "code",
        "pre",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "time", "figure", "figcaption"),
    *("svg", "path", "rect", "text"),
}
ATTRIBUTES = {
    *("class", "id", "lang", "charset", "name", "content", "http-equiv", "href", "scope", "role", "aria-hidden"),
    *("viewbox", "d", "x", "y", "width", "height", "fill", "stroke", "stroke-width", "stroke-dasharray"),
    *("text-anchor", "font-weight"),
}


@pytest.fixture(autouse=True)
def quick_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups have tests of their own and take seconds."""
    monkeypatch.setattr(groups, "group_epsilon", lambda mechanisms, delta, k: 2.5 * k)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


class Page(HTMLParser):
    """A page taken apart; complains of whatever is not closed, not known or not ours."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)
        assert {link.removeprefix("#") for link in self.links} <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "id":
                self.ids.append(str(value))
            if name == "href":
                assert str(value).startswith("#")
                self.links.append(str(value))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(report: dict[str, Any]) -> Page:
    """The page of a report, after the checks that hold for all."""
    text = html(report)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    text.encode()
    assert not re.search(r"url\(|@import|https?:|javascript:|<script|<img|<link|<iframe", text)
    assert "default-src &#x27;none&#x27;" in text
    return Page(text)


def test_the_first_page_of_a_federation(bundle: Path) -> None:
    found = page(build(bundle, federation(bundle)))
    cover = found.text.partition("1 · Departments")[0]
    assert "PASS Every cap held" in cover
    assert "3 departments 3 data sets 3 runs 3 models" in cover
    for name in ("north", "south", "west"):
        assert f"{name} claims" in cover
    assert "3.35 8" in cover
    assert "4.65" in cover
    assert "A cap was raised when results of earlier runs could be known: south / claims." in cover
    assert "at most ε = 9.99 in all" in cover
    assert f"s{NOT_PROVEN}" in found.ids


def test_every_section_is_there(bundle: Path) -> None:
    found = page(build(bundle, federation(bundle), {"verdict": "CONSISTENT", "methods": [{"method": "hooks"}, 3]}))
    for number, (name, _) in enumerate(SECTIONS, 1):
        assert f"{number} · {name}" in found.text
    for words in (
        "zero-out",
        "Rényi filter",
        "riskcal",
        "noise_multiplier",
        "min_honest",
        "data-unusable",
        "accuracy 0.871",
        "2 records: 5.00; 5 records: 12.50",
        "CONSISTENT",
        "python privacy/verify.py BUNDLE --json",
        'lifetime = { epsilon = "4", delta = "1e-6" }',
        "not “anonymous” in law",
        "ISO/IEC 27559:2022",
        "signature",
    ):
        assert words in found.text, words
    assert found.counts["svg"] == 3 * 3  # a bar and two pictures a data set


def test_a_violation_is_on_top(bundle: Path) -> None:
    judged = federation(bundle) | verdict([], "violation", tuple(f"problem {n}" for n in range(300)))
    found = page(build(bundle, judged))
    cover = found.text.partition("1 · Departments")[0]
    assert cover.index("VIOLATION") < cover.index("problem 0") < cover.index("spent ε")
    assert "Do not rely on any figure below" in cover
    assert "and 292 more" in cover
    assert "no cap was ever passed" not in cover
    assert "problem 199" in found.text


def test_incomplete_evidence_says_so(bundle: Path) -> None:
    found = page(build(bundle, federation(bundle) | verdict([], "incomplete", ("no witness",))))
    assert "INCOMPLETE" in found.text
    assert "no cap was ever passed" not in found.text


def test_an_override_is_said_in_words(bundle: Path) -> None:
    made = department("claims")
    train(made, "one")
    naked(made, "naked")
    bare = model("naked", made, privacy={"mode": "off", "statement": "trained WITHOUT privacy"})
    judged = verdict([row(made, "claims", None, None, overrides=1)], "violation", ("overridden",))
    found = page(build(write(bundle, made, models={"naked": bare}), judged))
    cover = found.text.partition("1 · Departments")[0]
    assert "Trained without privacy on north / claims: there epsilon is unbounded" in cover
    assert "no bound" in cover
    assert "unbounded: a run without privacy" in found.text
    assert "Nothing bounds what an attacker can tell" in found.text
    assert "trained WITHOUT privacy" in found.text


def test_hostile_names_stay_names(bundle: Path) -> None:
    made = Department(EVIL)
    made.slug = "evil"
    made.genesis()
    made.policy(policy_text("claims"))
    made.dataset("claims")
    made.dataset(EVIL)
    train(made, EVIL, EVIL, rounds=3)
    made.append("abandon", "abandon", {"round": "1", "reason": EVIL}, dataset=EVIL, run=EVIL)
    evil: dict[str, Any] = dict.fromkeys(("name", "description", "model", "created", "rounds", "weights_sha256"), EVIL)
    evil |= {"data": {EVIL: [EVIL, {EVIL: EVIL}]}, "privacy": {"statement": EVIL}, "metrics": {EVIL: EVIL}}
    write(bundle, made, models={"run": model("run", made) | evil})
    (bundle / "policies" / f"{'0' * 64}.toml").write_text(EVIL)
    judged = verdict([row(made, EVIL, 1.0, 1.0)], "violation", (EVIL,)) | {"not_proven": [EVIL]}
    found = page(build(bundle, judged, {EVIL: EVIL, "verdict": EVIL, "not_shown": [EVIL]}))
    assert found.text.count("<script>alert(1)</script>") > 20
    assert "\u202e" not in found.text
    assert "\\u{202e}gnp\\u{0}" in found.text


def test_an_empty_bundle_prints(bundle: Path) -> None:
    found = page(build(write(bundle), verdict([], "incomplete")))
    assert "There is no ledger in the bundle" in found.text


def test_large_counts_stay_small(bundle: Path) -> None:
    made = department("claims")
    for number in range(1_000):
        about = {"dataset": "claims", "run": f"run-{number}", "mechanism": mechanism()}
        made.append("reserve", "reserve", {}, **about)
        made.append("settle", "settle", {}, **about)
    report = build(write(bundle, made), verdict([]))
    assert len(report["datasets"][0]["runs"]) == 1_000
    assert len(html(report)) < 150_000
    found = page(report)
    assert "more, in the report's JSON" in found.text
    assert "1,000 runs" in found.text


def test_twenty_departments_stay_below_a_megabyte(bundle: Path) -> None:
    report = build(bundle, federation(bundle, tuple(f"department-{n}" for n in range(20)), runs=1))
    assert len(html(report).encode()) < 500_000
    page(report)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "unbounded"), (0.0, "0.00"), (3.001, "3.01"), (3.0, "3.00"), (0.00001, "0.0001"), (12345.6, "12,345.60")],
)
def test_losses_are_rounded_up(value: float | None, expected: str) -> None:
    assert markup.loss(value) == expected


def test_what_is_left_is_rounded_down() -> None:
    assert markup.left(0.999) == "0.99"


def test_trees_are_cut() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {"a": [deep]}
    assert len(markup.join(markup.tree(deep))) < 1_000
    assert "40 more" in markup.join(markup.tree({str(n): n for n in range(100)}))


def point(time: str, epsilon: float | None, cap: float | None, event: str = "settle") -> dict[str, Any]:
    return {"time": f"2026-03-{time}Z", "epsilon": epsilon, "cap": cap, "event": event, "run": "r"}


@pytest.mark.parametrize(
    "history",
    [
        [],
        [point("01T00:00:00", 0.0, None)],
        [point("01T00:00:00", None, 8.0), point("01T00:00:00", None, 8.0)],
        [point("05T00:00:00", 1.0, 8.0), point("01T00:00:00", 1e300, 1e-9)],
    ],
)
def test_pictures_of_odd_histories(history: list[dict[str, Any]]) -> None:
    picture = plots.budget(history, ["r"])
    assert "nan" not in picture
    assert "inf" not in picture
    Page(picture)


def test_the_step_curve_keeps_its_heights() -> None:
    points = [(index / 100, float(-index % 7)) for index in range(5_000)]
    kept = plots._steps(points)
    assert len(kept) <= 2 * 51
    assert min(y for _, y in kept) == min(y for _, y in points)
    assert kept[-1] == points[-1]


@pytest.mark.parametrize(("spent", "cap"), [(None, 8.0), (1.0, None), (9e9, 1.0), (0.0, 8.0)])
def test_bars(spent: float | None, cap: float | None) -> None:
    Page(plots.bar(spent, cap))
