"""Whatever is done to a bundle's bytes: never a traceback, and never a pass."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_cases import POLICY, Department, Witness, cost, manifest, mechanism, public, sealing, write

from privacy import verify_spending as spending
from privacy.verify import Verdict, verify
from privacy.verify_values import Note, Refused, parse_canonical, parse_json

Change = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "pld", lambda parts, delta: None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest bundle with one of everything, and few bytes."""
    made = Department("n")
    made.genesis()
    made.policy("orders = [4]\n" + POLICY)
    made.dataset()
    few = mechanism(rounds="1", evaluations="2")
    made.reserve("r", made=few, cost=cost(few, [4]))
    made.release("r", 1)
    made.release("r", 2, train=False)
    made.witnessed(Witness())
    made.rotate()
    members = sealing("r", {"n": public(made.keys[0][1])})
    folder = tmp_path_factory.mktemp("small")
    write(folder, made, rosters={"r": members}, models={"r": {"ledgers": {"n": manifest(made, rounds=[1])}}})
    assert verify(folder).problems == []
    return folder


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def changed(folder: Path, file: str, change: Change) -> Verdict:
    """The verdict on the bundle with one file changed; the file is restored."""
    before = (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(change(before))
        verdict = verify(folder)
        json.dumps(verdict.to_dict(), allow_nan=False)
        return verdict
    finally:
        (folder / file).write_bytes(before)


def flipped(at: int, bit: int) -> Change:
    return lambda data: data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def same_claim(folder: Path, file: str, change: Change) -> bool:
    """Whether the change touches only what nobody signs: when the bundle was made, and how a manifest is laid out."""
    data = (folder / file).read_bytes()
    try:
        before, after = parse_json(data), parse_json(change(data))
    except Refused:
        return False
    if file == "bundle.json":
        return isinstance(after, dict) and {**before, "created": ""} == {**after, "created": ""}
    return file.startswith("models/") and isinstance(after, dict) and before["ledgers"] == after.get("ledgers")


@pytest.mark.parametrize("folders", [("ledgers",), ("policies",), ("checkpoints", "witnesses"), ("rosters", "models")])
def test_one_bit_anywhere(small: Path, folders: tuple[str, ...]) -> None:
    generator = random.Random(f"one bit of {folders}")
    for name in [name for name in files_of(small) if name.startswith(folders)]:
        size = (small / name).stat().st_size
        for at in sorted(generator.sample(range(size), min(size, 25))):
            change = flipped(at, generator.randrange(8))
            verdict = changed(small, name, change)
            assert verdict.exit_code != 0 or same_claim(small, name, change), f"{name}: byte {at}"


def test_when_the_bundle_was_made_is_signed_by_nobody(small: Path) -> None:
    """The one exception: another time of the same form passes, and ``not_proven`` says so."""
    passed = 0
    for at in range((small / "bundle.json").stat().st_size):
        change = flipped(at, 0)
        good = changed(small, "bundle.json", change).exit_code == 0
        assert good <= same_claim(small, "bundle.json", change), f"byte {at}"
        passed += good
    assert passed > 0
    assert "nobody signs bundle.json" in " ".join(verify(small).not_proven)


def test_a_manifest_of_another_form_says_the_same(small: Path) -> None:
    """White space is free in a manifest, and other fields are no claim about ledgers."""
    verdict = changed(small, "models/r.json", lambda data: b" " + data[:-1] + b', "weights_sha256": "00"}\n')
    assert verdict.exit_code == 0


HOSTILE = (
    *(
        b"",
        b"\n",
        b"\0",
        b"{}",
        b"[]",
        b"null",
        b'""',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' * 5000,
        b"9" * 5000,
        b"1e999",
    ),
    *(b"NaN", b'{"ledgers":{"":1}}', b'{"ledgers":[]}', b'"\\ud800"', "\u2028\u0085\u202e".encode(), b"-" * 70_000),
)


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_any_file_replaced_by_rubbish(small: Path, content: bytes) -> None:
    for name in files_of(small):
        assert changed(small, name, lambda _: content).exit_code != 0, name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_several_mutations(small: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(files_of(small)))
    before = (small / name).read_bytes()
    after = before
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(after)))
        end = data.draw(st.integers(at, min(len(after), at + 40)))
        piece = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(HOSTILE), st.just(before[at : at + 200])))
        after = after[:at] + piece + after[end:]
    verdict = changed(small, name, lambda _: after)
    assert after == before or verdict.exit_code != 0 or same_claim(small, name, lambda _: after)


def test_a_field_of_an_entry_replaced_by_anything(small: Path, tmp_path: Path) -> None:
    """Signed by the department itself: nothing but the form of the values stops these."""
    folder = tmp_path / "bundle"
    shutil.copytree(small, folder)
    lines = (small / "ledgers/n.jsonl").read_bytes().splitlines()
    values: list[Any] = [
        "",
        "0",
        "-1",
        "x" * 200,
        "\u0000",
        None,
        True,
        [],
        {},
        [[]],
        {"a": "b"},
        "9" * 18,
        "1e308",
        "9999-12-31T23:59:59Z",
    ]
    made, generator = Department("n"), random.Random("values")
    for number, line in enumerate(lines):
        entry = json.loads(line)["entry"]
        places = [(entry, field) for field in entry]
        places += [(entry[inner], field) for inner in ("ref", "mechanism", "cost") for field in entry[inner] or ()]
        for holder, field in places:
            for value in generator.sample(values, 1):
                before = holder[field]
                if value == before or (field == "policy_digest" and value is None):
                    continue
                holder[field] = value
                made.entries = [entry]
                made.signatures = [made.sign(entry)]
                text = [*lines[:number], made.lines()[0].encode(), *lines[number + 1 :], b""]
                holder[field] = before
                (folder / "ledgers/n.jsonl").write_bytes(b"\n".join(text))
                assert verify(folder).exit_code == 1, (number, field, value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_readers_refuse_and_do_not_fail(data: bytes) -> None:
    for reader in (parse_json, parse_canonical, Note.parse, spending.Policy.parse):
        try:
            reader(data)
        except Refused as error:
            assert str(error).isprintable()


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_canonical_json_is_what_is_written(value: object) -> None:
    written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert parse_canonical(written.encode()) == value
    loose = json.dumps(value, sort_keys=True)
    if loose != written:
        with pytest.raises(Refused, match="is not canonical"):
            parse_canonical(loose.encode())
