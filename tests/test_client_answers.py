"""Carrying out an instruction: what is refused, what is computed, and that nothing else leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from account_cases import account, enrolled_machine, kinds, real
from federation_cases import PRIVATE, ask, clear_vector, department, document, settings_of, site, toy_csv
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client.account import Account
from client.app import respond
from client.data import DepartmentData
from client.errors import ConfigError, RefusalError
from client.plain import PlainTrainer
from client.site import site_for
from client.state import DiskJournal
from client.statuses import status_of
from client.train import Site, measure
from models import errors as model_errors
from models.inputs import errors as data_errors
from models.vector import load_vector, to_vector
from privacy.dpsgd import PrivateTrainer
from privacy.errors import AccountingError, BadPlan, NonFiniteModel, PrivacyError
from privacy.noise import SecureRandom
from strategies.agreement import layout_of, model_of, plan_for, resolve, task_of, write_spec
from strategies.errors import MessageError, SettingsError
from strategies.jsonfile import canonical
from strategies.runfile import parse
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import VERSION, Instruction


def asking(settings: RunSettings, **changes: Any) -> Instruction:
    values: dict[str, Any] = {
        "run": "run-1",
        "round": 1,
        "spec": write_spec(settings, run="run-1"),
        "train": True,
        "evaluate": True,
        "model": to_vector(model_of(settings, seed=3)),
    }
    return Instruction(**(values | changes))


def refused(instruction: Instruction, own: Site) -> Status:
    with pytest.raises((RefusalError, PrivacyError)) as caught:
        clear_vector(instruction, own)
    return status_of(caught.value)


OFF, LOCAL = settings_of(), settings_of(privacy=PRIVATE)
PLAIN_METRICS = settings_of(privacy={**PRIVATE, "metrics": "plain", "metric_noise": None})


def test_a_real_department_wants_privacy_unless_it_said_otherwise(tmp_path: Path) -> None:
    strict = account(tmp_path / "strict", 'lifetime = { epsilon = "200", delta = "1e-5" }')
    lax = account(tmp_path / "lax")

    def real(paid_by: Account | None) -> Site:
        journal = DiskJournal(tmp_path / "runs")
        return site(simulated=False, allow_clear=True, journal=journal, account=paid_by)

    for settings in (OFF, LOCAL):
        assert refused(asking(settings), real(None)) is Status.REFUSED_BY_POLICY
    assert refused(asking(OFF), real(strict)) is Status.REFUSED_BY_POLICY
    for paid_by in (strict, lax):
        assert refused(asking(PLAIN_METRICS), real(paid_by)) is Status.REFUSED_BY_POLICY
    assert not (tmp_path / "runs").exists()  # a refusal leaves no trace of a round
    assert kinds(strict.ledger) == kinds(lax.ledger) == ["genesis", "dataset", "policy"]
    clear_vector(asking(LOCAL), real(strict))
    clear_vector(asking(OFF, run="run-2", spec=write_spec(OFF, run="run-2")), real(lax))
    assert kinds(strict.ledger)[3:] == ["reserve", "release"]
    assert kinds(lax.ledger)[3:] == ["override", "release"]


def test_no_more_rounds_than_planned_and_one_measurement_after_them(tmp_path: Path) -> None:
    own = real(site(journal=DiskJournal(tmp_path / "runs")), account(tmp_path / "ledger"))
    last = LOCAL.training.rounds
    assert refused(asking(LOCAL, round=last + 1), own) is Status.REFUSED_BY_POLICY
    assert refused(asking(LOCAL, round=last + 2, train=False), own) is Status.REFUSED_BY_POLICY
    clear_vector(asking(LOCAL, round=last), own)
    clear_vector(asking(LOCAL, round=last + 1, train=False), own)
    assert refused(asking(LOCAL, round=last + 1, train=False), own) is Status.ROUND_ALREADY_ANSWERED


def test_a_spec_of_another_run_is_refused() -> None:
    assert refused(asking(OFF, run="run-2"), site()) is Status.BAD_MESSAGE


@pytest.mark.parametrize("size", [0, 5, 7])
def test_a_model_of_another_size_is_refused_before_the_round_is_recorded(tmp_path: Path, size: int) -> None:
    own = site(journal=DiskJournal(tmp_path))
    with pytest.raises(model_errors.SignatureMismatch):
        clear_vector(asking(OFF, model=np.zeros(size, np.float32)), own)
    with pytest.raises(model_errors.SignatureMismatch):
        clear_vector(asking(OFF, model=np.full(6, np.nan, np.float32)), own)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("control", [None, np.zeros(3, np.float32)])
def test_scaffold_needs_the_server_s_variate(control: Any) -> None:
    scaffold = settings_of(strategy={"name": "scaffold"})
    assert refused(asking(scaffold, control=control), site()) is Status.BAD_MESSAGE


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold"])
@pytest.mark.parametrize("private", [False, True])
def test_a_round_is_what_the_trainers_do_by_hand(private: bool, strategy: str) -> None:
    settings = settings_of(
        model={"name": "mlp", "hidden": [4]},
        strategy={"name": strategy, "proximal": 0.3},
        privacy=PRIVATE if private else {},
        training={"local_steps": 3, "momentum": 0.0 if strategy == "scaffold" else 0.5},
    )
    own = department("north", 40, seed=1)
    task, model = task_of(settings), model_of(settings, seed=3)
    layout = layout_of(settings, model, task)
    received = to_vector(model)
    server = np.linspace(-0.1, 0.1, len(received), dtype=np.float32)
    control = server if strategy == "scaffold" else None
    total = layout.total([clear_vector(asking(settings, control=control), site(own))])

    plan = plan_for(settings, declared_size=own.declared_size)
    corrections: dict[str, Any] = {
        "fedavg": None,
        "fedprox": lambda ps: [
            0.3 * (p.detach() - a) for p, a in zip(ps, pieces(torch.from_numpy(received), ps), strict=True)
        ],
        "scaffold": lambda ps: pieces(torch.from_numpy(server), ps),  # the department's own is still zero
    }
    lanes = measure(model, task, own.validation)
    if plan is None:
        trainer: Any = PlainTrainer(model, task.losses, settings.training, own.declared_size)
    else:
        noised = torch.from_numpy(lanes.copy())
        stream = SecureRandom.seeded(7, "north", "metrics/1")
        lanes = stream.add_normal_(noised, 3.0 * task.lane_sensitivity).numpy()
        trainer = PrivateTrainer(model, task.losses, plan)
    trainer.train(
        own.train.inputs,
        own.train.targets,
        learning_rate=0.5,
        momentum=settings.training.momentum,
        random=SecureRandom.seeded(7, "north", "train/1"),
        correction=corrections[strategy],
    )
    update = to_vector(model) - received
    np.testing.assert_allclose(total.update / total.weight, update, atol=1e-6)
    np.testing.assert_allclose(total.metrics, lanes, rtol=1e-6, atol=1e-6)
    assert total.weight == own.declared_size
    if strategy == "scaffold":
        assert total.control is not None
        np.testing.assert_allclose(total.control, -server - update / (3 * 0.5), atol=1e-5)


def pieces(vector: torch.Tensor, parameters: Any) -> list[torch.Tensor]:
    parts, start = [], 0
    for p in parameters:
        parts.append(vector[start : start + p.numel()].view(p.shape))
        start += p.numel()
    return parts


def test_privacy_changes_what_leaves() -> None:
    plain, noised = (clear_vector(asking(settings), site()) for settings in (OFF, LOCAL))
    assert plain.shape == noised.shape
    assert np.abs(plain[:6] - noised[:6]).max() > 0.1
    whole = plain[7:]
    assert (whole == whole.round()).sum() >= len(whole) - 1  # exact counts, but for the loss
    assert (noised[7:] != noised[7:].round()).all()


def test_weights_are_declared_or_uniform_but_never_counted() -> None:
    own = department("north", 40)
    lying = DepartmentData(name="north", train=own.train, validation=own.validation, declared_size=1234, records=40)
    uniform = settings_of(strategy={"weights": "uniform"})
    assert clear_vector(asking(OFF), site(lying))[6] == 1234
    assert clear_vector(asking(uniform), site(lying))[6] == 1


def test_no_metric_leaves_unless_asked() -> None:
    quiet = settings_of(privacy={"metrics": "off"})
    assert clear_vector(asking(quiet), site()).shape == (7,)
    assert not clear_vector(asking(OFF, evaluate=False), site())[7:].any()
    measured_only = clear_vector(asking(OFF, train=False), site())
    assert not measured_only[:6].any()
    assert measured_only[7] == 10  # a quarter of forty records


def test_training_that_diverges_is_not_the_message_s_fault() -> None:
    """A rate this large ends in numbers that are not finite; nothing of that is sent."""
    wild = settings_of(
        model={"name": "mlp", "hidden": [8], "activation": "relu"},
        training={"learning_rate": 1e8, "local_steps": 20, "sampling_rate": 1.0},
    )
    reply = respond(ask(asking(wild)), lambda _: site())
    assert answer_of(reply) == {"version": VERSION, "code": "training-failed"}


def answer_of(reply: Message) -> dict[str, Any]:
    assert list(reply.content) == ["answer"]
    return dict(reply.content.config_records["answer"])


PRIVATE_TEXT = "patient 4711"
ERRORS: list[tuple[Callable[[str], BaseException], Status]] = [
    (ValueError, Status.TRAINING_FAILED),
    (RuntimeError, Status.TRAINING_FAILED),
    (MemoryError, Status.TRAINING_FAILED),
    (RecursionError, Status.TRAINING_FAILED),
    (OSError, Status.TRAINING_FAILED),
    (KeyError, Status.TRAINING_FAILED),
    (StopIteration, Status.TRAINING_FAILED),
    (ZeroDivisionError, Status.TRAINING_FAILED),
    (torch.OutOfMemoryError, Status.TRAINING_FAILED),
    (NonFiniteModel, Status.TRAINING_FAILED),
    (BadPlan, Status.REFUSED_BY_POLICY),
    (AccountingError, Status.REFUSED_BY_POLICY),
    (ConfigError, Status.TRAINING_FAILED),
    (MessageError, Status.BAD_MESSAGE),
    (SettingsError, Status.BAD_MESSAGE),
    (model_errors.SignatureMismatch, Status.BAD_MESSAGE),
    (data_errors.OneClass, Status.DATA_UNUSABLE),
    (data_errors.TooFewRows, Status.DATA_UNUSABLE),
    (
        lambda text: data_errors.BadValue(source=text, row=3, column=text, problem=text),
        Status.DATA_UNUSABLE,
    ),
    *[(lambda text, status=status: RefusalError(status, text), status) for status in Status if status != "ok"],  # type: ignore[misc]  # the default binds the loop's value
]


@given(which=st.integers(0, len(ERRORS) - 1), where=st.sampled_from(["site", "train"]), text=st.text(max_size=20))
def test_every_failure_leaves_as_a_code_and_nothing_else(which: int, where: str, text: str) -> None:
    logging.getLogger("confide.client").setLevel(logging.CRITICAL)
    kind, status = ERRORS[which]
    secret = PRIVATE_TEXT + text

    def fail(*_: Any) -> Any:
        raise kind(secret)

    message = ask(asking(OFF))
    reply = respond(message, fail if where == "site" else lambda _: site(random=fail))
    assert answer_of(reply) == {"version": VERSION, "code": status.value}
    assert not reply.has_error()
    sent = b"".join(record.deflate() for record in [reply.content])
    assert PRIVATE_TEXT.encode() not in sent
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_a_message_that_is_no_instruction_is_answered_too() -> None:
    message = ask(asking(OFF))
    message.content = RecordDict({"instruction": ConfigRecord({"version": VERSION, "run": "x"})})
    assert answer_of(respond(message, lambda _: site())) == {"version": VERSION, "code": "bad-message"}


# --- which machine, which data set -----------------------------------------------------------------


def context(**node_config: Any) -> Context:
    return Context(run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config={})


@pytest.fixture
def enrolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a data set "toy"; returns the folder of its client."""
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path))
    return enrolled_machine(toy_csv(tmp_path / "toy.csv", 60), declared_size=50)


def test_an_enrolled_machine_maps_the_name_to_its_own_file(enrolled: Path) -> None:
    modest = settings_of(privacy={**PRIVATE, "noise_multiplier": 4.0, "metric_noise": 8.0})
    own = site_for(write_spec(modest, run="r"), context())
    assert callable(own.data)
    data = own.records()
    assert (data.name, data.declared_size, data.records) == ("north", 50, 60)
    assert not own.simulated
    assert own.account is not None
    assert own.random("train/1").private
    assert own.random("x") is not own.random("x")
    clear_vector(Instruction.from_record(asking(modest).to_record()), own)
    assert (enrolled / "runs" / "run-1.json").exists()


def test_an_unknown_data_set_is_a_code_of_its_own(enrolled: Path) -> None:
    spec = write_spec(settings_of(data={"name": "other"}), run="r")
    with pytest.raises(RefusalError) as caught:
        site_for(spec, context())
    assert caught.value.status is Status.UNKNOWN_DATASET
    with pytest.raises(RefusalError) as caught:
        site_for(write_spec(settings_of(data={"name": None}), run="r"), context())
    assert caught.value.status is Status.BAD_MESSAGE


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/passwd"},
        {"departments": {"a": "/etc/passwd"}},
        {"test": {"path": "/etc/passwd"}},
        {"path": "sklearn:iris"},
        {"declared_sizes": {"north": 1}},
        {"kind": "text", "columns": {}, "text": {"column": "t", "length": 4, "vocabulary_file": "/etc/passwd"}},
    ],
)
def test_a_spec_that_names_files_is_refused_before_any_is_opened(
    enrolled: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    hostile = canonical({"version": VERSION, "run": "r", "settings": document(data=change)})

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    for place in ("models.inputs.prepare.read", "models.inputs.resolve.read", "pathlib.Path.read_text"):
        monkeypatch.setattr(place, opened)
    with pytest.raises(data_errors.SettingsIncomplete, match="may not name files"):
        site_for(hostile, context())


def test_a_machine_that_is_not_enrolled_takes_its_share_of_a_public_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIDE_HOME", str(tmp_path))
    from models.inputs.resolve import resolve as resolve_data

    iris = parse(document(data={"name": "sklearn:iris", "path": "sklearn:iris", "label": None, "columns": {}}))
    iris = resolve(iris.model_copy(update={"data": resolve_data(iris.data)}))
    spec = write_spec(iris, run="r")
    shares = [site_for(spec, context(**{"partition-id": i, "num-partitions": 3})).data for i in range(3)]
    rows = [tuple(row) for data in shares for row in data.train.inputs.tolist()]
    assert sum(data.declared_size for data in shares) == len(rows)
    assert 120 < len(rows) < 150
    for node_config in ({}, {"partition-id": 3, "num-partitions": 3}, {"partition-id": "0", "num-partitions": 3}):
        with pytest.raises(RefusalError) as caught:
            site_for(spec, context(**node_config))
        assert caught.value.status is Status.UNKNOWN_DATASET
    with pytest.raises(RefusalError) as caught:
        site_for(write_spec(OFF, run="r"), context(**{"partition-id": 0, "num-partitions": 2}))
    assert caught.value.status is Status.UNKNOWN_DATASET


def test_one_warm_model_serves_round_after_round() -> None:
    """The same model object is trained again and again, whatever method hooked into it before."""
    for method in ("hooks", "ew", "vmap", "linear", None):
        own = site(gradients=method)
        received = asking(LOCAL).model
        for number in (1, 2, 3):
            vector = clear_vector(asking(LOCAL, round=number, model=received), own)
            received = (received + vector[:6] / vector[6]).astype(np.float32)
        load_vector(model_of(LOCAL, seed=0), received)
