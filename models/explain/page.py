"""Texts with their words coloured by what each adds: one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

from html import escape
from typing import Final

from models.explain.explanation import METHOD, Attributed, Explanation
from models.explain.pictures import plain, summary

_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Explanation</title>
<style>
body { font: 16px/1.7 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #1a202c }
h2 { font-size: 1rem; margin: 2rem 0 .3rem } .note { color: #4a5568; font-size: .85rem }
.text span { padding: .1rem .2rem; border-radius: .2rem } td { padding: .1rem .8rem .1rem 0 }
</style></head><body>
<h1>What each word adds</h1>
"""
_FOR: Final = "197,48,48"
_AGAINST: Final = "43,108,176"
_LISTED: Final = 25


def page(explanation: Explanation) -> str:
    """Return the page; every text in it is escaped.

    A word's colour is red where it speaks for the class (or raises the value) and blue where it speaks
    against, the stronger the more; pointing at it shows the number.
    """
    more = f" {explanation.left_out} further records were not explained." if explanation.left_out else ""
    parts = [
        _HEAD,
        f'<p class="note">Red speaks for the prediction, blue against it; in {escape(explanation.unit)}. '
        f"Method: {escape(METHOD)}. Measured against {escape(explanation.baseline)}.{more}</p>\n",
        *(_record(record) for record in explanation.records),
    ]
    overall = explanation.overall
    rows = overall.parts if isinstance(overall.parts, dict) else {}
    parts.append(
        "<h2>What matters overall</h2>\n"
        f'<p class="note">Mean absolute attribution over {overall.records} records: {escape(overall.origin)}.</p>\n'
        "<table>\n"
    )
    parts += [
        f"<tr><td><bdi>{escape(plain(word))}</bdi></td><td>{value:.3g}</td></tr>\n"
        for word, value in list(rows.items())[:_LISTED]
    ]
    return "".join([*parts, "</table>\n</body></html>\n"])


def _record(record: Attributed) -> str:
    """Return one text."""
    weights = [] if record.weights is None else record.weights.tolist()
    most = max(map(abs, weights), default=0.0) or 1.0
    # Each word is isolated, so that marks of writing direction in one cannot move the others.
    words = " ".join(
        f'<bdi><span style="background:rgba({_FOR if weight > 0 else _AGAINST},{0.7 * abs(weight) / most:.2f})" '
        f'title="{weight:+.3g}">{escape(word)}</span></bdi>'
        for word, weight in zip(record.words, weights, strict=True)
    )
    missed = "" if record.complete else f" The words miss the difference by {record.residual:.2g}."
    return (
        f"<h2>Record {record.record}: {escape(summary(record))}</h2>\n"
        f'<p class="text" dir="auto">{words}</p>\n'
        f'<p class="note">{record.score:.3g}, against {record.baseline_score:.3g} without a word.{missed}</p>\n'
    )
