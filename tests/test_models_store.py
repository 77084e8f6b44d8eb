"""A stored model comes back exactly, is never half-written, and is not believed when it was tampered with."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from models_cases import Case, each_case
from torch import nn

from models import zoo
from models.errors import BadHyperparameter, ModelError, SignatureMismatch, StoreError, UnknownModel
from models.files import write_atomic
from models.signature import Signature
from models.store import MANIFEST, WEIGHTS, describe, load, save
from models.task import task_for
from models.vector import to_vector

SIGNATURE = Signature(kind="vector", shape=(3,), target="classes", outputs=2)
TASK = task_for("mlp", SIGNATURE)


def model_of(seed: int) -> nn.Module:
    return zoo.build("mlp", SIGNATURE, {"hidden": [5]}, seed=seed)


def manifest_of(version: int) -> dict[str, object]:
    return {**describe("mlp", TASK, {"hidden": [5]}), "round": version}


def stored(directory: Path) -> int:
    """The version a reader gets, after checking that it is a whole one."""
    model, _, manifest = load(directory)
    assert np.array_equal(to_vector(model), to_vector(model_of(manifest["round"])))
    return int(manifest["round"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "run" / "model", model_of(1), manifest=manifest_of(1))


@each_case
def test_round_trip(case: Case, tmp_path: Path) -> None:
    model = zoo.build(case.name, case.signature, seed=4)
    torch.manual_seed(3)
    generator = torch.get_rng_state()
    directory = save(tmp_path / "m", model, manifest={**describe(case.name, case.task), "run": "r-1"})
    again, task, manifest = load(directory)
    assert torch.equal(torch.get_rng_state(), generator)
    assert np.array_equal(to_vector(again), to_vector(model))
    assert task == case.task
    assert (manifest["model"], manifest["run"], manifest["format"]) == (case.name, "r-1", "confide-model/1")
    assert sorted(path.name for path in directory.iterdir()) == [MANIFEST, WEIGHTS]


def test_hyperparameters_are_rebuilt_and_a_loaded_manifest_can_be_saved(folder: Path, tmp_path: Path) -> None:
    model, _, manifest = load(folder)
    assert manifest["hyperparameters"] == {"hidden": [5], "activation": "tanh"}
    assert load(save(tmp_path / "copy", model, manifest=manifest))[2] == manifest


def test_a_later_version_replaces_the_earlier(folder: Path) -> None:
    save(folder, model_of(2), manifest=manifest_of(2))
    assert stored(folder) == 2
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, WEIGHTS]


@pytest.mark.parametrize("function", ["fsync", "replace", "open"])
@pytest.mark.parametrize("call", range(6))
def test_a_full_disk_at_any_step(folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int) -> None:
    real: Callable[..., Any] = getattr(os, function)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing)
        try:
            save(folder, model_of(2), manifest=manifest_of(2))
            raised = False
        except StoreError as error:
            raised = True
            assert str(folder) in str(error)
            assert "No space left on device" in str(error)
    # Every version is whole; without an error it is the new one. The manifest's rename is the turning point.
    version = stored(folder)
    assert version == 2 if not raised else version in (1, 2)
    if call == 0 and function != "open":
        assert (raised, version) == (True, 1)
    assert not list(folder.glob(".*.tmp"))
    # Whatever was left behind, the next save and load are ordinary.
    save(folder, model_of(3), manifest=manifest_of(3))
    assert stored(folder) == 3
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, WEIGHTS]


def test_a_full_disk_leaves_the_earlier_version_byte_for_byte(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(ModelError, match=f"{folder}.*cannot be written.*No space left on device.*free space"):
                save(folder, model_of(2), manifest=manifest_of(2))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3, 4])
def test_crashes_before_any_rename_leave_a_whole_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    real = os.replace

    def save_until(rename: int, version: int) -> None:
        calls = iter(range(1, 100))

        def killed(*args: Any) -> None:
            if next(calls) == rename:
                raise Killed
            real(*args)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "replace", killed)
            save(folder, model_of(version), manifest=manifest_of(version))
        assert not list(folder.glob(".*.tmp"))

    save_until(first, 2)
    reached = stored(folder)
    assert reached == (2 if first == 3 else 1)
    # A second save cut short must not lose what the first left under the staged name.
    save_until(second, 3)
    assert stored(folder) in (reached, 3)
    save(folder, model_of(4), manifest=manifest_of(4))
    assert stored(folder) == 4


def edit(folder: Path, **fields: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StoreError, match=f"{name}: cannot be read .*No such file"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "one JSON object"),
        ("{}", "no field model, hyperparameters, signature, task"),
        (" " * (2**20 + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_malformed_manifest_is_named(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=f"manifest.json: .*{message}"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"format": "confide-model/2"}, StoreError, "reads 'confide-model/1' only"),
        ({"model": "mpl"}, UnknownModel, "did you mean 'mlp'"),
        ({"model": ["mlp"]}, UnknownModel, "model="),
        ({"hyperparameters": {"hidden": [0]}}, BadHyperparameter, r"hidden\[0\]=0"),
        ({"hyperparameters": [5]}, StoreError, "must be objects"),
        ({"hyperparameters": {"hidden": [6]}}, StoreError, "another layout"),
        ({"signature": {}}, ModelError, "missing or unknown fields"),
        ({"task": {}}, ModelError, "missing or unknown fields"),
        ({"task": None}, StoreError, "must be objects"),
        ({"layout_sha256": None}, StoreError, "another layout"),
        ({"weights_sha256": "00"}, StoreError, "model.safetensors: not the weights"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    folder: Path, fields: dict[str, object], error: type[ModelError], message: str
) -> None:
    edit(folder, **fields)
    with pytest.raises(error, match=f"{folder}.*{message}"):
        load(folder)


def test_one_flipped_bit_is_noticed(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(StoreError, match="SHA-256 differs"):
        load(folder)


def parameters(**changes: torch.Tensor) -> bytes:
    return safetensors.torch.save({**{n: p.detach() for n, p in model_of(1).named_parameters()}, **changes})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no safetensors file"),
        (b"\xff" * 64, "no safetensors file"),
        (parameters(extra=torch.zeros(1)), "are not the model's parameters"),
        (parameters(**{"1.bias": torch.zeros(6)}), r"'1.bias' must be finite float32 \(5,\)"),
        (parameters(**{"1.bias": torch.zeros(5).double()}), "must be finite float32"),
        (parameters(**{"1.bias": torch.full((5,), torch.nan)}), "must be finite float32"),
    ],
)
def test_weights_with_a_right_digest_are_still_checked(folder: Path, data: bytes, message: str) -> None:
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(StoreError, match=f"model.safetensors: .*{message}"):
        load(folder)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"note": float("nan")}, "not plain JSON"),
        ({"note": Path("x")}, "not plain JSON"),
        ({"note": "x" * 2**20}, "shorten a field"),
    ],
)
def test_a_manifest_that_is_not_json_is_refused_before_writing(
    tmp_path: Path, extra: dict[str, object], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        save(tmp_path / "m", model_of(1), manifest={**manifest_of(1), **extra})
    assert not (tmp_path / "m").exists()


def test_a_model_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SignatureMismatch, match="is no 'mlp' with these"):
        save(tmp_path / "m", zoo.build("mlp", SIGNATURE, seed=0), manifest=manifest_of(1))
    with pytest.raises(StoreError, match=r"no field model.*models\.store\.describe"):
        save(tmp_path / "m", model_of(1), manifest={"round": 1})


def test_a_diverged_model_is_not_stored(tmp_path: Path) -> None:
    model = model_of(1)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(SignatureMismatch, match="NaN or an infinity"):
        save(tmp_path / "m", model, manifest=manifest_of(1))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"{tmp_path / 'file' / 'm'}: cannot be made"):
        save(tmp_path / "file" / "m", model_of(1), manifest=manifest_of(1))


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    with pytest.raises(StoreError, match=r"missing.a: cannot be written \(No such file"):
        write_atomic(tmp_path / "missing" / "a", b"")


def test_modes(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "public", b"")
        write_atomic(tmp_path / "secret", b"", secret=True)
        # A file that was public before does not keep its mode.
        write_atomic(tmp_path / "public-first", b"")
        write_atomic(tmp_path / "public-first", b"", secret=True)
    finally:
        os.umask(old)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == {"public": 0o644, "secret": 0o600, "public-first": 0o600}
