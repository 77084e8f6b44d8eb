"""Whether an ONNX file stands alone, read from its bytes: the field numbers are those of onnx.proto3.

A model server has no onnx package, and must not let a model name other files that its runtime would open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from models.errors import BundleError

# Which message each field of a message is; fields that are not listed can hold no tensor.
_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_GRAPH, _EXTERNAL_DATA, _DATA_LOCATION = 7, 13, 14
_MOST_DEPTH: Final = 64


def check_alone(data: bytes, what: str) -> None:
    """Refuse a model that keeps weights in other files.

    Raises:
        BundleError: it names other files, or is no ONNX file. ``what`` names it.
    """
    try:
        external = _external(memoryview(data), "model", 0)
        if all(number != _GRAPH for number, _ in _fields(memoryview(data))):
            raise ValueError("no graph")
    except (ValueError, IndexError):
        raise BundleError(f"{what}: no ONNX file; export it again") from None
    if external:
        raise BundleError(f"{what}: keeps weights in other files; export it with everything inside")


def _external(data: memoryview, message: str, depth: int) -> bool:
    """Whether a message, or one inside it, is a tensor whose data are elsewhere."""
    if depth > _MOST_DEPTH:
        raise ValueError("nested too deeply")
    found = False
    for number, value in _fields(data):
        if message == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            found = True
        inside = _INSIDE[message].get(number)
        if inside is not None:
            if isinstance(value, int):
                raise ValueError("a message was expected")
            found |= _external(value, inside, depth + 1)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Every field of a message: its number, and its integer or bytes (protobuf's wire format)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError("a wire type that ONNX does not use")
            if number == 0 or size > len(data) - at:
                raise ValueError("a field passes the end")
            value, at = data[at : at + size], at + size
        yield number, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer of at most ten bytes, and where it ends."""
    value = 0
    for k in range(10):
        byte = data[at + k]
        value |= (byte & 0x7F) << 7 * k
        if byte < 0x80:
            return value, at + k + 1
    raise ValueError("an integer without an end")
