"""The model card: what a published model is, for the people who decide whether to use it.

It says only what the bundle's documents say; every text of theirs is escaped, since a description or a name of a
class is written by somebody else than whoever reads the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from models.strict_json import is_number
from models.text import printable

FORMAT: Final = "confide-card/1"

_LONGEST: Final = 2000
_MOST_LISTED: Final = 20
_MARKUP: Final = set("\\`*_{}[]<>#!|~&$")
_ENTITIES: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_SPENT: Final = ("pld", "opacus_prv", "opacus_rdp")
_NOT_PROVEN: Final = (
    "A department's figure bounds what its own records give away, to anybody, through everything the run released. It "
    "is a bound for one run: other runs on the same records add to it, and the departments' ledgers keep that sum.",
    "It does not say that the answers are right, or fair to every group, nor does it protect what is true of many "
    "records at once: a model may tell what holds for most of a department.",
    "It rests on each department's machine having run this software unchanged. The declared size of a data set is "
    "taken at its word.",
)
_NOT_PROVEN_OF_A_SIMULATION: Final = (
    "Anything about a federation: no department's machine took part, nothing was sealed, and no ledger was kept.",
    _NOT_PROVEN[1],
)


def card(
    document: Mapping[str, Any],
    privacy: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    lineage: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return a model card, as Markdown (``card.md``) and as a JSON object (``card.json``).

    Args:
        document: ``bundle.json``; the others are the bundle's files of those names (``docs/bundle-spec.md``).
            Fields that are missing are left out of the card, or said to be unknown.
    """
    table = {
        "format": FORMAT,
        "name": document["name"],
        "description": document["description"],
        "created": document["created"],
        "run": document["run"],
        "model": document["model"],
        "signature": document["signature"],
        "data": document["data"],
        "intended_use": _intended(document),
        "limits": list(_limits(document, privacy, evaluation)),
        "privacy": dict(privacy),
        "evaluation": {
            key: evaluation.get(key) for key in ("records", "source", "metric", "variants", "dropped", "gates")
        },
        "lineage": dict(lineage),
    }
    parts = [
        _head(document, lineage),
        ("Intended use", [table["intended_use"], "", *_bullets(table["limits"])]),
        ("Data", _data(document)),
        ("Privacy", _privacy(privacy, simulated=_simulated(lineage))),
        ("Evaluation", _evaluation(document, evaluation)),
        ("How to use it", _usage(document)),
        ("Where it comes from", _lineage(lineage)),
    ]
    text = "\n\n".join(
        f"{'#' if k == 0 else '##'} {title}\n\n" + "\n".join(lines) for k, (title, lines) in enumerate(parts)
    )
    return text + "\n", table


def plain(value: object) -> str:
    """Return a text on one line, with every character that Markdown, HTML or a terminal would obey disarmed.

    >>> plain("<b>*5*</b>")
    '&lt;b&gt;\\\\*5\\\\*&lt;/b&gt;'
    """
    escaped = "".join(
        _ENTITIES.get(character) or (f"\\{character}" if character in _MARKUP else character)
        for character in printable(value, _LONGEST)
    )
    # An address would become a link by itself.
    return escaped.replace("://", ":\\/\\/").strip()


def _simulated(lineage: Mapping[str, Any]) -> bool:
    """Whether one process held all departments' records."""
    return lineage.get("engine") == "simulation"


def _head(document: Mapping[str, Any], lineage: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Title, description and what kind of model it is."""
    kind, outputs = document["signature"]["kind"], document["signature"]["outputs"]
    answer = f"one of {outputs} classes" if document["signature"]["target"] == "classes" else "a value"
    whose = "departments that kept their records to themselves"
    if _simulated(lineage):
        whose = "departments that were simulated: one process held all of their records"
    lines = [plain(document["description"]), ""] if document["description"] else []
    lines.append(
        f"A `{_code(document['model']['name'])}` that takes {_article(kind)} and gives {answer}; trained by the run "
        f"`{_code(document['run'])}` of {whose}, "
        f"published {plain(document['created'])}."
    )
    return plain(document["name"]), lines


def _intended(document: Mapping[str, Any]) -> str:
    """What the model is for."""
    name = document["data"].get("name")
    about = f" as in the data set {plain(name)}" if name else ""
    return (
        f"To answer for single records{about} of the kind described below, where a person or a process can live with "
        "the error rates below."
    )


def _limits(document: Mapping[str, Any], privacy: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[str]:
    """What the model is not for."""
    yield "Records of another kind or from elsewhere: nothing was measured there. The served model watches for drift."
    if not evaluation.get("records"):
        yield "No public evaluation records were named: its accuracy was not measured when it was published."
    if privacy.get("mode") in (None, "off"):
        yield "Trained without differential privacy: whoever has the model may find out about the records behind it."
    if document["signature"]["target"] == "classes":
        yield "Probabilities are those of the model; they were not calibrated."


def _data(document: Mapping[str, Any]) -> list[str]:
    """The public schema, which is all that is known of the records."""
    data, signature = document["data"], document["signature"]
    lines = ["What is public of the records, agreed before training; nothing was read off them.", ""]
    lines += [f"- kind: {plain(data['kind'])}; input {plain(signature['shape'])}"]
    if data.get("classes"):
        lines += [f"- classes: {_listed([plain(one) for one in data['classes']])}"]
    if data.get("target_bounds"):
        lines += [f"- target between {plain(data['target_bounds'][0])} and {plain(data['target_bounds'][1])}"]
    for name, column in list((data.get("columns") or {}).items())[:_MOST_LISTED]:
        if column.get("bounds"):
            lines += [
                f"- column {plain(name)}: a number from {plain(column['bounds'][0])} to {plain(column['bounds'][1])}"
            ]
        else:
            lines += [f"- column {plain(name)}: {_listed([plain(one) for one in column.get('categories') or []])}"]
    if len(data.get("columns") or {}) > _MOST_LISTED:
        lines += [f"- and {len(data['columns']) - _MOST_LISTED} more columns, in `bundle.json`"]
    return lines


def _privacy(privacy: Mapping[str, Any], *, simulated: bool) -> list[str]:
    """The privacy label in words, and what it does not mean."""
    if privacy.get("mode") in (None, "off"):
        return [f"**None.** {plain(privacy.get('statement') or 'trained WITHOUT differential privacy')}"]
    lines = [plain(privacy.get("statement", "")), ""]
    if privacy.get("trust_model"):
        lines += [plain(privacy["trust_model"]), ""]
    lines += [
        f"What is protected is one {plain(privacy.get('unit', 'record'))} of a department (neighbouring data sets: "
        f"{plain(privacy.get('adjacency', 'zero-out'))}).",
        "",
        "| department | epsilon | delta |",
        "|---|---|---|",
    ]
    for spent in privacy.get("departments") or []:
        # The largest of all accountants is the one that meets a target, and the one that is quoted.
        figure = max((spent[field] for field in _SPENT if is_number(spent.get(field))), default=None)
        shown = "unknown" if figure is None else f"{figure:.3f}"
        lines += [f"| {plain(spent.get('department', '?'))} | {shown} | {plain(privacy.get('delta', '?'))} |"]
    unproven = _NOT_PROVEN_OF_A_SIMULATION if simulated else _NOT_PROVEN
    return [*lines, "", "What this does not prove:", "", *_bullets(unproven)]


def _evaluation(document: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """Every variant that was tried, kept or not, and the gates."""
    metric = evaluation.get("metric")
    measured = f"{plain(evaluation.get('records'))} public records ({plain(evaluation.get('source'))})"
    lines = [f"Measured on {measured}, each file as it is published." if metric else "No public records to measure on."]
    lines += [
        "",
        f"| variant | {plain(metric or 'score')} | change | agreement | bytes | of float32 | ms, 1 record | ms, 32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in evaluation.get("variants") or []:
        star = " (default)" if one.get("name") == document["default"] else ""
        figures = " | ".join(_figure(one.get(field), form) for field, form in _COLUMNS)
        lines += [f"| {plain(one.get('name'))}{star} | {figures} |"]
    if dropped := evaluation.get("dropped"):
        lines += ["", "Tried and not published:", ""]
        lines += _bullets(f"{plain(one.get('name'))}: {plain(one.get('reason'))}" for one in dropped)
    if gates := evaluation.get("gates"):
        lines += ["", "Gates:", ""]
        lines += _bullets(
            f"{plain(gate.get('name'))}: {'passed' if gate.get('passed') is True else 'FAILED'}, "
            f"{plain(gate.get('detail'))}"
            for gate in gates
        )
    return lines


_COLUMNS: Final = (
    ("score", ".4f"),
    ("score_change", "+.4f"),
    ("agreement", ".4f"),
    ("bytes", ","),
    ("ratio", ".2f"),
    ("latency_ms_b1", ".3f"),
    ("latency_ms_b32", ".3f"),
)


def _usage(document: Mapping[str, Any]) -> list[str]:
    """From a registry, and from the file."""
    file = next(one["file"] for one in document["variants"] if one["name"] == document["default"])
    tokens = document["signature"]["kind"] == "tokens"
    return [
        "```console",
        f"$ confide models verify {_code(document['name'])}@champion",
        f"$ confide models serve {_code(document['name'])}@champion",
        "```",
        "",
        "Or with any ONNX runtime, on records prepared as `bundle.json` says under `data`:",
        "",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{_code(file)}")',
        f"records = np.zeros((1, {', '.join(str(int(n)) for n in document['signature']['shape'])}), "
        f"np.{'int64' if tokens else 'float32'})",
        '(scores,) = session.run(["scores"], {"records": records})',
        "```",
    ]


def _lineage(lineage: Mapping[str, Any]) -> list[str]:
    """The run, its ledgers and its software."""
    lines = [
        f"- run {plain(lineage.get('run'))}, {plain(lineage.get('rounds'))} rounds, "
        f"settings {plain(lineage.get('spec_digest'))}"
    ]
    for department, ledger in sorted((lineage.get("ledgers") or {}).items()):
        lines += [
            f"- ledger of {plain(department)}: {plain(ledger.get('origin'))}, {plain(ledger.get('size'))} entries, "
            f"root {plain(ledger.get('root'))}, {len(ledger.get('rounds') or [])} rounds of it in the model"
        ]
    calibration = lineage.get("calibration") or {}
    lines += [
        f"- compressed with {plain(calibration.get('records'))} records, {plain(calibration.get('origin'))} "
        f"({plain(calibration.get('source') or 'no source')}): no private record was used"
    ]
    versions = [f"{plain(name)} {plain(version)}" for name, version in sorted((lineage.get("versions") or {}).items())]
    return [*lines, f"- made with {', '.join(versions)}"] if versions else lines


def _bullets(items: Any) -> list[str]:
    """A list; the items are escaped already."""
    return [f"- {item}" for item in items]


def _listed(items: Sequence[str]) -> str:
    """The first of many."""
    more = f", and {len(items) - _MOST_LISTED} more" if len(items) > _MOST_LISTED else ""
    return ", ".join(items[:_MOST_LISTED]) + more


def _code(text: object) -> str:
    """What may stand between backticks, or in a command that somebody copies."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._+/-") else "-" for c in str(text))[:200]


def _article(kind: str) -> str:
    """A kind of record in words."""
    words = {"vector": "a row of a table", "image": "an image", "sequence": "a sequence", "tokens": "a text"}
    return words.get(kind, "a record")


def _figure(value: object, form: str) -> str:
    """A number, or that there is none."""
    return format(value, form) if is_number(value) else "-"
