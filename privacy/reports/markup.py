"""HTML that cannot be injected into: text is escaped unless a tag of ours made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

_VOID: Final = frozenset({"meta", "br", "hr"})
_LONGEST: Final = 2_000
_DEEPEST: Final = 5
_MOST_ITEMS: Final = 60
_MOST_ROWS: Final = 60


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def shown(text: object, most: int = _LONGEST) -> str:
    """Return a text as people may safely read it: what is invisible or turns the line around is spelt out."""
    cut = str(text)
    cut = cut if len(cut) <= most else f"{cut[:most]}… ({len(cut)} characters)"
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{{{ord(c):x}}}" for c in cut)


def tag(name: str, /, *inside: object, **attributes: object) -> Html:
    """Return an element. An attribute's ``_`` stands for ``-``; one ``_`` at its end is dropped; None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(shown(value, 100_000))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*inside)}</{name}>")


def join(*parts: object) -> Html:
    """Return parts one after the other: HTML as it is, iterables of parts joined, anything else as escaped text."""
    return Html("".join(map(_one, parts)))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str = "") -> Html:
    """Return a table; a head that ends in ``#`` is of a column of numbers."""
    numeric = [str(each).endswith("#") for each in head]
    kinds = ["n" if each else None for each in numeric]
    titles = [each if isinstance(each, Html) else str(each).removesuffix("#") for each in head]
    return tag(
        "table",
        tag("thead", tag("tr", [tag("th", t, scope="col", class_=k) for t, k in zip(titles, kinds, strict=True)])),
        tag("tbody", [tag("tr", [tag("td", c, class_=k) for c, k in zip(r, kinds, strict=True)]) for r in rows]),
        class_=class_ or None,
    )


def long_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """Return a table of the first and the newest rows, where there are very many."""
    if len(rows) <= _MOST_ROWS:
        return table(head, rows)
    half = _MOST_ROWS // 2
    gap = [f"… {len(rows) - 2 * half:,} more, in the report's JSON", *[""] * (len(head) - 1)]
    return table(head, [*rows[:half], gap, *rows[-half:]])


def facts(rows: Iterable[tuple[object, object]]) -> Html:
    """Return a list of names and values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows])


def listed(items: Iterable[object]) -> Html:
    """Return a bulleted list."""
    return tag("ul", [tag("li", item) for item in items])


def tree(value: Any, depth: int = 0) -> object:
    """Return any JSON value as lists of names and values, cut where it is deep or long."""
    if isinstance(value, dict) and value:
        if depth >= _DEEPEST:
            return "…"
        items = list(value.items())
        rows = [(str(name).replace("_", " "), tree(inner, depth + 1)) for name, inner in items[:_MOST_ITEMS]]
        return facts([*rows, *([("…", f"{len(items) - _MOST_ITEMS} more")] if len(items) > _MOST_ITEMS else [])])
    if isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        cut = [tree(each, depth + 1) for each in value[:_MOST_ITEMS]]
        return tag("ol", [tag("li", each) for each in cut]) if depth < _DEEPEST else "…"
    if isinstance(value, list):
        return ", ".join(str(tree(each, depth)) for each in value[:_MOST_ITEMS]) or "none"
    return _word(value)


def loss(value: float | None) -> str:
    """Return an epsilon rounded up, so that none is shown smaller than it is; "unbounded" for None."""
    if value is None:
        return "unbounded"
    digits = 2 if value >= 0.1 or value == 0 else 4
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:,.{digits}f}" if value < 1e6 else f"{value:.3g}"


def left(value: float | None) -> str:
    """Return what remains of a budget, rounded down."""
    return "none" if value is None else f"{math.floor(value * 100) / 100:,.2f}"


def exact(value: float | None) -> str:
    """Return a setting as it was given."""
    return "none" if value is None else f"{value:g}"


def percent(value: float) -> str:
    """Return a share rounded up to a tenth of a per cent."""
    return f"{math.ceil(1000 * value - 1e-9) / 10:g}%"


def code(text: object) -> Html:
    """Return a digest or another machine's word."""
    return tag("code", shown(text) if text not in (None, "") else "none")


def _word(value: object) -> str:
    """A scalar."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "", {}) else str(value)


def _one(part: object) -> str:
    """One part as HTML."""
    if isinstance(part, Html):
        return part
    if isinstance(part, Iterable) and not isinstance(part, str):
        return "".join(map(_one, part))
    return escape(shown(part))
