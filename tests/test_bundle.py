"""Bundles: what is sealed verifies, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundle_cases import DATA, KEY, PUBLIC, STRANGER, edit, linear_onnx, sealed, variant_of, write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models import bundle_files, dsse
from models.bundle import STATEMENT, Bundle, seal, verify
from models.bundle_document import check_name
from models.errors import BundleError
from models.onnx_wire import check_alone


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle that is only read."""
    return sealed(tmp_path_factory.mktemp("bundles") / "bundle").folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A signed bundle."""
    return Path(shutil.copytree(template, tmp_path / "bundle"))


def statement_of(folder: Path) -> dict[str, Any]:
    payload, _ = dsse.verify((folder / STATEMENT).read_bytes(), [PUBLIC])
    document: dict[str, Any] = json.loads(payload)
    return document


def sign_statement(folder: Path, statement: object) -> None:
    (folder / STATEMENT).write_bytes(dsse.sign(json.dumps(statement).encode(), dsse.IN_TOTO, KEY))


def test_a_sealed_bundle_verifies(folder: Path) -> None:
    bundle = verify(folder, [STRANGER.public_key().public_bytes_raw(), PUBLIC])
    assert (bundle.name, bundle.run, bundle.key) == ("ward", "ward-1", PUBLIC)
    assert bundle.signature.shape == (3,)
    assert bundle.data.classes == ("no", "yes")
    assert bundle.task["loss_name"] == "cross-entropy"
    assert bundle.variant() is bundle.variants[0]
    assert bundle.read(bundle.variant().file) == linear_onnx()
    assert bundle.privacy["departments"][0]["pld"] == 2.4
    assert (bundle.evaluation["records"], bundle.lineage["rounds"], bundle.reference["records"]) == (400, 10, 64)


def test_the_digest_is_the_payloads_and_sealing_repeats_it(folder: Path) -> None:
    payload, _ = dsse.verify((folder / STATEMENT).read_bytes(), [PUBLIC])
    digest = hashlib.sha256(payload).hexdigest()
    assert verify(folder, [PUBLIC]).digest == digest
    assert seal(folder, KEY) == digest
    assert seal(folder, STRANGER) == digest  # who signs is not part of what is signed


def test_the_statement_is_in_totos(folder: Path) -> None:
    statement = statement_of(folder)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:confide:confide-bundle/1"
    assert statement["predicate"] == {
        "name": "ward",
        "run": "ward-1",
        "spec_digest": "ab" * 32,
        "default": "float32",
        "created": "2026-01-02T03:04:05+00:00",
    }
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {STATEMENT}
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert subjects == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_bit_of_any_file_can_change(template: Path, data: st.DataObject) -> None:
    names = sorted(str(file.relative_to(template)) for file in template.rglob("*") if file.is_file())
    name = data.draw(st.sampled_from(names))
    content = bytearray((template / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(template, Path(place) / "bundle"))
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError):
            verify(folder, [PUBLIC])


def test_the_envelope_itself_cannot_be_written_otherwise(folder: Path) -> None:
    envelope = (folder / STATEMENT).read_bytes()
    for other in (envelope + b"\n", json.dumps(json.loads(envelope)).encode()):
        (folder / STATEMENT).write_bytes(other)
        with pytest.raises(BundleError):
            verify(folder, [PUBLIC])


def test_a_strangers_bundle_is_refused_by_name(folder: Path) -> None:
    seal(folder, STRANGER)
    with pytest.raises(BundleError) as refused:
        verify(folder, [PUBLIC])
    assert dsse.keyid(STRANGER.public_key().public_bytes_raw()) in str(refused.value)
    assert dsse.keyid(PUBLIC) in str(refused.value)


def _remove(folder: Path) -> None:
    (folder / "privacy.json").unlink()
    (folder / "reference.json").unlink()


def _link(folder: Path) -> None:
    (folder / "card.md").rename(folder.parent / "card.md")
    (folder / "card.md").symlink_to(folder.parent / "card.md")


def _pipe(folder: Path) -> None:
    (folder / "card.md").unlink()
    os.mkfifo(folder / "card.md")


def _link_folder(folder: Path) -> None:
    (folder / "variants").rename(folder.parent / "variants")
    (folder / "variants").symlink_to(folder.parent / "variants")


def _both(folder: Path) -> None:
    (folder / "variants/zz.onnx").write_bytes(b"")
    (folder / "evaluation.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove, "privacy.json: is missing"),
        (_link, "card.md: is a link"),
        (_pipe, "card.md: is no plain file"),
        (_link_folder, "'variants': is not in the signed statement"),
        (_both, "evaluation.json: differs"),
        (lambda folder: (folder / "a.json").write_text("{}"), "'a.json': is not in the signed statement"),
        (lambda folder: (folder / ".hidden").touch(), "'.hidden': is not in the signed statement"),
        (lambda folder: (folder / "model/x").mkdir() or (folder / "model/x/y.json").touch(), "'model/x/y.json'"),
        (lambda folder: (folder / STATEMENT).unlink(), "no signed bundle"),
        (shutil.rmtree, "cannot be read"),
        (lambda folder: [(folder / f"{k}.json").touch() for k in range(300)], "more than 256 files"),
    ],
)
def test_the_first_file_that_is_wrong_is_named(folder: Path, damage: Any, said: str) -> None:
    damage(folder)
    with pytest.raises(BundleError) as refused:
        verify(folder, [PUBLIC])
    assert said in str(refused.value)


def test_too_large_a_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_files, "MAX_FILE", 100)
    with pytest.raises(BundleError, match=r"float32.onnx: larger than 100 bytes"):
        verify(folder, [PUBLIC])


def test_what_is_read_is_checked_again(folder: Path) -> None:
    bundle = verify(folder, [PUBLIC])
    with (folder / "variants/float32.onnx").open("r+b") as file:
        file.seek(20)
        file.write(b"\0")
    with pytest.raises(BundleError, match="differs from what was signed"):
        bundle.read("variants/float32.onnx")
    edit(folder, "privacy.json", mode="off")
    with pytest.raises(BundleError, match=r"privacy\.json: differs"):
        _ = bundle.privacy
    for name in (STATEMENT, "../bundle/bundle.json", "/etc/passwd"):
        with pytest.raises(BundleError, match="not a file of this bundle"):
            bundle.read(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "/a.json", "../a.json", "a/../b.json", "a//b.json", "./a.json", "a\\b.json", "a\0.json", "a\n.json"),
        *("C:a.json", ".a.json", "a.", "a.json.", "é.json", "a b.json", "a/b/c/d/e.json", "a.pkl", "a.pt", "a"),
        *("x" * 200 + ".json", "~a.json", "a.json/", "\u202ea.json"),
    ],
)
def test_names_that_could_mean_another_file_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(BundleError):
        check_name(name)
    statement = statement_of(folder)
    statement["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})
    sign_statement(folder, statement)
    with pytest.raises(BundleError, match=r"no name|holds"):
        verify(folder, [PUBLIC])


def test_names_that_differ_in_case_only_are_refused(folder: Path) -> None:
    shutil.copy(folder / "card.json", folder / "Card.json")
    with pytest.raises(BundleError, match="differs in case"):
        seal(folder, KEY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "_type"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "predicateType"),
        ({"subject": []}, "subject must list"),
        ({"subject": [{"name": "a.json"}]}, "no digest"),
        ({"subject": [7]}, "no digest"),
        ({"predicate": None}, "predicate must be"),
        ({"predicate": {"name": "other"}}, "predicate is not"),
    ],
)
def test_a_statement_about_something_else_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    sign_statement(folder, statement_of(folder) | change)
    with pytest.raises(BundleError, match=said):
        verify(folder, [PUBLIC])


def test_a_subject_that_stands_twice_is_refused(folder: Path) -> None:
    statement = statement_of(folder)
    statement["subject"].append(statement["subject"][0])
    sign_statement(folder, statement)
    with pytest.raises(BundleError, match="stands twice"):
        verify(folder, [PUBLIC])


def _variant(**changes: Any) -> dict[str, Any]:
    return {"variants": [variant_of("float32", linear_onnx()) | changes]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "confide-bundle/2"}, "format"),
        ({"extra": 1}, "extra"),
        ({"name": "../x"}, "name"),
        ({"default": "int8"}, "default"),
        (_variant(bytes=1), "names another file"),
        (_variant(sha256="0" * 64), "names another file"),
        (_variant(file="variants/other.onnx"), "names another file"),
        (_variant(file="../float32.onnx"), "file"),
        (_variant(file="model/model.safetensors"), "file"),
        (_variant(format="pickle"), "format"),
        (_variant(accuracy=1.5), "accuracy"),
        (_variant(bytes=True), "bytes"),
        ({"variants": []}, "variants"),
        ({"data": DATA | {"path": "/etc/passwd"}}, "may not name files"),
        ({"data": DATA | {"columns": {"age": {"bounds": [0, 100]}}}}, "signature is not that of its data"),
        ({"task": {"loss_name": "mse", "target_bounds": None, "loss_bound": 4.0, "auroc_bins": 32}}, "target_bounds"),
        ({"task": {"loss_name": "mse", "target_bounds": [0, 1], "loss_bound": 4.0, "auroc_bins": 32}}, "loss_name"),
        ({"model": {"name": "cnn", "hyperparameters": {}, "file": "model/model.safetensors"}}, "manifest"),
        ({"model": {"name": "logistic", "hyperparameters": {}, "file": "/etc/x"}}, "file"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_not_sealed(folder: Path, change: dict[str, Any], said: str) -> None:
    edit(folder, "bundle.json", **change)
    with pytest.raises(BundleError, match=said):
        seal(folder, KEY)
    # Nor would it verify, had somebody signed it all the same.
    statement = statement_of(folder)
    for subject in statement["subject"]:
        subject["digest"]["sha256"] = hashlib.sha256((folder / subject["name"]).read_bytes()).hexdigest()
    sign_statement(folder, statement)
    with pytest.raises(BundleError, match=said):
        verify(folder, [PUBLIC])


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model/model.safetensors", b"\x80\x04\x95pickled", "no safetensors file"),
        ("variants/float32.onnx", b"\x80\x04\x95pickled", "no ONNX file"),
        ("variants/stray.onnx", linear_onnx((1, 1)), "no variant"),
        ("model/weights.pt", b"", "holds .json"),
        ("privacy.json", b"[]", "one JSON object"),
        ("privacy.json", b'{"mode": "off", "mode": "local"}', "not JSON"),
    ],
)
def test_a_file_of_another_kind_is_not_sealed(folder: Path, file: str, content: bytes, said: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(BundleError, match=said):
        seal(folder, KEY)


def test_an_unfinished_bundle_is_not_sealed(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "card.md").unlink()
    with pytest.raises(BundleError, match=r"card\.md: is missing"):
        seal(folder, KEY)
    assert not (folder / STATEMENT).exists()


def _external(data: bytes, *, everywhere: bool) -> bytes:
    model = onnx.load_from_string(data)
    tensor = model.graph.initializer[0]
    if everywhere:
        tensor = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    if everywhere:
        inner = helper.make_graph([helper.make_node("Constant", [], ["x"], value=tensor)], "inner", [], [])
        model.functions.add(name="f").node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_model_that_names_other_files_is_refused(folder: Path, everywhere: bool) -> None:
    data = _external(linear_onnx(), everywhere=everywhere)
    (folder / "variants/float32.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="keeps weights in other files"):
        seal(folder, KEY)


@given(st.binary(max_size=60), st.integers(0, 213))
def test_looking_into_any_bytes_ends_in_an_answer(data: bytes, cut: int) -> None:
    for tried in (data, linear_onnx()[:cut] + data):
        try:
            check_alone(tried, "file")
        except BundleError as error:
            assert str(error).startswith("file: ")


def test_verifying_loads_neither_torch_nor_onnx(template: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.bundle import verify; "
        f"verify(Path({str(template)!r}), [bytes.fromhex({PUBLIC.hex()!r})]); "
        "print(sorted({'torch', 'onnx', 'flwr', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_unknown_variant_names_the_nearest(folder: Path) -> None:
    bundle: Bundle = verify(folder, [PUBLIC])
    with pytest.raises(BundleError, match="did you mean 'float32'"):
        bundle.variant("float23")
