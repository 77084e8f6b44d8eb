"""Running an ONNX file by ONNX Runtime; needs neither torch nor the ``onnx`` package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT: Final = "records"
OUTPUT: Final = "scores"


def open_session(content: bytes) -> InferenceSession:
    """Return a session of one thread on the CPU over the bytes of a file.

    Raises:
        ImportError: ONNX Runtime is not installed.
        Exception: it refuses the file; its errors have no common class of their own.
    """
    import onnxruntime  # noqa: PLC0415  (an extra)

    options = onnxruntime.SessionOptions()
    # So that a server's requests run beside each other, and what is measured does not depend on the machine's load.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages may quote what a request holds
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
