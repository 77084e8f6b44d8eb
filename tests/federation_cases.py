"""A toy problem, departments that hold a share of it, and a Flower grid whose replies a test decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from client.data import DepartmentData, Split
from client.state import MemoryJournal
from client.train import Site, carry_out
from privacy.noise import SecureRandom
from strategies.agreement import resolve
from strategies.flower import assume_identity
from strategies.lanes import FloatVector
from strategies.runfile import parse
from strategies.settings import RunSettings
from strategies.status import Status
from strategies.wire import Instruction, answer, from_bytes

torch.set_num_threads(1)  # threads only get in each other's way on problems of this size

TOY: dict[str, Any] = {
    "name": "toy",
    "model": {"name": "logistic"},
    "data": {
        "kind": "tabular",
        "name": "toy",
        "label": "y",
        "columns": {"a": {"bounds": [-1, 1]}, "b": {"bounds": [-1, 1]}},
    },
    "training": {"rounds": 3, "local_steps": 2, "sampling_rate": 0.5, "learning_rate": 0.5},
    "privacy": {"mode": "off"},
    "secagg": {"mode": "clear"},
}
PRIVATE = {"mode": "local", "noise_multiplier": 1.0, "metric_noise": 3.0, "metrics": "dp"}


def document(**tables: Any) -> dict[str, Any]:
    """The toy run file with some tables changed: a mapping is merged into its table."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in TOY.items()}
    for name, value in tables.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
    return merged


def settings_of(**tables: Any) -> RunSettings:
    """Resolved settings of a changed toy run."""
    return resolve(parse(document(**tables)))


def toy_rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records in [-1, 1]^2 and whether they lie right of a line."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return inputs, (inputs[:, 0] + 0.5 * inputs[:, 1] > 0).astype(np.int64)


def toy_csv(path: Path, count: int, seed: int = 0, *, department: int = 0) -> Path:
    """The toy records as a file, with a column of ``department`` names if wanted."""
    inputs, labels = toy_rows(count, seed)
    lines = ["a,b,y" + (",office" if department else "")]
    for i, (row, label) in enumerate(zip(inputs.tolist(), labels.tolist(), strict=True)):
        office = f",office-{i % department}" if department else ""
        lines.append(f"{row[0]:.6f},{row[1]:.6f},{label}{office}")
    path.write_text("\n".join(lines) + "\n")
    return path


def department(name: str, count: int = 40, seed: int = 0) -> DepartmentData:
    """A department's data without a file."""
    inputs, labels = (torch.from_numpy(part) for part in toy_rows(count, seed))
    held_out = count // 4
    return DepartmentData(
        name=name,
        train=Split(inputs=inputs[held_out:], targets=labels[held_out:]),
        validation=Split(inputs=inputs[:held_out], targets=labels[:held_out]),
        declared_size=count,
        records=count,
    )


def site(data: DepartmentData | None = None, **changes: Any) -> Site:
    """A simulated machine with reproducible randomness."""
    own = data or department("north")
    defaults: dict[str, Any] = {
        "data": own,
        "journal": MemoryJournal(),
        "random": lambda purpose: SecureRandom.seeded(7, own.name, purpose),
        "simulated": True,
    }
    return Site(**(defaults | changes))


def clear_vector(instruction: Instruction, machine: Site) -> FloatVector:
    """The vector with which a machine answers a run in clear."""
    return from_bytes(carry_out(instruction, machine).config_records["answer"]["vector"], "vector")


def ask(instruction: Instruction, *, node: int = 1) -> Message:
    """The instruction as a message on its way to a department."""
    assume_identity(run=1, node=1)
    message = Message(instruction.to_record(), dst_node_id=node, message_type="train")
    message.metadata.__dict__["_message_id"] = f"asked-{node}"
    return message


def reply(record: RecordDict, *, node: int = 1) -> Message:
    """A department's reply that holds exactly this record."""
    assume_identity(run=1, node=1)
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    asked.metadata.__dict__["_message_id"] = f"asked-{node}"
    return Message(record, reply_to=asked)


Answer = Callable[[Instruction, int], "FloatVector | Status | RecordDict | Error | None"]


class FakeGrid(Grid):
    """Departments that answer as ``answers`` (by name) say: a vector, a status, a record, an error or nothing.

    ``unreachable`` departments cannot be sent to; ``gone`` ones vanish once a message was sent;
    ``noise`` are extra messages handed out with every pull.
    """

    def __init__(self, answers: Mapping[str, Answer], *, shuffle: int | None = None) -> None:
        assume_identity(run=1, node=1)
        self.names = dict(enumerate(answers, start=11))
        self.answers = dict(answers)
        self.unreachable: set[str] = set()
        self.gone: set[str] = set()
        self.extra: list[Message] = []
        self.sent: list[tuple[str, Instruction]] = []
        self.pushed = False
        self._waiting: dict[str, Message] = {}
        self._numbers = itertools.count()
        self._rng = None if shuffle is None else np.random.default_rng(shuffle)

    def get_nodes(self) -> Iterable[Any]:
        return [SimpleNamespace(node_id=node, name=self.names[node]) for node in self.get_node_ids()]

    def get_node_ids(self) -> Iterable[int]:
        return [node for node, name in self.names.items() if not (self.pushed and name in self.gone)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.pushed = True
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> Any:
        node = message.metadata.dst_node_id
        name = self.names[node]
        if name in self.unreachable:
            return None
        identifier = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = identifier
        instruction = Instruction.from_record(message.content)
        self.sent.append((name, instruction))
        given = self.answers[name](instruction, node)
        if isinstance(given, Error | RecordDict):
            self._waiting[identifier] = Message(given, reply_to=message)
        elif isinstance(given, Status):
            self._waiting[identifier] = Message(answer(given), reply_to=message)
        elif given is not None:
            self._waiting[identifier] = Message(answer(Status.OK, given), reply_to=message)
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [self._waiting.pop(i) for i in list(message_ids) if i in self._waiting]
        if self._rng is not None:
            self._rng.shuffle(ready)  # type: ignore[arg-type]  # a list of messages, whatever numpy's stubs say
        return [*self.extra, *ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError
