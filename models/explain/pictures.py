"""Pictures of attributions: bars for columns, heat maps for images and sequences, as PNG bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ExplainError
from models.explain.explanation import Attributed, Explanation

FOR: Final = "#c53030"
AGAINST: Final = "#2b6cb0"
_BARS: Final = 15
_LABEL: Final = 40
_COLOURS: Final = "RdBu_r"


def record_picture(explanation: Explanation, record: Attributed) -> bytes:
    """Draw what each part of one record adds: a PNG, the same bytes for the same explanation.

    Raises:
        ExplainError: Matplotlib is not installed.
    """
    title = f"record {record.record}: {summary(record)}"
    if not record.complete:
        title += f"\n(parts miss the difference by {record.residual:.2g})"
    if isinstance(record.parts, dict):
        return _png(lambda axes: _bars(axes, _labelled(record), explanation.unit, signed=True), title, height=4.4)
    if record.picture is not None:
        shown = record.picture
        return _png(lambda axes: _heat(axes, record.parts, explanation.unit), title, picture=shown)
    return _png(lambda axes: _steps(axes, np.asarray(record.parts), explanation.unit), title)


def overall_picture(explanation: Explanation) -> bytes:
    """Draw the mean absolute attribution of each part; raises as ``record_picture``."""
    overall = explanation.overall
    title = f"mean absolute attribution over {overall.records} records:\n{overall.origin}"
    parts = overall.parts
    if isinstance(parts, dict):
        return _png(lambda axes: _bars(axes, parts, explanation.unit, signed=False), title, height=4.4)
    if explanation.kind == "image":
        return _png(lambda axes: _heat(axes, parts, explanation.unit, signed=False), title)
    return _png(lambda axes: _steps(axes, parts, explanation.unit, signed=False), title)


def summary(record: Attributed) -> str:
    """Say what is explained.

    A class other than the predicted one is named beside it.
    """
    prediction = record.answer["prediction"]
    if record.name == "value":
        return f"predicted {prediction if isinstance(prediction, list) else f'{prediction:.6g}'}"
    chance = record.answer.get("probability")
    told = f"predicted {plain(str(prediction))}" + ("" if chance is None else f" ({chance:.1%})")
    return told if record.name == prediction else f"{told}; what speaks for {plain(record.name)}"


def plain(text: str) -> str:
    """Shorten a label and leave out what a font cannot show."""
    shown = "".join(mark if mark.isprintable() else "·" for mark in text[: _LABEL + 1])
    return shown if len(shown) <= _LABEL else f"{shown[: _LABEL - 1]}…"


def _labelled(record: Attributed) -> dict[str, float]:
    """Return a table's parts with what the record said beside each column."""
    cells = record.cells or {}
    parts = record.parts if isinstance(record.parts, dict) else {}
    return {f"{plain(name)} = {plain(cells[name])}" if name in cells else name: v for name, v in parts.items()}


def _bars(axes: Any, parts: dict[str, float], unit: str, *, signed: bool) -> None:
    """Draw the largest parts as horizontal bars, the largest on top."""
    order = sorted(parts.items(), key=lambda part: -abs(part[1]))
    kept = order[:_BARS][::-1]
    axes.barh(range(len(kept)), [v for _, v in kept], color=[FOR if v > 0 else AGAINST for _, v in kept])
    # A name is never read as a formula: "$" may stand in one.
    axes.set_yticks(range(len(kept)), [plain(name) for name, _ in kept], parse_math=False)
    axes.axvline(0, color="#4a5568", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    rest = len(order) - len(kept)
    axes.set_xlabel(("adds to the " if signed else "") + unit + (f" (and {rest} smaller parts)" if rest else ""))


def _heat(axes: Any, parts: Any, unit: str, *, signed: bool = True) -> None:
    """Draw one value per pixel; the colours of signed values are balanced about zero."""
    most = float(np.abs(parts).max()) or 1.0
    drawn = axes.imshow(
        parts, cmap=_COLOURS if signed else "magma", vmin=-most if signed else 0.0, vmax=most, interpolation="nearest"
    )
    axes.set_axis_off()
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8, label=("adds to the " if signed else "") + unit)


def _steps(axes: Any, parts: NDArray[np.float64], unit: str, *, signed: bool = True) -> None:
    """Draw a sequence: one bar per step, summed over its features."""
    sums = parts.sum(axis=1)
    axes.bar(range(len(sums)), sums, width=1.0, color=[FOR if value > 0 else AGAINST for value in sums])
    axes.axhline(0, color="#4a5568", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("step")
    axes.set_ylabel(("adds to the " if signed else "") + unit)


def _png(
    fill: Callable[[Any], None], title: str, *, picture: NDArray[np.float32] | None = None, height: float = 3.6
) -> bytes:
    """Draw one figure, without Matplotlib's global state; a picture is put to the left."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  (an optional package)
        from matplotlib.figure import Figure  # noqa: PLC0415  (as above)
    except ImportError:
        raise ExplainError("matplotlib is not installed; pictures need it: pip install 'confide[explain]'") from None
    figure = Figure(figsize=(7.2, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    if picture is None:
        fill(figure.subplots())
    else:
        left, right = figure.subplots(1, 2)
        # Red, green and blue, or else the mean of the channels.
        seen = picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(axis=0)
        left.imshow(seen, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        left.set_axis_off()
        fill(right)
    figure.suptitle(title, fontsize=10, parse_math=False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts the font lacks are drawn as boxes; the warning would quote them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
