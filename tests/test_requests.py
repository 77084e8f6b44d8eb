"""Records over a network: prepared exactly as for training, refused with a reason, never a traceback."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as papq
import pytest
from data_files import write
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from request_cases import CSV, IMAGE, JSON, SEQUENCE, TABLE, TEXT, body, requests_of, settings_of

from models.errors import RequestError, SignatureMismatch
from models.inputs.errors import DataError
from models.inputs.prepare import prepare_source
from models.inputs.requests import Requests
from models.inputs.schema import DataSettings

KINDS = {"tabular": TABLE, "text": TEXT, "image": IMAGE, "sequence": SEQUENCE}
READERS = {kind: requests_of(table) for kind, table in KINDS.items()}

CELLS = st.one_of(
    st.text(st.sampled_from(' ,;"\nabé'), max_size=5),
    st.sampled_from(["0", "1", "1.0", "1.50", " 1", "50", "+1e1", ".5", "?", "-9", "-9.0", "nan", "1e999", "x"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
AGES = st.floats(-10, 110).map(repr) | CELLS
LABELS = st.sampled_from(["0", "1"])


def from_file(table: dict[str, Any], path: str) -> np.ndarray | None:
    try:
        return prepare_source(DataSettings.model_validate({**table, "person": None}), path).inputs
    except DataError:
        return None


def parsed(reader: Requests, content: bytes, content_type: str) -> np.ndarray | None:
    try:
        return reader.parse(content, content_type)
    except RequestError:
        return None


def same(found: np.ndarray | None, wanted: np.ndarray | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@examples(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(CELLS, AGES, LABELS), min_size=1, max_size=5))
def test_a_table_is_prepared_as_the_file_is(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    names = ["sex", "age", "outcome"]
    handle = io.StringIO()
    writer = csv.writer(handle)
    writer.writerows([names, *rows])
    content = handle.getvalue().encode()
    wanted = from_file(TABLE, write(tmp_path_factory.mktemp("file") / "t.csv", content))
    reader = READERS["tabular"]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    columns = {name: [record[name] for record in records] for name in names}
    assert same(parsed(reader, content, CSV), wanted)
    assert same(parsed(reader, body(dataframe_split={"columns": names, "data": rows}), JSON), wanted)
    assert same(parsed(reader, body(dataframe_records=records), JSON), wanted)
    assert same(parsed(reader, body(instances=records), JSON), wanted)
    assert same(parsed(reader, body(inputs=columns), JSON), wanted)


@examples(max_examples=60, deadline=None, derandomize=True)
@given(
    ages=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=5),
    sex=st.none() | st.booleans() | st.sampled_from([0, 1, 7, -9]),
)
def test_typed_cells_are_prepared_as_in_parquet(
    tmp_path_factory: pytest.TempPathFactory, ages: list[float | None], sex: bool | int | None
) -> None:
    table = {**TABLE, "columns": {"age": {"bounds": [0, 100]}, "sex": {"categories": ["1", "true"]}}}
    count = len(ages)
    path = tmp_path_factory.mktemp("file") / "t.parquet"
    columns = {"age": pa.array(ages, pa.float64()), "sex": pa.array([sex] * count), "outcome": ["0"] * count}
    papq.write_table(pa.table(columns), path)
    rows = [[age, sex] for age in ages]
    found = parsed(requests_of(table), body(dataframe_split={"columns": ["age", "sex"], "data": rows}), JSON)
    assert found is not None
    assert same(found, from_file(table, str(path)))


@examples(max_examples=50, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=4))
def test_texts_are_prepared_as_in_a_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("file") / "t.parquet"
    papq.write_table(pa.table({"message": texts, "spam": ["0"] * len(texts)}), path)
    wanted = from_file(TEXT, str(path))
    reader = READERS["text"]
    assert same(parsed(reader, body(instances=texts), JSON), wanted)
    assert same(parsed(reader, body(inputs={"message": texts, "spam": texts}), JSON), wanted)
    assert reader.cells(body(instances=texts), JSON) == [{"message": text} for text in texts]


def test_images_are_prepared_as_in_a_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels[:, None], y=np.array(list("abcab")))
    wanted = from_file(IMAGE, str(tmp_path / "images.npz"))
    assert wanted is not None
    reader = READERS["image"]
    for given_form in (pixels[:, None], pixels, pixels.reshape(5, -1)):
        assert same(reader.parse(body(instances=given_form.tolist()), JSON), wanted)
        assert same(reader.parse(body(inputs=given_form.tolist()), JSON), wanted)
    names = [*(f"p{index}" for index in range(64)), "label"]
    rows = [[*row, "a"] for row in pixels.reshape(5, -1).tolist()]
    assert same(reader.parse(body(dataframe_split={"columns": names, "data": rows}), JSON), wanted)
    lines = "\n".join(",".join(map(str, row)) for row in [names, *rows])
    assert same(reader.parse(lines.encode(), CSV), wanted)


def test_sequences_are_prepared_as_in_a_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 4, (6, 4, 3))
    np.savez(tmp_path / "s.npz", x=values, y=np.array([0, 1] * 3))
    wanted = from_file(SEQUENCE, str(tmp_path / "s.npz"))
    assert wanted is not None
    assert same(READERS["sequence"].parse(body(instances=values.tolist()), JSON), wanted)
    assert same(READERS["sequence"].parse(body(inputs=values.reshape(6, -1).tolist()), JSON), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_the_schema_parses(kind: str) -> None:
    reader = READERS[kind]
    described = json.loads(json.dumps(reader.schema(), allow_nan=False))
    inputs = reader.parse(json.dumps(described["example"]).encode(), JSON)
    assert inputs.shape == (1, *reader.signature.shape)
    assert described["kind"] == kind
    assert described["max_records"] == 1000


SPLIT: dict[str, Any] = {"columns": ["age", "sex"], "data": [[50, "0"]]}


def table_with(*rows: list[object], columns: list[str] | None = None) -> bytes:
    return body(dataframe_split={"columns": columns or ["age", "sex"], "data": list(rows)})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (b"\xff", "byte 1 is not UTF-8"),
        (b"{", "not JSON .*line 1"),
        (b'{"instances": [{"age": NaN, "sex": 0}]}', "NaN is not JSON"),
        (b'{"instances": [{"age": -Infinity, "sex": 0}]}', "Infinity is not JSON"),
        (b'{"instances": [{"age": 1, "sex": 0, "age": 2}]}', "'age' stands twice"),
        (b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[1]", "send an object with one of the keys"),
        (body(), "0 keys; send exactly one"),
        (body(instances=[], inputs=[]), "2 keys; send exactly one"),
        (body(instance=[1]), "'instance': no such key; did you mean 'instances'"),
        (body(instances=[{"age": 1, "sex": 0}], params={"x": 1}), "'params'"),
        (body(instances={}), "'instances': send a list"),
        (body(instances=[]), "no records"),
        (body(instances=[[1, 2]]), "record 1: send an object .* with 'age', 'sex'"),
        (body(dataframe_split=[]), "'dataframe_split': send"),
        (body(dataframe_split={"columns": 1, "data": 2}), "are lists"),
        (body(dataframe_split={"columns": [[]], "data": [[1]]}), "'columns': send names"),
        (body(dataframe_split={"columns": ["age", "age"], "data": [[1, 1]]}), "'age' stands twice"),
        (body(dataframe_split={**SPLIT, "rows": []}), "'dataframe_split': send"),
        (table_with([1, "0"], [1]), "record 2: send a list of 2 cells"),
        (table_with([1, "0"], {}), "record 2: send a list of 2 cells"),  # type: ignore[arg-type]  # on purpose
        (table_with([1], columns=["age"]), "columns: no 'sex'"),
        (table_with([1, 1, 1], columns=["age", "sex", "agee"]), "'agee' is no column .*did you mean 'age'"),
        (body(instances=[{"age": 1, "sex": 0}, {"age": 1}]), "record 2: no 'sex'"),
        (body(inputs={"age": [1, 2], "sex": [1]}), "differ in length"),
        (body(inputs={"age": 1, "sex": [1]}), "'inputs', 'age': send a list"),
        (body(inputs={}), "no records"),
        (table_with([50, "0"], ["secret", "0"]), "record 2, 'age': not a number; send a number, of 0 to 100"),
        (table_with([50, "0"], [[], "0"]), "record 2, 'age': send a number or a text"),
        (table_with([50, {}]), "record 1, 'sex': send a number or a text"),
        (b'{"instances": [{"age": 1e999, "sex": 0}]}', "record 1, 'age': not a finite number"),
        (table_with(["\ud800", "0"]), "record 1, 'age': half a surrogate"),
        (table_with(*[[1, "0"]] * 1001), "1001 records; send at most 1000"),
    ],
)
def test_what_is_wrong_with_json_is_said(content: bytes, part: str) -> None:
    with pytest.raises(RequestError, match=part) as caught:
        READERS["tabular"].parse(content, JSON)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"age,sex\n", "no records"),
        (b"age,sex\n1\n", "record 1: 1 cells, the header names 2"),
        (b"age,age\n1,2\n", "'age' stands twice"),
        (b'age,sex\n1,"2\n', "line 3 is not CSV|never closed"),
        (b"age;sex\n1;0\n3;secret\n", "record 2, 'sex'"),
        (b"age,sex\n" + b"1,0\n" * 1001, "more than 1000 records"),
        (b"age,height\n1,0\n", "'height' is no column"),
        (b"age,sex\n,0\n", "record 1, 'age': the cell is empty; send a number"),
    ],
)
def test_what_is_wrong_with_csv_is_said(content: bytes, part: str) -> None:
    reader = requests_of(TABLE, unknown="error", missing=[])
    with pytest.raises(RequestError, match=part) as caught:
        reader.parse(content, CSV)
    assert "secret" not in str(caught.value)


def test_csv_forms() -> None:
    reader = READERS["tabular"]
    wanted = reader.parse(table_with([50, "0"], [60, "1"]), JSON)
    for text in ("age,sex\n50,0\n60,1", "\ufeffsex;age\r\n0;50\r\n\r\n1;60\r\n", ",age,sex\n0,50,0\n1,60,1\n"):
        assert same(reader.parse(text.encode(), "TEXT/CSV"), wanted)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "application/jsonx"])
def test_other_media_are_refused(content_type: str) -> None:
    with pytest.raises(RequestError, match="send application/json or text/csv"):
        READERS["tabular"].parse(table_with([1, "0"]), content_type)
    with pytest.raises(RequestError, match="UTF-8"):
        READERS["tabular"].parse(table_with([1, "0"]), "application/json; charset=latin-1")


def test_labels_and_persons_are_ignored_and_each_record_stands_alone() -> None:
    reader = READERS["tabular"]
    with_label = table_with([50, 0, "?", 3], [1.5, "1.50", None, []], columns=["age", "sex", "outcome", "patient"])
    together = reader.parse(with_label, JSON)
    assert same(together[:1], reader.parse(table_with([50, 0]), JSON))
    # A number is its literal: 1.50 is another category than 1.5.
    literal = reader.parse(b'{"instances": [{"age": 1.5, "sex": 1.50}]}', JSON)
    assert same(together[1:], literal)
    assert not same(literal, reader.parse(b'{"instances": [{"age": 1.5, "sex": 1.5}]}', JSON))


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(RequestError) as caught:
        READERS["tabular"].parse(body(instances=[{"x" * 100_000: 1}]), JSON)
    assert len(str(caught.value)) < 500


def test_another_models_records_are_refused() -> None:
    settings = settings_of(TABLE)
    with pytest.raises(SignatureMismatch, match="give the specification it was trained with"):
        Requests(settings, settings_of(IMAGE).signature())


def test_fewer_large_records_are_taken() -> None:
    reader = requests_of(IMAGE, image={"shape": [3, 1024, 1024]})
    assert reader.max_records == 10
    example = json.dumps(reader.schema()["example"]).encode()
    assert len(example) < 1000
    with pytest.raises(RequestError, match="at most 10"):
        reader.parse(body(instances=[0] * 11), JSON)


def test_a_thousand_rows_take_milliseconds() -> None:
    columns: dict[str, object] = {f"n{index}": {"bounds": [0, 1]} for index in range(20)}
    reader = requests_of(TABLE, columns=columns)
    rows = np.random.default_rng(0).random((1000, 20)).tolist()
    content = body(dataframe_split={"columns": list(columns), "data": rows})
    times = []
    for _ in range(3):
        start = time.perf_counter()
        reader.parse(content, JSON)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5  # 0.03 s on an idle core


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["age", "sex", "b64"]), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(["instances", "inputs", "dataframe_records", "dataframe_split", "columns", "data"])


@examples(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    content_type=st.sampled_from([JSON, CSV]),
    content=st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.dictionaries(KEYS, JSON_VALUES, max_size=2).map(lambda value: json.dumps(value).encode()),
        st.lists(JSON_VALUES).map(lambda v: body(dataframe_split={"columns": ["age", "sex"], "data": v})),
        st.lists(JSON_VALUES).map(lambda v: body(instances=v)),
    ),
)
def test_any_bytes_give_inputs_or_a_request_error(kind: str, content_type: str, content: bytes) -> None:
    reader = READERS[kind]
    found = parsed(reader, content, content_type)
    if found is not None:
        assert found.shape[1:] == reader.signature.shape
        assert found.dtype == (np.int64 if kind == "text" else np.float32)
        assert np.isfinite(found).all()


def test_reading_requests_needs_no_torch() -> None:
    code = "import sys, models.answers, models.inputs.requests; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=120)
    assert done.returncode == 0
