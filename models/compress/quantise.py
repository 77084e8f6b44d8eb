"""The same model in fewer bits: ONNX in, ONNX out.

Integer products are of unsigned by unsigned bytes. With signed weights, processors without VNNI instructions add
pairs of products in 16 bits and saturate, so that one file would give different scores on different machines.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import CompressionError
from models.export import runtime, stripped
from models.onnx_session import INPUT
from models.public import PublicRecords, public_only

if TYPE_CHECKING:
    import onnx

_CALIBRATION: Final = 512
_CHUNK: Final = 64
# Smaller tensors gain less than the nodes that restore them cost.
_WORTHWHILE: Final = 512
_LARGEST_HALF: Final = float(np.finfo(np.float16).max)
_INTEGER_OPERATORS: Final = ("Conv", "Gemm", "MatMul", "Gather")


def float16(encoded: bytes) -> bytes:
    """Return a model whose weights are stored in half precision; it computes in float32, as CPUs do anyway.

    Raises:
        CompressionError: a weight is too large for half precision.
    """
    onnx, _ = runtime()
    proto = onnx.load_from_string(encoded)
    _halve(proto)
    return stripped(proto)


def int8_dynamic(encoded: bytes) -> bytes:
    """Return a model with weights in 8 bits, and activations quantised as they come; no record is needed.

    Raises:
        CompressionError: ONNX Runtime cannot quantise the model.
    """

    def quantise(proto: onnx.ModelProto, out: str) -> None:
        from onnxruntime import quantization  # noqa: PLC0415 - an optional package

        quantization.quantize_dynamic(proto, out, weight_type=quantization.QuantType.QUInt8)

    return _small(_quantised(encoded, quantise, "int8-dynamic"))


def int8_static(encoded: bytes, calibration: PublicRecords) -> bytes:
    """Return a model with weights in 8 bits, and activations in ranges measured beforehand on public records.

    Raises:
        PrivateDataRefused: ``calibration`` is not :class:`models.public.PublicRecords`.
        CompressionError: ONNX Runtime cannot quantise the model.
    """
    inputs = public_only(calibration, "calibration").head(_CALIBRATION).inputs

    def quantise(proto: onnx.ModelProto, out: str) -> None:
        from onnxruntime import quantization  # noqa: PLC0415 - an optional package

        batches = iter([{INPUT: np.array(inputs[at : at + _CHUNK])} for at in range(0, len(inputs), _CHUNK)])

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
            def get_next(self) -> dict[str, NDArray[Any]] | None:
                return next(batches, None)

        quantization.quantize_static(
            proto,
            out,
            Reader(),
            quant_format=quantization.QuantFormat.QOperator,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=list(_INTEGER_OPERATORS),
            extra_options={"MatMulConstBOnly": True},
        )

    return _small(_quantised(encoded, quantise, "int8-static"))


def _quantised(encoded: bytes, quantise: Callable[[Any, str], None], step: str) -> Any:
    """Run one of ONNX Runtime's quantisers, which write files."""
    onnx, _ = runtime()
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata  # noqa: PLC0415 - an optional package

    proto = onnx.load_from_string(encoded)
    # Constants are folded already, which is what it calls pre-processing.
    add_pre_process_metadata(proto)
    for position, node in enumerate(proto.graph.node):
        node.name = f"n{position}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "quantised.onnx")
        try:
            with _quiet():
                quantise(proto, str(out))
            return onnx.load_from_string(out.read_bytes())
        # The package raises whatever its many passes raise.
        except Exception as error:
            raise CompressionError(
                f"{step}: ONNX Runtime cannot quantise this model ({type(error).__name__}); leave the step out"
            ) from error


def _small(proto: onnx.ModelProto) -> bytes:
    """Return a quantised model's bytes, what the quantiser left in float32 made small too."""
    _recurrent_weights(proto)
    _halve(proto)
    _shorten(proto)
    return stripped(proto)


def _recurrent_weights(proto: onnx.ModelProto) -> None:
    """Store weights of recurrent layers that have no integer form in 8 bits, restored when the model runs."""
    onnx, _ = runtime()
    wanted = {name for node in proto.graph.node if node.op_type in ("LSTM", "GRU") for name in node.input[1:3]}
    for tensor in _large(proto, wanted):
        weight = onnx.numpy_helper.to_array(tensor)
        # One scale for each gate of each unit: rows of (directions, gates x hidden, inputs).
        scale = np.maximum(np.abs(weight).max(axis=(0, 2)), 1e-12) / np.float32(127)
        rounded = np.rint(weight / scale[:, None]).astype(np.int8)
        scales = onnx.numpy_helper.from_array(scale.astype(np.float32), f"{tensor.name}_scale")
        proto.graph.initializer.append(scales)
        _restore(proto, tensor, rounded, onnx.helper.make_node("DequantizeLinear", ["", scales.name], [""], axis=1))


def _halve(proto: onnx.ModelProto) -> None:
    """Store large float32 constants in half precision, restored to float32 when the model is loaded."""
    onnx, _ = runtime()
    for tensor in _large(proto):
        values = onnx.numpy_helper.to_array(tensor)
        if np.abs(values).max() > _LARGEST_HALF:
            raise CompressionError(
                f"float16: a weight passes {_LARGEST_HALF:g}, the largest in half precision; leave the step out"
            )
        cast = onnx.helper.make_node("Cast", [""], [""], to=onnx.TensorProto.FLOAT)
        _restore(proto, tensor, values.astype(np.float16), cast)


def _large(proto: onnx.ModelProto, names: set[str] | None = None) -> list[onnx.TensorProto]:
    """The float32 constants that are worth the trouble."""
    onnx, _ = runtime()
    return [
        tensor
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and np.prod(tensor.dims) >= _WORTHWHILE
        and (names is None or tensor.name in names)
    ]


def _restore(proto: onnx.ModelProto, tensor: onnx.TensorProto, values: NDArray[Any], node: onnx.NodeProto) -> None:
    """Replace a constant by a smaller one under another name, and a node that gives it back under its own."""
    onnx, _ = runtime()
    node.output[0], node.input[0] = tensor.name, f"{tensor.name}_stored"
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, node.input[0]))
    proto.graph.node.insert(0, node)


def _shorten(proto: onnx.ModelProto) -> None:
    """Number what lies between input and output: the quantiser's names are a good part of a small file."""
    graph = proto.graph
    kept = {"", *(value.name for value in (*graph.input, *graph.output))}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"{len(short):x}")

    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the quantiser tells the root logger, and keep it from giving that a handler."""

    def not_theirs(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(not_theirs)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            yield
    finally:
        root.removeFilter(not_theirs)
        root.removeHandler(handler)
