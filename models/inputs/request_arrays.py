"""Images and sequences of a request: nested lists of numbers, and images encoded as PNG or JPEG."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.errors import RequestError
from models.inputs.errors import ExtraMissing, SourceUnreadable
from models.inputs.images import image_library, pixels
from models.inputs.raw import RawArrays

MAX_PIXELS: Final = 2**24
_MAX_PIXELS_IN_ALL: Final = 2**26
_FORMATS: Final = ("PNG", "JPEG")
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

# What Pillow's two decoders are known to raise on damaged files.
_DAMAGED: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)


def raw_arrays(records: Sequence[object], shape: tuple[int, ...], *, image: bool) -> RawArrays:
    """Return records given as nested lists of floats of ``shape``, or flat.

    An image of one channel may also be ``(H, W)``, and any image of one or three channels ``{"b64": TEXT}``
    with TEXT a PNG or JPEG file in base64, which is resized bilinearly where its size differs.

    Raises:
        RequestError: naming the record: of another shape, not numbers, not finite, or an image that cannot
            be decoded or is too large.
    """
    # Images are cast to float32 before anything else in training as well; sequences are scaled as float64.
    batch = np.empty((len(records), *shape), np.float32 if image else np.float64)
    allowance = _MAX_PIXELS_IN_ALL
    for index, record in enumerate(records):
        number = index + 1
        if isinstance(record, list):
            values = _numbers(record, shape, number, image=image)
            batch[index] = np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX) if image else values
        elif image and isinstance(record, dict):
            batch[index], used = _picture(record, shape, number, allowance)
            allowance -= used
        else:
            raise _misshapen(number, shape, image=image)
    return RawArrays(inputs=batch, labels=pa.nulls(len(records)), source="request")


def forms_of(shape: tuple[int, ...], *, image: bool) -> list[tuple[int, ...]]:
    """Return the shapes in which one record may be given as nested lists.

    >>> forms_of((1, 8, 8), image=True)
    [(1, 8, 8), (8, 8), (64,)]
    """
    forms = [shape]
    if image and shape[0] == 1:
        forms.append(shape[1:])
    return [*forms, (math.prod(shape),)]


def _numbers(record: list[object], shape: tuple[int, ...], number: int, *, image: bool) -> npt.NDArray[np.float64]:
    """Return one record's numbers in ``shape``; each level of lists is checked before it is opened."""
    depth = 0
    inside: object = record
    while isinstance(inside, list):
        depth += 1
        inside = inside[0] if inside else None
    form = next((form for form in forms_of(shape, image=image) if len(form) == depth), None)
    if form is None:
        raise _misshapen(number, shape, image=image)
    level: list[Any] = [record]
    for side in form:
        if set(map(type, level)) != {list} or set(map(len, level)) != {side}:
            raise _misshapen(number, shape, image=image)
        level = list(chain.from_iterable(level))
    if set(map(type, level)) != {float}:
        odd = next(position for position, value in enumerate(level) if type(value) is not float)
        raise RequestError(f"record {number}, element {odd}: not a number; send numbers alone")
    values = np.array(level, np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        raise RequestError(f"record {number}, element {int(finite.argmin())}: too large for a number; correct it")
    return values.reshape(shape)


def _picture(
    record: dict[str, object], shape: tuple[int, ...], number: int, allowance: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """Decode one encoded image; return it and how many pixels it had."""
    text = record.get("b64")
    if record.keys() != {"b64"} or not isinstance(text, str):
        raise RequestError(f'record {number}: send an encoded image as {{"b64": "TEXT"}}, a PNG or JPEG file in base64')
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise RequestError(f"record {number}, 'b64': not base64 (RFC 4648, standard alphabet, padded)") from None
    try:
        library = image_library()
    except ExtraMissing:
        raise RequestError(
            f"record {number}, 'b64': Pillow is not installed where this model runs; send the pixels as lists, "
            "or install it there with: pip install 'confide[serve]'"
        ) from None
    channels, height, width = shape
    bombs = (library.DecompressionBombError, library.DecompressionBombWarning)
    try:
        # Only the header is read here; what it announces is checked before anything is decoded.
        with library.open(io.BytesIO(content), formats=_FORMATS) as picture:
            used = math.prod(picture.size)
            if used > min(MAX_PIXELS, allowance):
                raise _too_many_pixels(number)
            return pixels(picture, (channels, height, width)), used
    except RequestError:
        raise
    except bombs:
        raise _too_many_pixels(number) from None
    except SourceUnreadable:
        raise RequestError(
            f"record {number}, 'b64': images of {channels} channels have no file format here; send lists"
        ) from None
    except _DAMAGED:
        raise RequestError(f"record {number}, 'b64': no PNG or JPEG image, or a damaged one; encode it again") from None


def _too_many_pixels(number: int) -> RequestError:
    """Build the error for an image that would take too much memory."""
    return RequestError(
        f"record {number}, 'b64': too many pixels; send at most {MAX_PIXELS} an image "
        f"and {_MAX_PIXELS_IN_ALL} a request"
    )


def _misshapen(number: int, shape: tuple[int, ...], *, image: bool) -> RequestError:
    """Build the error for a record of another shape."""
    forms = " or ".join(str(list(form)) for form in forms_of(shape, image=image))
    encoded = ' or {"b64": "TEXT"}' if image and shape[0] in {1, 3} else ""
    return RequestError(f"record {number}: send nested lists of numbers of shape {forms}{encoded}")
