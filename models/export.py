"""A trained model as a file that runs without this program: ONNX.

Files hold what the model computes and nothing about where it was made: the exporter's source lines, paths
and module names are taken out, so that the same weights always give the same bytes.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import CompressionError
from models.onnx_session import INPUT, OUTPUT, open_session
from models.public import PublicRecords
from models.signature import Signature

if TYPE_CHECKING:
    import onnx
    import onnxruntime

OPSET: Final = 20

_MISSING: Final = "install it with: pip install 'confide[publish]'"
_BATCHES: Final = (1, 2, 17)
_CLOSE: Final = 1e-4
_FOLDED: Final = 2**31


def to_onnx(model: nn.Module, signature: Signature) -> bytes:
    """Return a model as ONNX (opset 20): the same bytes for the same weights and versions of the exporter.

    Its input ``records`` is float32 ``(batch, *shape)``, for tokens int64 ``(batch, T)``; its output ``scores`` is
    float32 ``(batch, outputs)``, the model's own scores. The batch may have any size. The file is checked and run
    on synthetic records at several batch sizes before it is returned.

    Raises:
        CompressionError: a package is missing, the exporter cannot express the model, or the file computes
            something else than the model.
    """
    still = copy.deepcopy(model).to("cpu").eval()
    example = torch.from_numpy(np.array(PublicRecords.synthetic(signature, records=2, seed=0).inputs))
    proto = _exported(still, example)
    encoded = stripped(proto)
    _compare(still, signature, encoded)
    return encoded


def stripped(proto: onnx.ModelProto) -> bytes:
    """Return a model's bytes without descriptions, source lines, paths, and shapes that follow from others.

    Raises:
        CompressionError: what is left is not valid ONNX.
    """
    onnx, _ = runtime()
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    lean.producer_name, lean.producer_version, lean.domain = "confide", "", ""
    _clear(lean)
    for function in lean.functions:
        _clear(function)
        _clear_nodes(function)
    _clear_graph(lean.graph)
    try:
        onnx.checker.check_model(lean)
    except onnx.checker.ValidationError as error:
        raise CompressionError(f"model: what the exporter made is not valid ONNX ({_line(error)})") from error
    return bytes(lean.SerializeToString(deterministic=True))


def session(encoded: bytes) -> onnxruntime.InferenceSession:
    """Return a session of one thread over the bytes of a file.

    Raises:
        CompressionError: ONNX Runtime is missing or cannot run the file.
    """
    runtime()
    try:
        return open_session(encoded)
    # ONNX Runtime's errors have no common class of their own.
    except Exception as error:
        raise CompressionError(f"model: ONNX Runtime cannot run the file ({_line(error)})") from error


def run(ready: onnxruntime.InferenceSession, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scores of records, float32 ``(N, outputs)``.

    Raises:
        CompressionError: ONNX Runtime cannot run the file on them.
    """
    try:
        return np.asarray(ready.run([OUTPUT], {INPUT: inputs})[0], dtype=np.float32)
    except Exception as error:
        raise CompressionError(f"model: ONNX Runtime cannot run the file ({_line(error)})") from error


def runtime() -> tuple[Any, Any]:
    """Return the packages ``onnx`` and ``onnxruntime``; they are loaded only when something is published.

    Raises:
        CompressionError: one of them, or the exporter's ``onnxscript``, is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - an optional package
        import onnxruntime  # noqa: PLC0415 - as above
        import onnxscript  # noqa: F401, PLC0415 - as above; torch's exporter loads it
    except ImportError as error:
        raise CompressionError(f"package {error.name!r} is missing; {_MISSING}") from error
    return onnx, onnxruntime


def _exported(model: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Run torch's exporter."""
    runtime()
    from onnxscript.optimizer import optimize_ir  # noqa: PLC0415 - an optional package

    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                verbose=False,
            )
            if program is not None:
                # The exporter reorders a recurrent layer's gates at run time; folded, the weights are constants again,
                # which is faster, and the only form that can be quantised.
                optimize_ir(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    # The exporter raises whatever its many passes raise.
    except Exception as error:
        raise CompressionError(
            f"model {type(model).__name__!r}: cannot be exported to ONNX ({_line(error)}); use a model of the zoo"
        ) from error
    if program is None:
        raise CompressionError(f"model {type(model).__name__!r}: torch's exporter returned nothing; update torch")
    return program.model_proto


def _compare(model: nn.Module, signature: Signature, encoded: bytes) -> None:
    """Refuse a file that computes something else than the model."""
    ready = session(encoded)
    for batch in _BATCHES:
        inputs = np.array(PublicRecords.synthetic(signature, records=batch, seed=batch).inputs)
        try:
            with torch.no_grad():
                wanted = model(torch.from_numpy(inputs)).numpy()
        except RuntimeError as error:
            raise CompressionError(
                f"model {type(model).__name__!r}: cannot take a batch of {batch} ({_line(error)}); "
                "use a model of the zoo"
            ) from error
        given = run(ready, inputs)
        if given.shape != wanted.shape:
            raise CompressionError(
                f"model: the ONNX file returns {given.shape} for a batch of {batch}, PyTorch {wanted.shape}; "
                "check that forward treats every batch size alike"
            )
        off = float(np.abs(given - wanted).max() / (1 + np.abs(wanted).max()))
        # A NaN is no agreement.
        if not off <= _CLOSE:
            raise CompressionError(
                f"model: the ONNX file differs from PyTorch by {off:.2g} of the largest score at a batch of {batch} "
                f"(at most {_CLOSE:g}); check for NaN or infinite weights"
            )


def _clear_graph(graph: onnx.GraphProto) -> None:
    """Clear a graph and whatever it holds."""
    _clear(graph)
    graph.name = "confide"
    # Shapes of what lies between follow from the inputs'; they only add bytes.
    del graph.value_info[:]
    for part in (*graph.input, *graph.output, *graph.initializer):
        _clear(part)
    _clear_nodes(graph)


def _clear_nodes(owner: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Clear nodes, and the graphs inside them; nothing refers to a node by its name."""
    for node in owner.node:
        _clear(node)
        node.ClearField("name")
        for attribute in node.attribute:
            _clear(attribute)
            if attribute.HasField("g"):
                _clear_graph(attribute.g)


def _clear(part: Any) -> None:
    """Clear the descriptions of one part."""
    for field in ("doc_string", "metadata_props"):
        if field in part.DESCRIPTOR.fields_by_name:
            part.ClearField(field)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says of packages it does not need and of its own deprecated calls."""
    chatty = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The tensor attributes? self", UserWarning)
            warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
            yield
    finally:
        chatty.setLevel(level)


def _line(error: Exception) -> str:
    """The first line of another package's error, without the paths and listings that follow."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}" if str(error).strip() else repr(error)
