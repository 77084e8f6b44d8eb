"""The implementation against the known-answer vectors of the specification, and the vectors against the reference."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import secagg_reference
from secagg_following import FOLDER, NOW, REPLIES, Served, Vector, load, members
from secagg_vector_ops import FORMULAS, expected

from secagg import primitives, transcript
from secagg.client import Bindings, Pins, RunRecord
from secagg.encoding import Encoding, Lane
from secagg.errors import SecaggError

# What is committed; a vector that disappears, or a file that nobody reads, is noticed here.
COUNTS = {
    "ctr-mask": 10,
    "encoding": 72,
    "hashes": 66,
    "kdf": 22,
    "kem": 16,
    "messages-join": 33,
    "messages-open": 40,
    "messages-round": 79,
    "permit": 50,
    "refusals-directory": 11,
    "refusals-invite": 24,
    "refusals-open": 23,
    "refusals-round": 27,
    "refusals-server": 40,
    "roster": 71,
    "shamir": 17,
    "shares": 13,
    "signatures": 17,
    "thresholds": 129,
    "transcript-sealed": 46,
    "transcript-strict": 49,
}
TRANSCRIPTS = ("transcript-sealed", "transcript-strict")
FILES = sorted(file.stem for file in FOLDER.glob("*.json"))
EACH = [(name, at) for name in FILES if name not in TRANSCRIPTS for at in range(len(load(name)))]


def test_no_vector_is_skipped() -> None:
    assert {name: len(load(name)) for name in FILES} == COUNTS
    assert len(EACH) + sum(COUNTS[name] for name in TRANSCRIPTS) == sum(COUNTS.values())
    assert {load(name)[at]["op"] for name, at in EACH} == set(OPS), (
        "every kind of vector has a check, and every check one"
    )


@pytest.mark.parametrize(("name", "at"), EACH, ids=str)
def test_vector(name: str, at: int) -> None:
    vector = load(name)[at]
    check = OPS[vector["op"]]
    if "error" not in vector:
        assert check(vector) == expected(vector), vector["comment"]
        return
    with pytest.raises(SecaggError) as refused:
        check(vector)
    assert refused.value.code == vector["error"], f"{vector['comment']}: {refused.value}"


# Messages in the course of a transcript


def followed(vector: Vector) -> Any:
    """The member who gets a message in the place of the transcript's."""
    before = members(vector["transcript"])[0]
    who, round_ = vector["member"], vector.get("round", 0)
    if "after" not in vector:
        return before[who, vector["request"], round_]
    # Whoever comes next in the transcript is the member after its own message.
    places = list(before)
    later = places[places.index((who, vector["after"], round_)) + 1 :]
    return before[next(place for place in later if place[0] == who)]


def refuse(vector: Vector) -> None:
    """What the member does with the message."""
    accept(vector)


def accept(vector: Vector) -> bytes:
    """The member's reply to the message."""
    member, now = followed(vector), vector.get("now", NOW)
    if "pins" in vector:
        known = vector["pins"]
        runs = {primitives.run_id(r["run"]): RunRecord(serial=r["serial"], epoch=r["epoch"]) for r in known["runs"]}
        pins = Pins(
            roster_version=known["roster_version"],
            roster_hash=bytes.fromhex(known["roster_hash"]),
            serial=known["serial"],
            runs=runs,
        )
        member = member.__class__(member.id, member.me, member.keys, member.policy, pins)
    reply: bytes = member.asked(vector["request"], bytes.fromhex(vector["message"]), now)[1]
    return reply


def serve(name: str, until: Callable[[Vector], bool] = lambda step: False, *, compare: bool = False) -> Served:
    """The server with the transcript behind it, up to a step."""
    served = Served(name)
    for step in load(name):
        if until(step):
            break
        op, member, message = step["op"], step.get("member", -1), bytes.fromhex(step.get("message", ""))
        if op in ("invite", "directory", "open", "survivors", "unmask"):
            made = served.ask(op, member, step.get("round", 0), message)
            assert made == message or not compare, f"{op} for {member}: {step['comment']}"
        elif op in ("advertise", "encapsulate", "upload", "confirm", "answer"):
            served.take(op, member, message)
        elif op == "sum":
            check_sum(served, step)
    return served


def server_refuse(vector: Vector) -> None:
    step, member, round_, after = vector["step"], vector["member"], vector.get("round"), "after" in vector

    def here(each: Vector) -> bool:
        return each["op"] == step and each["member"] in (member, 2) and each.get("round") == round_

    served = serve(vector["transcript"], here)
    if after:
        taken = next(each for each in load(vector["transcript"]) if here(each))
        served.take(step, member, bytes.fromhex(taken["message"]))
    served.take(step, member, bytes.fromhex(vector["message"]))


OPS: dict[str, Callable[[Vector], Any]] = {
    **FORMULAS,
    "refuse": refuse,
    "accept": accept,
    "server_refuse": server_refuse,
}


# Whole transcripts


def check_sum(served: Served, step: Vector) -> None:
    """The server's sum, and what it means."""
    assert served.round is not None
    assert served.round.can_finish()
    total, contributors = served.round.finish()
    assert total.tolist() == step["total"]
    assert list(contributors) == step["contributors"]
    assert not served.round.faults.convicted
    bound = float.fromhex(step["bound"])
    decoded = layout(bound).decode(total, len(contributors))
    assert [value.hex() for value in decoded["delta"].tolist()] == step["delta"]
    assert decoded["count"].tolist() == [step["count"]]


def layout(bound: float) -> Encoding:
    lanes = (Lane(name="delta", length=4, bound=bound), Lane(name="count", length=1, bound=1000.0, integer=True))
    return Encoding(lanes=lanes, cohort=3)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    before, replied = members(name)
    steps, checked = load(name), Counter[str]()
    setup_hash = bytes.fromhex(next(s["setup_hash"] for s in steps if s["op"] == "encapsulate"))
    bound = float.fromhex(next(s["bound"] for s in steps if s["op"] == "sum"))
    for step in steps:
        op = step["op"]
        if op == "member":
            me = next(m for place, m in before.items() if place[0] == step["member"])
            assert me.me.public.hex() == step["identity"]
        elif op in ("advertise", "encapsulate", "upload", "confirm", "answer"):
            place = (step["member"], op, step.get("round", 0))
            assert replied[place].hex() == step["message"], f"{place}: {step['comment']}"
        elif op == "pair_key":
            check_pair(step, setup_hash)
        elif op == "context":
            check_context(step, before, setup_hash)
        else:
            # The server's messages and sums are compared below.
            assert op in (*REPLIES, "open", "sum")
        if op == "upload":
            values = {"delta": np.array([float.fromhex(v) for v in step["values"]]), "count": np.array([step["x"][4]])}
            assert layout(bound).encode(values, bytes(32))[0].tolist() == step["x"]
        checked[op] += 1
    assert checked.total() == len(steps) == COUNTS[name]
    serve(name, compare=True)


def check_pair(step: Vector, setup_hash: bytes) -> None:
    i, j = step["i"], step["j"]
    sent = next(v for v in load("kem") if v["op"] == "encapsulated" and (v["from"], v["to"]) == (i, j))
    h_ct = bytes.fromhex(sent["ciphertext_hash"])
    parts = bytes.fromhex(step["x25519"]), bytes.fromhex(step["mlkem"])
    assert primitives.pair_key(*parts, setup_hash, i, j, h_ct).hex() == step["key"]


def check_context(step: Vector, before: dict[Any, Any], setup_hash: bytes) -> None:
    member = next(m for (_, op, round_), m in before.items() if op == "upload" and round_ == step["round"])
    model, control, lanes, config = (bytes.fromhex(step[name]) for name in ("model", "control", "layout", "config"))
    bindings = Bindings(
        policy=member.policy,
        model=transcript.model_hash(model, control),
        layout=transcript.layout_hash(lanes),
        config=transcript.config_hash(config),
    )
    assert {name: getattr(bindings, name).hex() for name in step["hashes"]} == step["hashes"]
    assert member.opened.threshold == step["threshold"]
    terms = member.state.terms
    made = bindings.context(
        run=member.state.run,
        epoch=member.state.epoch,
        number=step["round"],
        mode=terms.mode,
        threshold=step["threshold"],
        roster_hash=terms.roster_hash,
        permit_hash=terms.permit_hash,
        setup_hash=setup_hash,
        cohort=member.opened.cohort,
    )
    assert made.hex() == step["ctx"]


# The vectors themselves


def test_the_reference_makes_these_vectors(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path], check=True, timeout=60)
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_bytes() for file in FOLDER.glob("*.json")}


def test_the_reference_knows_nothing_of_the_implementation() -> None:
    files = [Path(secagg_reference.__file__), *FOLDER.glob("*.py")]
    assert len(files) > 5
    assert not [
        file for file in files if "from secagg " in file.read_text("utf-8") or "from secagg." in file.read_text("utf-8")
    ]


def test_files_stay_readable() -> None:
    assert max(file.stat().st_size for file in FOLDER.glob("*.json")) <= 150_000
