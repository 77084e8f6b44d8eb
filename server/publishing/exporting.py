"""Taking one file out of a verified bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.bundle_document import WEIGHTS
from models.errors import nearest
from models.files import write_atomic
from server.errors import PublishError

FORMATS = ("onnx", "safetensors")


def exported(bundle: Bundle, out: Path, *, variant: str | None = None, form: str = "onnx") -> dict[str, Any]:
    """Write a variant as ONNX, or weights as safetensors, and return ``file``, ``bytes`` and ``sha256``.

    Raises:
        PublishError: ``out`` exists, or there is no such variant or format.
        BundleError, StoreError: the file is no longer what was signed, or cannot be written.
    """
    if form not in FORMATS:
        raise PublishError(f"--format {form}: {nearest(form, FORMATS)}")
    if out.exists():
        raise PublishError(f"--out {out}: exists already; name a new file")
    data = bundle.read(_file(bundle, variant, form))
    write_atomic(out, data)
    return {"file": str(out), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _file(bundle: Bundle, variant: str | None, form: str) -> str:
    """The name of a file within the bundle."""
    name = bundle.variant(variant).file
    if form == "onnx":
        return name
    own = name.removesuffix(".onnx") + ".safetensors"
    if own in bundle.files:
        return own
    # Quantised and half-precision variants have the weights of the model that they were made of.
    return WEIGHTS
