"""Explanations written down: pictures and pages that are the same bytes each time and run nothing."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from request_cases import IMAGE, JSON, SEQUENCE, TABLE, TEXT, body, requests_of

from models import zoo
from models.errors import ExplainError
from models.explain.explanation import Explanation
from models.explain.run import explain, write
from models.inputs.requests import Requests
from models.task import task_for


def explained(reader: Requests, name: str, content: bytes, **changes: object) -> Explanation:
    torch.set_num_threads(1)
    bounds = (0.0, 1.0) if reader.signature.target == "value" else None
    task = task_for(name, reader.signature, target_bounds=bounds)
    model = zoo.build(name, reader.signature, seed=0)
    inputs, cells = reader.parse(content, JSON), reader.cells(content, JSON)
    return explain(model, task, reader.signature, reader.settings, inputs, cells=cells, **changes)  # type: ignore[arg-type]  # passed on


def test_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8)).tolist()
    found = explained(requests_of(IMAGE), "cnn", body(instances=pixels))
    paths = write(found, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["explanation.json", "record-0001.png", "record-0002.png", "overall.png"]
    for path in paths[1:]:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert not picture.text
    first = {path.name: path.read_bytes() for path in paths}
    assert {path.name: path.read_bytes() for path in write(found, tmp_path / "again")} == first
    record = json.loads(first["explanation.json"])["records"][0]
    assert np.array(record["attributions"]).shape == (8, 8)
    assert np.sum(record["attributions"]) == pytest.approx(record["score"] - record["baseline_score"], abs=0.02)
    assert record["explains"] == record["answer"]["prediction"]


@pytest.mark.parametrize("channels", [2, 3])
def test_images_of_several_channels(tmp_path: Path, channels: int) -> None:
    reader = requests_of(IMAGE, image={"shape": [channels, 8, 8]})
    found = explained(reader, "mlp", body(instances=[[255] * 64 * channels]), output=2)
    assert np.asarray(found.records[0].parts).shape == (8, 8)
    assert len(write(found, tmp_path)) == 3


def test_sequences(tmp_path: Path) -> None:
    found = explained(requests_of(SEQUENCE), "lstm", body(instances=[[1] * 12]))
    written = json.loads(write(found, tmp_path)[0].read_bytes())
    assert np.array(written["records"][0]["attributions"]).shape == (4, 3)
    assert np.array(written["overall"]["mean_absolute_attributions"]).shape == (4, 3)


def test_tables_with_names_that_mean_something_elsewhere(tmp_path: Path) -> None:
    # A formula to Matplotlib, a control character, a script its font lacks, and a long name.
    names = ["$\\frac{$", "bell\x07", "年齢", "x" * 300, *(f"c{index}" for index in range(20))]
    columns: dict[str, object] = {name: {"bounds": [0, 1]} for name in names}
    for changes in ({}, {"classes": None, "target_bounds": [0, 1]}):
        reader = requests_of(TABLE, columns=columns, **changes)
        model = "linear" if changes else "logistic"
        found = explained(reader, model, body(instances=[dict.fromkeys(names, 1)]))
        assert set(found.records[0].parts) == set(names)
        for path in write(found, tmp_path)[1:]:
            with Image.open(path) as picture:
                picture.verify()


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_texts_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script> \" onclick=x &amp; \u202e <img src=http://x>"
    reader = requests_of(TEXT, text={"column": "message", "length": 40, "vocabulary": 50})
    found = explained(reader, "transformer", body(instances=[hostile, "hello"]), limit=1)
    paths = write(found, tmp_path)
    assert [path.name for path in paths] == ["explanation.json", "explanation.html"]
    page = paths[1].read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(page)
    shown = {"h1", "h2", "p", "bdi", "span", "table", "tr", "td"}
    assert parser.tags <= {"html", "head", "meta", "title", "style", "body"} | shown
    assert parser.attributes <= {"lang", "charset", "http-equiv", "content", "class", "dir", "style", "title"}
    assert "default-src 'none'" in page
    assert all(word in parser.text for word in ("<", "script", "alert", '"'))
    assert "1 further records" in parser.text
    assert write(found, tmp_path / "again")[1].read_text(encoding="utf-8") == page


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = explained(requests_of(SEQUENCE), "gru", body(instances=[[1] * 12]))
    with pytest.raises(ExplainError, match="choose a writable folder"):
        write(found, tmp_path / "file" / "below")
