"""Taking a model out of a verified bundle, in the format that a device or a colleague wants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from models.bundle import Bundle
from models.bundle_document import WEIGHTS, Variant
from models.compress.plan import file_of, split
from models.errors import nearest
from models.files import write_atomic
from server.errors import PublishError

Converter: TypeAlias = Callable[[Bundle, Variant], bytes]


def exported(bundle: Bundle, out: Path, *, variant: str | None = None, form: str = "onnx") -> dict[str, Any]:
    """Write a variant in a format of :data:`CONVERTERS`, and return ``file``, ``bytes`` and ``sha256``.

    Raises:
        PublishError: ``out`` exists, or there is no such format.
        BundleError, StoreError: there is no such variant, its file is no longer what was signed, or ``out`` cannot be
            written.
    """
    if form not in CONVERTERS:
        raise PublishError(f"--format {form}: {nearest(form, CONVERTERS)}")
    if out.exists():
        raise PublishError(f"--out {out}: exists already; name a new file")
    data = CONVERTERS[form](bundle, bundle.variant(variant))
    write_atomic(out, data)
    return {"file": str(out), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _onnx(bundle: Bundle, variant: Variant) -> bytes:
    """The variant as it was measured."""
    return bundle.read(variant.file)


def _weights(bundle: Bundle, variant: Variant) -> bytes:
    """The weights that the variant was stored in fewer bits from: a smaller model's own, or the run's."""
    smaller, _ = split(variant.steps)
    return bundle.read(WEIGHTS if smaller is None else file_of((smaller,), "safetensors"))


# Another format begins here.
CONVERTERS: Final[Mapping[str, Converter]] = {"onnx": _onnx, "safetensors": _weights}
