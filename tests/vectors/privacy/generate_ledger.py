"""Writes the known-answer vectors of docs/ledger-spec.md: ``python tests/vectors/privacy/generate_ledger.py [FILE]``.

Everything follows from fixed keys. The formulas are tests/ledger_cases.py, which knows nothing of the room ``privacy``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from ledger_cases import (  # noqa: E402  # the folder above is no package
    ORDERS,
    POLICY,
    START,
    Department,
    Witness,
    canonical,
    cost,
    leaf,
    mechanism,
    public,
    root,
)

REFUSED = {
    "white space": '{"a": "b"}',
    "keys out of order": '{"b":"1","a":"2"}',
    "a key twice": '{"a":"1","a":"1"}',
    "an integer": '{"a":1}',
    "a real": '{"a":1.5}',
    "NaN": '{"a":NaN}',
    "an escape that need not be": '{"a":"\\u0041"}',
    "an escape of another spelling": '{"a":"\\u000A"}',
    "a solidus escaped": '{"a":"\\/"}',
    "a lone surrogate": '{"a":"\\ud800"}',
    "a line feed behind it": '{"a":"b"}\n',
    "a byte order mark": '\ufeff{"a":"b"}',
    "nothing": "",
}
ACCEPTED = [
    '{"":"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f\u00e9\u20ac\U0001d11e"}',
    "[]",
    '[null,true,false,"",{}]',
]


def halves(leaves: list[bytes]) -> int:
    """The largest power of two below their number."""
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return k


def inclusion(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = halves(leaves)
    if index < k:
        return [*inclusion(index, leaves[:k]), root(leaves[k:])]
    return [*inclusion(index - k, leaves[k:]), root(leaves[:k])]


def consistency(size: int, leaves: list[bytes], *, known: bool = True) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if size == len(leaves):
        return [] if known else [root(leaves)]
    k = halves(leaves)
    if size <= k:
        return [*consistency(size, leaves[:k], known=known), root(leaves[k:])]
    return [*consistency(size - k, leaves[k:], known=False), root(leaves[:k])]


def department() -> Department:
    """One entry of each kind."""
    made = Department("Caf\u00e9 M\u00fcller/1")
    made.genesis()
    made.policy(POLICY + "allow_without_privacy = true\n")
    made.dataset()
    made.reserve("run-1")
    made.release("run-1", 1)
    made.abandon("run-1", 2)
    made.release("run-1", 4, train=False)
    made.settle("run-1")
    made.witnessed(Witness())
    made.rotate()
    made.override("run-2")
    return made


def vectors() -> dict[str, Any]:
    """All of them."""
    made, witness = department(), Witness()
    leaves = [leaf(canonical(entry)) for entry in made.entries]
    size, time = len(leaves), START + 3600
    ((digest, (text, signature)),) = made.policies.items()
    return {
        "description": "docs/ledger-spec.md: bytes are hexadecimal, or text where they are text",
        "origin": made.origin,
        "keys": [public(key).hex() for _, key in made.keys],
        "secret_keys": [key.private_bytes_raw().hex() for _, key in made.keys],
        "witness": {"name": witness.name, "secret_key": witness.key.private_bytes_raw().hex()},
        "entries": [
            {"raw": canonical(entry).decode(), "signature": signature, "leaf": one.hex(), "line": line}
            for entry, signature, one, line in zip(made.entries, made.signatures, leaves, made.lines(), strict=True)
        ],
        "roots": [root(leaves[:n]).hex() for n in range(1, size + 1)],
        "inclusion": [[step.hex() for step in inclusion(index, leaves)] for index in range(size)],
        "consistency": [[step.hex() for step in consistency(n, leaves)] for n in range(1, size + 1)],
        "checkpoint": made.note(),
        "cosigned": {"time": time, "note": witness.cosigned(made.note(), time)},
        "policy": {"text": text.decode(), "digest": digest, "signature": signature},
        "costs": [
            {"mechanism": one, "cost": cost(one)}
            for one in (
                mechanism(),
                mechanism(sampling_rate="1.0", noise_multiplier="12.5", metric_noise=None, evaluations="0"),
                mechanism(sampling_rate="0.3", noise_multiplier="0.7", rounds="0", evaluations="1"),
            )
        ],
        "orders": list(ORDERS),
        "canonical": {"accepted": ACCEPTED, "refused": REFUSED},
    }


def written() -> str:
    """The file's text."""
    return json.dumps(vectors(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "reference.json"
    target.write_text(written(), encoding="ascii", newline="\n")
