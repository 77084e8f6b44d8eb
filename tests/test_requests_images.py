"""Images and sequences of a request: shapes, numbers, encoded files, and files made to do harm."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from request_cases import IMAGE, JSON, SEQUENCE, body, requests_of

from models.errors import RequestError
from models.inputs import request_arrays
from models.inputs.prepare import prepare_source
from models.inputs.schema import DataSettings

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

READER = requests_of(IMAGE)
COLOURED = requests_of(IMAGE, image={"shape": [3, 8, 8]})


def encoded(image: object, kind: str = "PNG") -> dict[str, str]:
    handle = io.BytesIO()
    image.save(handle, kind)  # type: ignore[attr-defined]  # a Pillow image
    return {"b64": base64.b64encode(handle.getvalue()).decode()}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
def test_encoded_images_are_prepared_as_in_a_folder(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    (tmp_path / "a").mkdir()
    pictures = [Image.fromarray(noise(*size)), Image.fromarray(noise(*size, 3, seed=1))]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "a" / f"{number}.png")
    table = {**IMAGE, "image": {"shape": [channels, 8, 8]}}
    wanted = prepare_source(DataSettings.model_validate(table), str(tmp_path)).inputs
    reader = requests_of(table)
    found = reader.parse(body(instances=[encoded(picture) for picture in pictures]), JSON)
    assert found.tobytes() == wanted.tobytes()


def test_jpeg_and_lists_may_be_mixed() -> None:
    pixels = noise(8, 8)
    flat = Image.new("L", (8, 8), 128)
    found = READER.parse(body(inputs=[encoded(flat, "JPEG"), pixels.tolist()]), JSON)
    np.testing.assert_allclose(found[0], 128 / 255, atol=0.01)
    np.testing.assert_array_equal(found[1, 0], pixels.astype(np.float32) / np.float32(255))


ROW = [0.0] * 8


@pytest.mark.parametrize(
    ("record", "part"),
    [
        (0, "record 2: send nested lists of numbers of shape .1, 8, 8. or .8, 8. or .64."),
        ([], "record 2: send nested lists"),
        ([0] * 63, "record 2: send nested lists"),
        ([ROW] * 7, "record 2: send nested lists"),
        ([*[ROW] * 7, [0.0] * 7], "record 2: send nested lists"),
        ([*[ROW] * 7, 0], "record 2: send nested lists"),
        ([[[ROW]]], "record 2: send nested lists"),
        ([*[0] * 63, "1"], "record 2, element 63: not a number"),
        ([*[0] * 63, None], "record 2, element 63: not a number"),
        ([*[0] * 63, True], "record 2, element 63: not a number"),
        ({}, "b64"),
        ({"b64": 1}, "b64"),
        ({"b64": "", "x": 1}, "b64"),
        ({"b64": "a b="}, "not base64"),
        ({"b64": "é"}, "not base64"),
        ({"b64": "AAAA"}, "no PNG or JPEG"),
        ({"b64": ""}, "no PNG or JPEG"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(record: object, part: str) -> None:
    with pytest.raises(RequestError, match=part):
        READER.parse(body(instances=[[0] * 64, record]), JSON)


def test_numbers_too_large_are_refused_and_large_ones_clipped() -> None:
    ones = ",1" * 63
    with pytest.raises(RequestError, match="record 1, element 0: too large"):
        READER.parse(f'{{"instances": [[1e999{ones}]]}}'.encode(), JSON)
    digits = "9" * 300
    found = READER.parse(f'{{"instances": [[{digits}{ones}], [-1e300{ones}]]}}'.encode(), JSON)
    assert found[:, 0, 0, 0].tolist() == [1, 0]
    sequence = requests_of(SEQUENCE)
    assert sequence.parse(body(instances=[[1e300] * 12]), JSON).max() == 1


def test_objects_have_no_order() -> None:
    with pytest.raises(RequestError, match="an object has no order"):
        READER.parse(body(dataframe_records=[{"p": 0}]), JSON)
    with pytest.raises(RequestError, match="send a list"):
        READER.parse(body(inputs={"p": [0]}), JSON)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(request_arrays, "pixels", never)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    start = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"
    bomb = base64.b64encode(start).decode()
    with pytest.raises(RequestError, match="too many pixels"):
        READER.parse(body(instances=[{"b64": bomb}]), JSON)
    with pytest.raises(RequestError, match="too many pixels"):
        READER.parse(body(instances=[encoded(Image.new("1", (4097, 4096)))]), JSON)


def test_many_large_images_are_refused_together() -> None:
    large = encoded(Image.new("1", (4096, 4096)))
    with pytest.raises(RequestError, match="record 5, 'b64': too many pixels"):
        READER.parse(body(instances=[large] * 5), JSON)


def test_files_of_other_kinds_are_not_opened() -> None:
    for kind in ("GIF", "BMP", "TIFF"):
        with pytest.raises(RequestError, match="no PNG or JPEG"):
            READER.parse(body(instances=[encoded(Image.new("L", (8, 8)), kind)]), JSON)


def test_two_channels_have_no_file() -> None:
    with pytest.raises(RequestError, match="images of 2 channels"):
        requests_of(IMAGE, image={"shape": [2, 8, 8]}).parse(body(instances=[encoded(Image.new("L", (8, 8)))]), JSON)


PICTURES = [base64.b64decode(encoded(Image.fromarray(noise(16, 16, 3)), kind)["b64"]) for kind in ("PNG", "JPEG")]


@examples(max_examples=120, deadline=None, derandomize=True)
@given(
    which=st.sampled_from(PICTURES),
    at=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.floats(0, 1) | st.none(),
)
def test_damaged_images_give_pixels_or_a_request_error(which: bytes, at: float, value: int, cut: float | None) -> None:
    content = bytearray(which)
    content[int(at * len(content))] = value
    damaged = bytes(content if cut is None else content[: int(cut * len(content))])
    try:
        found = COLOURED.parse(body(instances=[{"b64": base64.b64encode(damaged).decode()}]), JSON)
    except RequestError:
        return
    assert found.shape == (1, 3, 8, 8)


def test_without_pillow_lists_still_do(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = encoded(Image.new("L", (8, 8)))
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(RequestError, match="send the pixels as lists"):
        READER.parse(body(instances=[picture]), JSON)
    assert READER.parse(body(instances=[[0] * 64]), JSON).shape == (1, 1, 8, 8)
