"""A report's two pictures, as inline SVG: what was spent against the cap, and what an attacker can achieve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from privacy.canonical import unix
from privacy.reports.markup import Html, join, loss, percent, shown, tag

INK, MUTED, RULE, BLUE, PALE, RED = "#1b2733", "#5d6b7a", "#d5dce3", "#1d5fa7", "#dbe8f6", "#b42318"
ROSE: Final = "#fbe9e7"
_WIDE, _HIGH, _SQUARE = 560, 214, 214
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 50, 20, 24
_MOST_NUMBERED = 16
_LABEL_HEIGHT = 11

Json = dict[str, Any]


def bar(spent: float | None, cap: float | None) -> Html:
    """Return a bar of what was spent, with a mark at the cap."""
    wide, high = 120, 12
    full = cap if cap is not None and cap > 0 else None
    if full is None:
        return tag("span", "no cap", class_="muted")
    share = 1.25 if spent is None else min(spent / full, 1.25)
    color = RED if spent is None or spent > full else BLUE
    return _svg(
        wide,
        high,
        "unbounded" if spent is None else f"{percent(spent / full)} of the cap",
        _box(0, 2, 96, 8, fill=PALE),
        _box(0, 2, 96 * share, 8, fill=color),
        _line(96, 0, 96, 12, stroke=INK, stroke_width=1.5),
        class_="bar",
    )


def budget(history: Sequence[Json], runs: Sequence[str]) -> Html:
    """Return the enforced epsilon after every entry as a step curve, below the lifetime cap then in force.

    Args:
        history: points with ``time``, ``event``, ``run``, ``epsilon`` (None: unbounded) and ``cap`` (None: denied).
        runs: the runs in the order of the table beside it; a reservation is marked with its run's number there.
    """
    if not history:
        return tag("p", "No entry of this data set could be read.", class_="muted")
    times = _spread([unix(point["time"]) for point in history])
    values = [point["epsilon"] for point in history if point["epsilon"] is not None]
    caps = [point["cap"] for point in history if point["cap"] is not None]
    step = _nice(max([*values, *caps, 0.1]) * 1.08 / 4)
    top: float = step * math.ceil(max([*values, *caps, 0.1]) * 1.04 / step)
    start = min(times)
    end = max(times) + max(0.07 * (max(times) - start), 1e-3)

    def x(time: float) -> float:
        return _LEFT + (time - start) / (end - start) * (_WIDE - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HIGH - _BOTTOM - value / top * (_HIGH - _TOP - _BOTTOM)

    spent = _steps([(x(t), y(p["epsilon"])) for t, p in zip(times, history, strict=True) if p["epsilon"] is not None])
    unbounded = next((t for t, p in zip(times, history, strict=True) if p["epsilon"] is None), None)
    stop = x(end) if unbounded is None else x(unbounded)
    limit = _steps([(x(t), y(p["cap"])) for t, p in zip(times, history, strict=True) if p["cap"] is not None])
    # Where the curve ends at the cap, their labels would lie on each other.
    meet = bool(spent and limit) and abs(spent[-1][1] - limit[-1][1]) < _LABEL_HEIGHT
    below, above = (10, -5) if meet else (3, 3)
    parts: list[Html | str] = [_grid(step, top, y), *_dates(start, end, x, [point["time"] for point in history])]
    if spent:
        curve = _stairs([*spent, (stop, spent[-1][1])])
        floor = y(0)
        parts += [
            tag("path", d=f"{curve}V{floor:.1f}H{spent[0][0]:.1f}Z", fill=PALE),
            tag("path", d=curve, fill="none", stroke=BLUE, stroke_width=1.8),
            _word(x(end) + 4, spent[-1][1] + below, loss(values[-1]), fill=BLUE, font_weight=600)
            if unbounded is None
            else "",
        ]
    if unbounded is not None:
        parts += [
            _box(stop, _TOP, x(end) - stop, y(0) - _TOP, fill=ROSE),
            _line(stop, _TOP, stop, y(0), stroke=RED, stroke_width=1.5),
            _word(x(end), _TOP - 6, "unbounded: a run without privacy", fill=RED, font_weight=600, text_anchor="end"),
        ]
    if limit:
        parts += [
            tag(
                "path",
                d=_stairs([*limit, (x(end), limit[-1][1])]),
                fill="none",
                stroke=RED,
                stroke_width=1.4,
                stroke_dasharray="5 3",
            ),
            _word(x(end) + 4, limit[-1][1] + above, f"cap {caps[-1]:g}", fill=RED),
        ]
    parts += _marks(history, times, runs, x, y)
    return _svg(_WIDE, _HIGH, "enforced epsilon against the lifetime cap, over time", *parts)


def trade_off(curve: Sequence[Sequence[float]]) -> Html:
    """Return the largest true positive rate at each false positive rate, with guessing as the diagonal."""
    side = _SQUARE - _TOP - _BOTTOM - 6

    def x(rate: float) -> float:
        return _LEFT + 8 + rate * side

    def y(rate: float) -> float:
        return _SQUARE - _BOTTOM - 6 - rate * side

    points = [(x(0), y(0)), *((x(fpr), y(tpr)) for fpr, tpr in curve)]
    fpr, tpr = max(curve, key=lambda point: point[1] - point[0])
    ticks = (0.0, 0.5, 1.0)
    return _svg(
        _SQUARE + 22,
        _SQUARE,
        "share of used records recognised, against the share of false accusations",
        [_line(x(0), y(tick), x(1), y(tick), stroke=RULE) for tick in ticks],
        [_word(x(0) - 4, y(tick) + 3, f"{100 * tick:g}%", fill=MUTED, text_anchor="end") for tick in ticks],
        [_word(x(tick), y(0) + 12, f"{100 * tick:g}%", fill=MUTED, text_anchor="middle") for tick in ticks],
        tag("path", d=_path([*points, (x(1), y(1))]) + "Z", fill=PALE),
        _line(x(0), y(0), x(1), y(1), stroke=MUTED, stroke_dasharray="3 3"),
        tag("path", d=_path(points), fill="none", stroke=BLUE, stroke_width=1.8),
        _line(x(fpr), y(fpr), x(fpr), y(tpr), stroke=INK),
        _word(x(fpr) + 4, (y(fpr) + y(tpr)) / 2 + 3, f"+{percent(tpr - fpr)}", fill=INK, font_weight=600),
        _word(x(0.72), y(0.60), "guessing", fill=MUTED),
        _word(x(0), _TOP - 7, "recognised", fill=MUTED),
        _word(x(0.5), _SQUARE - 4, "false accusations", fill=MUTED, text_anchor="middle"),
    )


def _marks(history: Sequence[Json], times: Sequence[float], runs: Sequence[str], x: Any, y: Any) -> list[Html]:
    """Numbers at reservations, and triangles where a cap was raised."""
    numbers = {run: index for index, run in enumerate(runs, 1)}
    marks, before = [], None
    for time, point in zip(times, history, strict=True):
        epsilon, cap = point["epsilon"], point["cap"]
        if point["event"] == "reserve" and epsilon is not None and len(runs) <= _MOST_NUMBERED:
            label = str(numbers.get(point["run"], ""))
            marks.append(_word(x(time) + 3, y(epsilon) - 4, label, fill=BLUE))
        if before is not None and cap is not None and cap > before:
            marks.append(tag("path", d=f"M{x(time):.1f} {y(cap) - 7:.1f}l4.5 7h-9z", fill=RED))
            near, side = (-7, "end") if x(time) > 0.7 * _WIDE else (7, "start")
            marks.append(_word(x(time) + near, y(cap) - 3, f"raised from {before:g}", fill=RED, text_anchor=side))
        before = cap if cap is not None else before
    return marks


def _grid(step: float, top: float, y: Any) -> Html:
    """Horizontal rules and what they stand for."""
    ticks = [step * index for index in range(round(top / step) + 1)]
    rules = [_line(_LEFT, y(tick), _WIDE - _RIGHT, y(tick), stroke=RULE) for tick in ticks]
    return join(
        rules,
        [_word(_LEFT - 5, y(tick) + 3, f"{tick:g}", fill=MUTED, text_anchor="end") for tick in ticks],
        _word(_LEFT - 5, _TOP - 8, "ε", fill=MUTED, text_anchor="end"),
    )


def _dates(start: float, end: float, x: Any, real: Sequence[str]) -> list[Html]:
    """Four dates below the axis, as fine as the span needs; the first and last where all entries are of one second."""
    if len(set(real)) == 1:
        return [_word(x(start), _HIGH - 7, real[0], fill=MUTED)]
    span = end - start
    form = (
        "%b %Y" if span > 400 * 86_400 else "%d %b %Y" if span > 3 * 86_400 else "%H:%M" if span > 7_200 else "%H:%M:%S"
    )
    found = []
    for index in range(4):
        at = start + index / 3.2 * span
        found.append(
            _word(
                x(at),
                _HIGH - 7,
                datetime.fromtimestamp(at, UTC).strftime(form),
                fill=MUTED,
                text_anchor="middle" if index else "start",
            )
        )
    return found


def _spread(times: Sequence[int]) -> list[float]:
    """Times for the axis; entries that are all of one second are set apart evenly."""
    if max(times) > min(times):
        return [float(time) for time in times]
    return [times[0] + index / len(times) for index in range(len(times))]


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of a step curve, no more than two a pixel's column: its highest and its last."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(round(point[0]), []).append(point)
    kept = []
    for column in columns.values():
        highest = min(column, key=lambda point: point[1])
        kept += [highest, column[-1]] if highest is not column[-1] else [highest]
    return kept


def _stairs(points: Sequence[tuple[float, float]]) -> str:
    """Path data that goes along first, then up or down."""
    (x, y), rest = points[0], points[1:]
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Path data of straight lines."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _nice(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _svg(wide: float, high: float, label: str, *parts: object, class_: str | None = None) -> Html:
    """A picture of this size, named for those who cannot see it."""
    return tag("svg", tag("title", label), *parts, viewBox=f"0 0 {wide:g} {high:g}", role="img", class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, **style: object) -> Html:
    """A straight line."""
    return tag("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", fill="none", **style)


def _box(x: float, y: float, wide: float, high: float, **style: object) -> Html:
    """A filled rectangle."""
    return tag(
        "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{max(0.0, wide):.1f}", height=f"{max(0.0, high):.1f}", **style
    )


def _word(x: float, y: float, text: str, **style: object) -> Html:
    """A word at a place."""
    return tag("text", shown(text, 60), x=f"{x:.1f}", y=f"{y:.1f}", **style)
