"""What rests on secrecy and randomness: the wire in clear text, seeds that could be guessed, parsers that run data."""

from __future__ import annotations

import ast
import pickle
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from secagg_attack_cases import VICTIM, Coalition
from secagg_cases import NOW, SIZE, random_vector, ready, vectors_for

import secagg
from secagg import messages, transcript
from secagg.client import EpochState, Pins
from secagg.errors import SecaggError
from secagg.messages import Upload
from secagg.roster import open_permit, open_roster

ROOM = sorted(Path(secagg.__path__[0]).rglob("*.py"))


# --- What the wire shows ---


def test_nothing_on_the_wire_is_in_clear() -> None:
    world = ready(4, mode="strict")
    vectors = {i: np.full(64, 0x01020304 * (i // 10), np.uint32) for i in world.ids}
    wire: list[bytes] = []
    secret: dict[str, set[bytes]] = {"vectors": {vector.tobytes() for vector in vectors.values()}, "keys": set()}
    sealed = world.new_round(64)
    for i in world.ids:
        site = world.members[i]
        secret["keys"].add(site.known.private[:32])
        wire += [sealed.opening(i), site.open_and_upload(sealed.opening(i), vectors[i])]
        sealed.add_upload(i, wire[-1])
        secret["keys"] |= {*site.known.pair_keys.values(), site.known.round.own_share[1:]}  # type: ignore[union-attr]  # it has uploaded
    for i in world.ids:
        wire += [sealed.confirm_request(i), world.members[i].confirm(sealed.confirm_request(i))]
        sealed.add_confirm(i, wire[-1])
    wire += [sealed.unmask_request(i) for i in world.ids]
    everything = b"".join(wire)
    assert not [kind for kind, found in secret.items() if any(text in everything for text in found)]
    # Four equal elements in a row are in no masked vector, nor is any run of a member's bytes.
    assert not any(vector.tobytes()[:8] in everything for vector in vectors.values())


# --- Randomness ---


def test_seeds_come_from_32_bytes_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ready(5)
    world.epoch.begin(1)
    opening = world.epoch.opening(VICTIM, 1, world.ids, set_up=True)
    drawn: list[int] = []
    system = random._urandom  # type: ignore[attr-defined]  # where `secrets` gets its bytes

    def spy(size: int) -> bytes:
        drawn.append(size)
        return bytes(system(size))

    monkeypatch.setattr(random, "_urandom", spy)
    world.members[VICTIM].open_and_upload(opening, random_vector(SIZE, 1))
    assert drawn.count(32) == 1
    # Coefficients below a prime of 257 bits, one for every share but one that is needed (some are drawn again).
    assert drawn.count(33) >= 3
    assert set(drawn) == {32, 33}


def test_no_other_randomness_is_in_the_room() -> None:
    for file in ROOM:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert "random" not in names, file
            assert not (isinstance(node, ast.Attribute) and node.attr in {"random", "default_rng"}), file


class Weak:
    """Seeds of 16 random bits, as elsewhere seeds of 32: the search below takes 65,536 times as long for those."""

    @staticmethod
    def token_bytes(size: int) -> bytes:
        return bytes(size - 2) + secrets.token_bytes(2)


def guessed(upload: Upload) -> bytes | None:
    for number in range(1 << 16):
        b = number.to_bytes(32, "big")
        if transcript.self_seed_hash(upload.context, b) == upload.seed_hash:
            return b
    return None


@pytest.mark.parametrize("weak", [True, False])
def test_a_short_seed_would_be_guessed(weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if weak:
        monkeypatch.setattr("secagg.upload.secrets", Weak)
    world = ready(5)
    coalition = Coalition(world)
    vectors = vectors_for(world)
    coalition.collect(vectors)
    # Told that the victim dropped, the others reveal its pair seeds; its own seed keeps it safe.
    for i in world.ids[1:]:
        coalition.ask(i, world.ids[1:])
    found = guessed(coalition.uploads[VICTIM])
    assert (found is not None) == weak
    stripped = coalition.stripped({VICTIM}, seeds={} if found is None else {VICTIM: found})
    assert np.array_equal(stripped, vectors[VICTIM]) == weak


# --- Parsers that run nothing ---


exploded: list[bool] = []


def explode() -> None:
    exploded.append(True)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode, ()


def test_nothing_that_is_read_is_run() -> None:
    bomb = pickle.dumps(Bomb())
    readers: list[Callable[[bytes], object]] = [
        *(getattr(messages, name).from_bytes for name in messages.__all__ if hasattr(getattr(messages, name), "TYPE")),
        Pins.from_bytes,
        EpochState.from_bytes,
        *(lambda data, opens=opens: opens(data, bytes(32), NOW) for opens in (open_roster, open_permit)),
    ]
    for read in readers:
        with pytest.raises((SecaggError, TypeError, ValueError, AttributeError)):
            read(bomb)
    assert not exploded
    pickle.loads(bomb)  # noqa: S301  # it does go off where it is let
    assert exploded


def test_the_room_has_nothing_that_could_run_data() -> None:
    modules = {"pickle", "marshal", "shelve", "ctypes", "subprocess", "importlib", "yaml", "torch"}
    calls = {"eval", "exec", "compile", "__import__", "load", "loads_pickle"}
    for file in ROOM:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & modules, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in modules, file
            elif isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert called not in calls, file
