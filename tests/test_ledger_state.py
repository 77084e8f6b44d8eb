"""What a ledger holds beside runs: policies, data sets, keys, the clock; and how long it takes to open."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ledger_home import (
    DAY,
    KEY,
    UPDATE,
    Clock,
    fill,
    key_of,
    make,
    plan,
    policy,
    register,
    reserve,
)

from privacy import policy as policies
from privacy.errors import (
    LedgerError,
    PolicyError,
    PolicyRefusal,
)
from privacy.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make(tmp_path / "ledger")


def test_no_policy(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, key=KEY, name="Cardiology")
    register(ledger, "claims")
    with pytest.raises(PolicyError, match="no policy is in force"):
        reserve(ledger)
    with pytest.raises(PolicyError, match="no policy is in force"):
        ledger.policy()
    assert ledger.statuses()[0].cap is None


def test_a_policy_is_signed_logged_and_kept(ledger: Ledger) -> None:
    text = policy()
    assert ledger.sign_policy(text) == ledger.policy().digest == policies.digest(text)
    assert ledger.size == 3
    raised = policy('claims\nlifetime = { epsilon = "9", delta = "1e-6" }')
    ledger.sign_policy(raised)
    assert ledger.size == 4
    assert '"kind":"policy"' in ledger.entry(3)
    assert f'"supersedes":"{policies.digest(text)}"' in ledger.entry(3)
    kept = ledger.policies()
    assert {digest: signed[0] for digest, signed in kept.items()} == {
        policies.digest(text): text,
        policies.digest(raised): raised,
    }
    for each, signature in kept.values():
        policies.verify(each, signature, ledger.key)
    status = ledger.statuses()[0]
    assert status.cap_raised
    assert status.cap.epsilon == 9
    ledger.sign_policy(text)
    status = ledger.statuses()[0]
    assert (status.cap.epsilon, status.highest_cap.epsilon, status.cap_raised) == (8, 9, True)
    ledger.check_all()


def test_a_policy_that_contradicts_a_registration(ledger: Ledger) -> None:
    with pytest.raises(PolicyError, match="registered with another size; write declared_size = 1000"):
        ledger.sign_policy(policy("claims\ndeclared_size = 999"))
    with pytest.raises(PolicyError):
        ledger.sign_policy(b"version = 2")
    assert ledger.size == 3


def test_versions_of_a_data_set_share_its_lineage(ledger: Ledger) -> None:
    first = ledger.registration("claims")
    register(ledger, "claims")
    assert (ledger.registration("claims"), ledger.size) == (first, 3)
    second = ledger.register("claims", declared_size=1200, commitment=bytes(32), split=b"s" * 32)
    assert (second.version, second.lineage, second.declared_size) == (2, first.lineage, 1200)
    assert ledger.registrations() == {"claims": second}
    assert ledger.registration("unknown") is None
    with pytest.raises(PolicyRefusal, match="declared_size=1000 in the policy, but 1200 is registered"):
        reserve(ledger)
    ledger.sign_policy(policy("claims\ndeclared_size = 1200"))
    with pytest.raises(PolicyRefusal, match="declared_size=1000 in the plan, but 1200 is registered"):
        reserve(ledger)
    assert '"dataset_version":"2"' in ledger.entry(reserve(ledger, declared_size=1200).seq)


@pytest.mark.parametrize("changes", [{"declared_size": 0}, {"commitment": b"x"}, {"split": b""}])
def test_registrations_that_are_refused(ledger: Ledger, changes: dict) -> None:
    settings = {"declared_size": 1, "commitment": bytes(32), "split": bytes(32)} | changes
    with pytest.raises(LedgerError, match="data set new"):
        ledger.register("new", **settings)
    with pytest.raises(LedgerError, match="1 to 128 characters"):
        ledger.register("x" * 129, declared_size=1, commitment=bytes(32), split=bytes(32))


# --- Keys and clocks -------------------------------------------------------------------------------------------------


def test_a_key_that_was_replaced_is_not_accepted(tmp_path: Path) -> None:
    ledger, second, new = make(tmp_path), Ledger.open(tmp_path, key=KEY), key_of(8)
    ledger.rotate(new)
    ledger.rotate(new)
    assert (ledger.size, ledger.key) == (4, new.public_key().public_bytes_raw())
    reserve(ledger)
    with pytest.raises(LedgerError, match="not the one that signs it now"):
        reserve(second, "other")
    with pytest.raises(LedgerError, match="not the one that signs it now"):
        second.checkpoint()
    with pytest.raises(LedgerError, match="not the one that signs it now"):
        Ledger.open(tmp_path, key=KEY)
    with pytest.raises(LedgerError, match="was the ledger's before"):
        ledger.rotate(KEY)
    ledger.sign_policy(policy(top="# another"))
    with pytest.raises(PolicyError, match="signed with an earlier ledger key"):
        ledger.sign_policy(policy())
    Ledger.open(tmp_path, key=new).check_all()


def test_the_clock(tmp_path: Path) -> None:
    clock = Clock()
    ledger = make(tmp_path, clock=clock)
    clock.now -= 300
    register(ledger, "one")
    times = [line.partition('"time":"')[2][:20] for line in ledger.lines()]
    assert times[-1] == times[0]
    clock.now -= 1
    with pytest.raises(LedgerError, match="set the clock right"):
        register(ledger, "two")
    with pytest.raises(LedgerError, match="set the clock right"):
        ledger.check(plan(), "claims", run="run", model="cnn")
    assert ledger.statuses()
    clock.now = float("nan")
    with pytest.raises(LedgerError, match="set the clock right"):
        register(ledger, "two")
    assert ledger.statuses()
    clock.now = Clock().now + DAY
    register(ledger, "two")
    assert ledger.size == 5


def test_entries_are_found_by_number(ledger: Ledger) -> None:
    assert [ledger.entry(seq) for seq in range(3)] == list(ledger.lines())
    with pytest.raises(ValueError, match="no such entry"):
        ledger.entry(3)
    assert UPDATE not in "".join(ledger.lines())


def test_a_long_ledger_opens_at_once(tmp_path: Path) -> None:
    fill(make(tmp_path), 2000)
    start = time.process_time()
    ledger = Ledger.open(tmp_path)
    status = ledger.statuses()[0]
    assert time.process_time() - start < 0.5  # a tenth of this where nothing else is running
    assert ledger.size >= 2000
    assert (status.runs, len(status.open_runs)) == (167, 1)
    assert 0 < status.settled < status.enforced < 8
    assert status.rounds_left > 0
    ledger.check_all()
