"""What every member of a round must have received alike, or its masks do not cancel."""

from __future__ import annotations

from secagg.member import Bindings
from secagg.primitives import policy_hash
from secagg.transcript import config_hash, layout_hash, model_hash
from strategies.jsonfile import canonical
from strategies.wire import VERSION, Instruction, to_bytes


def bindings_of(instruction: Instruction, layout: bytes) -> Bindings:
    """Hashes of every received byte that influences training or encoding."""
    control = b"" if instruction.control is None else to_bytes(instruction.control)
    configuration = {
        "version": VERSION,
        "run": instruction.run,
        "round": instruction.round,
        "train": instruction.train,
        "evaluate": instruction.evaluate,
    }
    return Bindings(
        policy=policy_hash(instruction.spec.encode()),
        model=model_hash(to_bytes(instruction.model), control),
        layout=layout_hash(layout),
        config=config_hash(canonical(configuration).encode()),
    )
