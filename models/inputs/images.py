"""Folders of image files, one sub-folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.inputs.errors import BadValue, ExtraMissing, SourceEmpty, SourceTooLarge, SourceUnreadable
from models.inputs.raw import RawArrays, digest

_SUFFIXES: Final = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
_MODES: Final = {1: "L", 3: "RGB"}


def image_library() -> ModuleType:
    """Return ``PIL.Image``.

    Raises:
        ExtraMissing: Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415  (an optional package)
    except ImportError:
        raise ExtraMissing('reading images needs Pillow; install it with: pip install "confide[client]"') from None
    return Image


def pixels(image: Any, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as uint8 ``shape`` = (C, H, W): grey or RGB, resized bilinearly where it differs.

    Raises:
        SourceUnreadable: C is neither 1 nor 3.
        OSError: the image is damaged.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise SourceUnreadable(f"data.image.shape = {list(shape)}: image files have 1 (grey) or 3 (RGB) channels")
    converted = image.convert(_MODES[channels])
    if converted.size != (width, height):
        converted = converted.resize((width, height), resample=image_library().Resampling.BILINEAR)
    return np.asarray(converted, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def read_image_folder(
    folder: Path, *, shape: tuple[int, int, int], classes: tuple[str, ...] | None, max_rows: int
) -> RawArrays:
    """Return every image below ``folder``, labelled by the name of its sub-folder.

    A record's digest is that of the file's bytes. File names may name a person, so messages count files in
    sorted order instead.

    Raises:
        ExtraMissing: Pillow is not installed.
        SourceEmpty: there is no sub-folder with an image.
        SourceTooLarge: more than ``max_rows`` images.
        SourceUnreadable: images of a sub-folder that ``classes`` does not list.
        BadValue: a file that Pillow cannot decode.
    """
    library = image_library()
    files, ignored = _image_files(folder, classes)
    if not files:
        raise SourceEmpty(f"{folder.name}: no images; expected one sub-folder per class, images inside")
    if len(files) > max_rows:
        raise SourceTooLarge(f"{folder.name}: more than data.max_rows = {max_rows} images; raise it")
    inputs = np.empty((len(files), *shape), np.uint8)
    keys = []
    for index, file in enumerate(files):
        try:
            with library.open(file) as image:
                inputs[index] = pixels(image, shape)
        except (OSError, SyntaxError, ValueError, library.DecompressionBombError) as error:
            if isinstance(error, SourceUnreadable):
                raise
            raise BadValue(
                source=folder.name,
                row=index + 1,
                column="image",
                problem="cannot be decoded (files counted in sorted order); replace or remove the file",
            ) from None
        keys.append(digest(file.parent.name.encode() + b"\0" + file.read_bytes()))
    notes = (f"{folder.name}: {ignored} files that are not images were left out",) if ignored else ()
    return RawArrays(
        inputs=inputs,
        labels=pa.array([file.parent.name for file in files], pa.string()),
        source=folder.name,
        keys=tuple(keys),
        notes=notes,
    )


def _image_files(folder: Path, classes: tuple[str, ...] | None) -> tuple[list[Path], int]:
    """Return the image files in sorted order, and how many other files there were."""
    files, ignored, unlisted = [], 0, 0
    for sub in sorted(_visible(folder)):
        if not sub.is_dir():
            ignored += 1
            continue
        inside = sorted(_visible(sub))
        images = [file for file in inside if file.is_file() and file.suffix.lower() in _SUFFIXES]
        ignored += len(inside) - len(images)
        if images and classes is not None and sub.name not in classes:
            unlisted += 1
        files += images
    if unlisted:
        raise SourceUnreadable(
            f"{folder.name}: {unlisted} sub-folders with images are not among the {len(classes or ())} "
            "classes; rename them or complete data.classes"
        )
    return files, ignored


def _visible(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, without the hidden files that file managers leave."""
    return (entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "Thumbs.db")
