"""A department's part in sealed sums on its own disk: crashes, replays, two processes, damaged files."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_cases import settings_of

from client import vault
from client.errors import RefusalError
from client.sealing import Sealing
from client.vault import DiskVault
from models.files import write_atomic
from secagg.encoding import Encoding
from secagg.primitives import run_id
from secagg.roster import Roster, open_roster
from secagg.server import Epoch, SealedRound
from simulations.sealing import Sealed, seal
from strategies.agreement import layout_of, model_of, task_of, write_spec
from strategies.binding import bindings_of
from strategies.lanes import Lanes, sealed_encoding, sealed_values
from strategies.status import Status
from strategies.wire import Instruction, SealedStep

RUN = "toy-1"
NAMES = ("north", "south", "east")
SETTINGS = settings_of(
    privacy={"mode": "off", "metrics": "off"}, secagg={"mode": "strict", "max_size": 100}, training={"rounds": 3}
)
SPEC = write_spec(SETTINGS, run=RUN)
LAYOUT = layout_of(SETTINGS, model_of(SETTINGS, seed=0), task_of(SETTINGS))


class PowerCut(BaseException):
    """Nothing after it happens."""


@dataclass
class Bench:
    """Three departments, the first of them on disk, and the coordinator's side."""

    folder: Path
    sealed: Sealed
    roster: Roster = field(init=False)
    victim: Sealing = field(init=False)
    replies: list[tuple[str, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()
        envelopes = self.sealed.envelopes
        self.roster, _ = open_roster(envelopes.roster, envelopes.governance, self.victim.now())

    def restart(self) -> None:
        """A new process on the same disk."""
        own = self.sealed.departments["north"]
        self.victim = dataclasses.replace(own, vault=DiskVault(self.folder))

    def machine(self, name: str) -> Sealing:
        return self.victim if name == "north" else self.sealed.departments[name]

    def epoch(self, number: int, first_round: int) -> Epoch:
        return Epoch(self.sealed.envelopes.roster, self.roster, self.sealed.envelopes.permit, RUN, number, first_round)

    def step(self, name: str, message: bytes) -> bytes:
        return self.machine(name).step(SealedStep(run=RUN, spec=SPEC, message=message))

    def set_up(self, number: int, first_round: int = 1) -> Epoch:
        epoch = self.epoch(number, first_round)
        for i, name in enumerate(NAMES, start=1):
            epoch.add_advertise(i, self.ask(name, "advertise", 0, lambda n: self.step(n, epoch.invite())))
        for i, name in enumerate(NAMES, start=1):
            epoch.add_encapsulate(i, self.ask(name, "encapsulate", 0, lambda n: self.step(n, epoch.directory())))
        return epoch

    def ask(self, name: str, kind: str, number: int, act: Callable[[str], bytes]) -> bytes:
        """Ask; after a power cut ask again, as a coordinator whose message was not acknowledged would."""
        try:
            reply = act(name)
        except PowerCut:
            self.restart()
            reply = act(name)
        if name == "north":
            self.replies.append((kind, number, reply))
        return reply

    def encoding(self) -> Encoding:
        return sealed_encoding(SETTINGS, LAYOUT, task_of(SETTINGS), len(NAMES))

    def upload(self, name: str, opening: bytes, number: int, value: float) -> bytes:
        instruction = instructed(number, opening)
        with self.machine(name).opened(instruction, SETTINGS) as opened:
            if opened.opened.reply is not None:
                return opened.opened.reply
            lanes = Lanes(
                update=np.full(LAYOUT.parameters, value, np.float32), weight=7, control=None, metrics=np.zeros(0)
            )
            vector, _ = self.encoding().encode(sealed_values(SETTINGS, LAYOUT, lanes), bytes(32))
            return opened.seal(instruction, self.encoding().describe(), vector)

    def begin(self, epoch: Epoch, number: int) -> SealedRound:
        bindings = bindings_of(instructed(number, b""), self.encoding().describe())
        return SealedRound(epoch, number, (1, 2, 3), size=self.encoding().size, bindings=bindings)

    def round(self, epoch: Epoch, number: int) -> np.ndarray:
        """A whole round; returns the decoded update."""
        sums = self.begin(epoch, number)
        for i, name in enumerate(NAMES, start=1):
            reply = self.ask(name, "upload", number, lambda n, i=i: self.upload(n, sums.opening(i), number, float(i)))
            sums.add_upload(i, reply)
        for i, name in enumerate(NAMES, start=1):
            sums.add_confirm(i, self.ask(name, "confirm", number, lambda n, i=i: self.step(n, sums.confirm_request(i))))
        for i, name in enumerate(NAMES, start=1):
            sums.add_answer(i, self.ask(name, "answer", number, lambda n, i=i: self.step(n, sums.unmask_request(i))))
        total, _ = sums.finish()
        return self.encoding().decode(total, len(NAMES))["update"]


def instructed(number: int, opening: bytes) -> Instruction:
    return Instruction(
        run=RUN, round=number, spec=SPEC, train=True, evaluate=False, model=np.zeros(6, np.float32), opening=opening
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    sealed = seal(SETTINGS, NAMES, run=RUN, spec=SPEC)
    return Bench(tmp_path / "sealing", sealed)


def refused(status: Status, act: Callable[[], Any]) -> None:
    with pytest.raises(RefusalError) as caught:
        act()
    assert caught.value.status is status, caught.value


def test_a_department_goes_on_from_its_disk_after_every_message(bench: Bench) -> None:
    epoch = bench.set_up(1)
    for number in (1, 2):
        bench.restart()
        assert bench.round(epoch, number) == pytest.approx(np.full(6, 6 * 7 / 100), abs=1e-6)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in bench.folder.rglob("*") if path.is_file())
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700


def crashing(at: int, *, after: bool) -> Callable[..., None]:
    """A write_atomic whose ``at``-th call is a power cut, before or after the file is there."""
    calls = iter(range(10_000))

    def write(path: Path, data: bytes, *, secret: bool = False) -> None:
        cut = next(calls) == at
        if cut and not after:
            raise PowerCut
        write_atomic(path, data, secret=secret)
        if cut:
            raise PowerCut

    return write


def writes_of_a_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files a department writes in a set-up and two rounds."""
    count = 0

    def counting(path: Path, data: bytes, *, secret: bool = False) -> None:
        nonlocal count
        count += 1
        write_atomic(path, data, secret=secret)

    monkeypatch.setattr(vault, "write_atomic", counting)
    epoch = bench.set_up(1)
    bench.round(epoch, 1)
    bench.round(epoch, 2)
    return count


def test_a_power_cut_at_any_write_repeats_no_mask_and_no_answer(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every write, before and after it: the same bytes again or nothing, and later rounds go on."""
    total = writes_of_a_run(bench, monkeypatch)
    assert total > 12
    finished = 0
    for at in range(total):
        for after in (False, True):
            sealed = seal(SETTINGS, NAMES, run=RUN, spec=SPEC)
            own = Bench(tmp_path / f"cut-{at}-{after}", sealed)
            monkeypatch.setattr(vault, "write_atomic", crashing(at, after=after))
            try:
                epoch = own.set_up(1)
                own.round(epoch, 1)
                own.round(epoch, 2)
                finished += 1
            except RefusalError as refusal:
                # The round is lost, never repeated; a new epoch goes on behind it.
                assert refusal.status in {Status.NEEDS_SETUP, Status.SEALING_REFUSED}, refusal
            said: dict[tuple[str, int], set[bytes]] = {}
            for kind, number, reply in own.replies:
                if kind in {"upload", "answer", "confirm"}:
                    said.setdefault((kind, number), set()).add(reply)
            assert all(len(replies) == 1 for replies in said.values())
            own.restart()
            assert own.round(own.set_up(2, 3), 3) == pytest.approx(np.full(6, 0.42), abs=1e-6)
    assert finished > total  # most cuts cost nothing at all


def test_the_same_request_gets_the_same_bytes_and_another_none(bench: Bench) -> None:
    epoch = bench.set_up(1)
    sums = bench.begin(epoch, 1)
    first = bench.upload("north", sums.opening(1), 1, 1.0)
    bench.restart()
    assert bench.upload("north", sums.opening(1), 1, 5.0) == first  # not sealed a second time
    other = epoch.opening(1, 1, (1, 2, 3), set_up=False)
    refused(Status.SEALING_REFUSED, lambda: bench.upload("north", other, 1, 1.0))
    for i, name in enumerate(NAMES, start=1):
        sums.add_upload(i, first if i == 1 else bench.upload(name, sums.opening(i), 1, 1.0))
    for i, name in enumerate(NAMES, start=1):
        sums.add_confirm(i, bench.step(name, sums.confirm_request(i)))
    answer = bench.step("north", sums.unmask_request(1))
    bench.restart()
    assert bench.step("north", sums.unmask_request(1)) == answer
    refused(Status.SEALING_REFUSED, lambda: bench.step("north", sums.unmask_request(2)))


def test_a_new_set_up_does_not_renew_a_round(bench: Bench) -> None:
    bench.round(bench.set_up(1), 1)
    epoch = bench.set_up(2, 1)
    refused(Status.SEALING_REFUSED, lambda: bench.upload("north", bench.begin(epoch, 1).opening(1), 1, 1.0))


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100, b'{"kind": 1}'], ids=["empty", "cut", "zeros", "other"])
def test_a_damaged_epoch_needs_a_new_set_up(bench: Bench, damage: bytes) -> None:
    epoch = bench.set_up(1)
    bench.round(epoch, 1)
    (bench.folder / run_id(RUN).hex()[:32] / "epoch").write_bytes(damage)
    refused(Status.NEEDS_SETUP, lambda: bench.upload("north", bench.begin(epoch, 2).opening(1), 2, 1.0))
    assert bench.round(bench.set_up(2, 3), 3).shape == (6,)


def test_a_restored_epoch_is_noticed(bench: Bench) -> None:
    """Somebody puts back yesterday's epoch, but not the record of runs: it no longer fits."""
    epoch = bench.set_up(1)
    bench.round(epoch, 1)
    file = bench.folder / run_id(RUN).hex()[:32] / "epoch"
    yesterday = file.read_bytes()
    bench.round(epoch, 2)
    file.write_bytes(yesterday)
    refused(Status.NEEDS_SETUP, lambda: bench.upload("north", bench.begin(epoch, 3).opening(1), 3, 1.0))


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 40, None], ids=["empty", "cut", "bytes", "missing"])
def test_a_damaged_record_of_runs_stops_everything(bench: Bench, damage: bytes | None) -> None:
    bench.round(bench.set_up(1), 1)
    if damage is None:
        (bench.folder / "records").unlink()
    else:
        (bench.folder / "records").write_bytes(damage)
    refused(Status.STATE_NOT_DURABLE, lambda: bench.set_up(2, 2))


def test_a_full_disk_refuses_before_anything_leaves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.errors import StoreError

    epoch = bench.set_up(1)
    opening = bench.begin(epoch, 1).opening(1)

    def full(path: Path, data: bytes, *, secret: bool = False) -> None:
        raise StoreError(f"{path}: no space")

    monkeypatch.setattr(vault, "write_atomic", full)
    refused(Status.STATE_NOT_DURABLE, lambda: bench.upload("north", opening, 1, 1.0))


HOLD = """
import sys, time
from pathlib import Path
from client.vault import DiskVault
with DiskVault(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.set_up(1)
    monkeypatch.setattr(vault, "LOCK_SECONDS", 0.1)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(bench.folder)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            refused(Status.STATE_NOT_DURABLE, lambda: bench.set_up(2))
        finally:
            other.kill()


def test_keys_of_a_closed_round_are_gone_from_the_disk(bench: Bench) -> None:
    """Whoever takes the disk after a round cannot unmask what was recorded of it."""
    epoch = bench.set_up(1)
    keys: set[bytes] = set()
    sums = bench.begin(epoch, 1)
    for i, name in enumerate(NAMES, start=1):
        sums.add_upload(i, bench.upload(name, sums.opening(i), 1, 1.0))
    _, state = bench.victim.vault.load(run_id(RUN))
    assert state is not None
    keys |= set(state.pair_keys.values())
    for i, name in enumerate(NAMES, start=1):
        sums.add_confirm(i, bench.step(name, sums.confirm_request(i)))
    for i, name in enumerate(NAMES, start=1):
        sums.add_answer(i, bench.step(name, sums.unmask_request(i)))
    disk = b"".join(path.read_bytes() for path in bench.folder.rglob("*") if path.is_file())
    assert keys
    assert not [key for key in keys if key in disk or key.hex().encode() in disk]


@pytest.mark.parametrize("message", [b"", b"CFS1", b"CFS1\x05" + bytes(80), b"XXXX\x01" + bytes(80), b"CFS1\x02"])
def test_a_message_that_is_none_is_refused(bench: Bench, message: bytes) -> None:
    bench.set_up(1)
    refused(Status.BAD_MESSAGE, lambda: bench.step("north", message))


def test_an_instruction_without_an_opening_is_never_answered_in_clear(bench: Bench) -> None:
    bench.set_up(1)
    instruction = dataclasses.replace(instructed(1, b""), opening=None)

    def act() -> None:
        with bench.victim.opened(instruction, SETTINGS):
            pass

    refused(Status.SEALING_REFUSED, act)
