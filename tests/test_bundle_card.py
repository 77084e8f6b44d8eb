"""The model card: everything a bundle says, and nothing that a reader's software would obey."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bundle_cases import sealed
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Bundle
from models.card import card, plain


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("bundles") / "bundle"
    return sealed(folder)


def written(bundle: Bundle, **changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The card of a bundle with some fields changed."""
    parts = {
        "document": dict(bundle.document),
        "privacy": bundle.privacy,
        "evaluation": bundle.evaluation,
        "lineage": bundle.lineage,
    }
    parts = copy.deepcopy(parts)
    for part, values in changes.items():
        parts[part] |= values
    return card(**parts)


def test_a_card_says_what_the_bundle_says(bundle: Bundle) -> None:
    dropped = [{"name": "int8-static", "reason": "accuracy fell by 0.02"}]
    text, table = written(bundle, evaluation={"dropped": dropped})
    for said in (
        "# ward",
        "Who needs a bed.",
        "a number from 0 to 100",
        "classes: no, yes",
        "| north | 2.900 | 1e-05 |",
        "| float32 (default) | 0.9000 |",
        "int8-static: accuracy fell by 0.02",
        "finished: passed, 10 of 10 rounds",
        "confide models serve ward@champion",
        'onnxruntime.InferenceSession("variants/float32.onnx")',
        "run ward-1, 10 rounds",
        "What this does not prove",
        "no private record was used",
    ):
        assert said in text, said
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["privacy"] == bundle.privacy
    assert table["evaluation"]["dropped"] == dropped


def test_no_privacy_is_said_first_and_as_a_limit(bundle: Bundle) -> None:
    text, table = written(bundle, privacy={"mode": "off", "statement": "trained WITHOUT differential privacy"})
    assert "**None.** trained WITHOUT differential privacy" in text
    assert "| department |" not in text
    assert any("without differential privacy" in limit for limit in table["limits"])


def test_nothing_measured_is_said(bundle: Bundle) -> None:
    _, table = written(bundle, evaluation={"records": 0, "metric": None})
    assert any("not measured" in limit for limit in table["limits"])


def test_hostile_texts_stay_texts(bundle: Bundle) -> None:
    evil = "x](javascript:alert(1)) <script>alert(1)</script> | `rm` \x1b[2J\u202e\n# Heading ![p](http://evil/p.png)"
    text, _ = written(
        bundle,
        document={"description": evil, "name": evil, "run": evil},
        privacy={"statement": evil, "departments": [{"department": evil, "pld": 1.0}], "trust_model": evil},
        evaluation={"source": evil, "dropped": [{"name": evil, "reason": evil}]},
        lineage={"run": evil, "ledgers": {evil: {"origin": evil}}, "versions": {evil: evil}},
    )
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "://" not in text
    assert not re.search(r"^# Heading", text, re.M)
    assert "rm -" not in text
    commands = text.partition("```console")[2].partition("```")[0]
    assert all(
        re.fullmatch(r"\$ confide models \w+ [A-Za-z0-9._+:/-]+@champion", line)
        for line in commands.split("\n")
        if line
    )


@given(st.text())
def test_plain_text_is_one_line_without_markup(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]{}|]", shown.replace("\\\\", ""))
    assert not set(shown) & set("<>")
