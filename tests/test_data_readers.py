"""Tables from files: CSV, TSV and Parquet, and every way they can be broken."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as papq
import pytest
from data_files import HEART, write

from models.inputs.errors import (
    BadValue,
    DataError,
    SourceEmpty,
    SourceMissing,
    SourceTooLarge,
    SourceUnreadable,
)
from models.inputs.prepare import prepare_source
from models.inputs.raw import RawTable
from models.inputs.readers import read
from models.inputs.schema import DataSettings

TABLE = DataSettings.model_validate(
    {
        "kind": "tabular",
        "label": "outcome",
        "columns": {"age": {"bounds": [0, 120]}, "sex": {"categories": ["0", "1"]}},
    }
)


def cells(path: str, settings: DataSettings = TABLE) -> dict[str, list[object]]:
    raw = read(settings, path)
    assert isinstance(raw, RawTable)
    return raw.table.to_pydict()  # type: ignore[no-any-return]  # pyarrow is untyped


def strict(content: str) -> DataSettings:
    """A specification of all columns in a header as categories that match nothing, refused if unlisted."""
    names = [name.strip() for name in content.splitlines()[0].split(",")]
    columns = {name: {"categories": ["never"]} for name in names if name != "outcome"}
    return DataSettings.model_validate({"kind": "tabular", "label": "outcome", "unknown": "error", "columns": columns})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.csv", "a,b\n1,x\n2,y\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("crlf.csv", "a,b\r\n1,x\r\n", {"a": ["1"], "b": ["x"]}),
        ("bom.csv", "\ufeffa,b\n1,x\n", {"a": ["1"], "b": ["x"]}),
        ("no-last-line-end.csv", "a,b\n1,x", {"a": ["1"], "b": ["x"]}),
        ("blank-lines.csv", "a,b\n\n1,x\n\n2,y\n\n", {"a": ["1", "2"], "b": ["x", "y"]}),
        ("quoted.csv", 'a,b\n1,"x\ny, ""z"""\n', {"a": ["1"], "b": ['x\ny, "z"']}),
        ("spaced-quotes.csv", 'a, "b"\n1, "x, y"\n2, z\n', {"a": ["1", "2"], "b": ["x, y", "z"]}),
        ("semicolons.csv", "a;b\n1;x,y\n", {"a": ["1"], "b": ["x,y"]}),
        ("tabs.csv", "a\tb\n1\tx\n", {"a": ["1"], "b": ["x"]}),
        ("one-column.csv", "a\n1\n", {"a": ["1"]}),
        ("index-column.csv", ",a\n0,1\n", {"a": ["1"]}),
        ("inches.csv", 'a,b\n1,5" pipe\n', {"a": ["1"], "b": ['5" pipe']}),
        ("quotes-are-text.tsv", 'a\tb\n"1\tx "y\n2\t,\n', {"a": ['"1', "2"], "b": ['x "y', ","]}),
        ("null-words.csv", "a,b\nNA,null\nnan,\n", {"a": ["NA", "nan"], "b": ["null", ""]}),
    ],
)
def test_delimited_files(tmp_path: Path, name: str, content: str, expected: dict[str, list[str]]) -> None:
    assert cells(write(tmp_path / name, content)) == expected


@pytest.mark.parametrize(
    ("name", "content", "error", "part"),
    [
        ("zero.csv", b"", SourceEmpty, "empty"),
        ("header-only.csv", b"a,b\n", SourceEmpty, "no records"),
        ("header-without-end.csv", b"a,b", SourceEmpty, "no records"),
        ("blank-after-header.csv", b"a,b\n\n\n", SourceEmpty, "no records"),
        ("spaced-header-only.csv", b'a, "b"\n', SourceEmpty, "no records"),
        ("blank-header.csv", b"\na,b\n1,2\n", SourceUnreadable, "row 1 must name"),
        ("twice.csv", b"age,sex,age \n1,2,3\n", SourceUnreadable, "'age' more than once"),
        ("short.csv", b"a,b\n1,x\n\nsecret\n", SourceUnreadable, "row 4 has 1 cells, the header names 2"),
        ("long.csv", b"a,b\n1,secret,x\n", SourceUnreadable, "row 2 has 3 cells"),
        ("spaced-short.csv", b'a,b\n1, "x"\nsecret\n', SourceUnreadable, "row 3 has 1 cells"),
        ("latin1.csv", b"a,b\n1,x\n2,secret \xe9\n", SourceUnreadable, "line 3, byte 10: not UTF-8"),
        ("latin1-header.csv", b"a,\xe9\n1,x\n", SourceUnreadable, "line 1"),
        ("latin1-spaced.csv", b'a,b\n1, "x"\n2,\xe9\n', SourceUnreadable, "line 3"),
        ("utf16.csv", "a,b\n1,x\n".encode("utf-16"), SourceUnreadable, "UTF-16"),
        ("open-quote.csv", b'a,b\n1,"secret\n2,y\n', SourceUnreadable, "row 2 or later: a quotation mark"),
    ],
)
def test_broken_delimited_files(tmp_path: Path, name: str, content: bytes, error: type[DataError], part: str) -> None:
    with pytest.raises(error, match=part) as caught:
        read(TABLE, write(tmp_path / name, content))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "a,b,outcome\nnever,never,0\nnever,bad,1\n",
        'a,b,outcome\nnever,"never",0\n\n\nnever,bad,1\n',
        'a,b,outcome\n\nnever, "never",0\nnever,bad,1\n',
    ],
)
def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "rows.csv", content)
    with pytest.raises(BadValue) as caught:
        prepare_source(strict(content), path)
    shown = content.splitlines()[caught.value.row - 1]
    assert shown == "never,bad,1"
    assert (caught.value.column, caught.value.source) == ("b", "rows.csv")


def test_a_line_break_in_a_cell_is_no_row(tmp_path: Path) -> None:
    content = 'a,b,outcome\nnever,"ne\nver",0\nnever,bad,1\n'
    settings = strict(content)
    settings = settings.model_copy(update={"columns": {"a": settings.columns["a"]}})
    path = write(tmp_path / "rows.csv", content.replace("never,bad", "bad,bad"))
    with pytest.raises(BadValue, match="row 3, column 'a'"):
        prepare_source(settings, path)


@pytest.mark.parametrize("quote", ["", '"'])
def test_too_many_rows(tmp_path: Path, quote: str) -> None:
    path = write(tmp_path / "big.csv", "a,b\n" + f"1, {quote}2{quote}\n" * 5)
    few = TABLE.model_copy(update={"max_rows": 4})
    with pytest.raises(SourceTooLarge, match="max_rows = 4"):
        read(few, path)
    assert read(TABLE.model_copy(update={"max_rows": 5}), path).records == 5


def test_a_long_cell_and_many_blocks(tmp_path: Path) -> None:
    long = "x" * 300_000
    path = write(tmp_path / "long.csv", "a,b\n" + f"1,{long}\n" * 70 + "\n\n")
    assert cells(path)["b"] == [long] * 70


def test_missing_file_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no such file"):
        read(TABLE, str(tmp_path / "absent.csv"))
    with pytest.raises(SourceUnreadable, match=r"\.parquet"):
        read(TABLE, write(tmp_path / "table.xlsx", b"PK"))
    with pytest.raises(SourceUnreadable, match="labels_path"):
        read(TABLE, write(tmp_path / "t.csv", HEART), "labels.csv")
    with pytest.raises(SourceUnreadable, match="read as images"):
        read(TABLE, str(tmp_path))


def test_parquet_keeps_its_types_and_gives_the_same_records(tmp_path: Path) -> None:
    papq.write_table(
        pa.table(
            {
                "age": pa.array([30 + i for i in range(20)], pa.int32()),
                "sex": pa.array([float(i % 2) for i in range(20)]),
                "outcome": pa.array([str(i // 2 % 2) for i in range(20)]).dictionary_encode(),
                "nested": [[1, 2]] * 20,
                "__index_level_0__": list(range(20)),
            }
        ),
        tmp_path / "heart.parquet",
    )
    typed = prepare_source(TABLE, str(tmp_path / "heart.parquet"))
    plain = prepare_source(TABLE, write(tmp_path / "heart.csv", HEART))
    assert (typed.inputs == plain.inputs).all()
    assert (typed.targets == plain.targets).all()
    assert len(set(typed.keys)) == 20


def test_broken_parquet(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="not a Parquet file"):
        read(TABLE, write(tmp_path / "t.parquet", b"PAR1 but not really"))
    with pytest.raises(SourceEmpty):
        read(TABLE, write(tmp_path / "empty.parquet", b""))
    papq.write_table(pa.table({"age": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(SourceEmpty, match="no records"):
        read(TABLE, str(tmp_path / "none.parquet"))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    papq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(SourceUnreadable, match="'a' twice"):
        read(TABLE, str(tmp_path / "twice.parquet"))
