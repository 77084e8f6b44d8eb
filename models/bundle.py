"""A published model: a folder of files, and one signed statement of what each of them is.

``docs/bundle-spec.md`` is the specification. A folder is believed for its statement alone: where it came from,
who could write to it on the way and what it is called prove nothing. Nothing here needs torch or onnx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models import dsse, strict_json
from models.bundle_document import FORMAT, WEIGHTS, Document, Variant, check_name, read_document
from models.bundle_files import AGAIN, MAX_FILES, check_content, listed, read, sync
from models.errors import BundleError, nearest
from models.files import write_atomic
from models.inputs.schema import DataSettings
from models.signature import Signature

STATEMENT: Final = "statement.dsse.json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = f"urn:confide:{FORMAT}"
REQUIRED: Final = frozenset(
    {
        *("bundle.json", "privacy.json", "evaluation.json", "lineage.json", "reference.json", "card.json", "card.md"),
        *("model/manifest.json", WEIGHTS),
    }
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose signature and every file have been verified; :func:`verify` makes them.

    Attributes:
        folder: where it lies. What is there may change at any time: read it by :meth:`read`.
        digest: SHA-256 of the signed statement, hexadecimal: the bundle's identity.
        key: the raw Ed25519 public key that signed it.
        files: the digest (SHA-256, hexadecimal) of every file but the statement, by name.
        document: ``bundle.json`` as JSON has it.
        parts: the same, typed.
        signature: the shape of a record and of the answer.
        data: the public specification that prepares records; it names no file.
    """

    folder: Path
    digest: str
    key: bytes
    files: Mapping[str, str]
    document: Mapping[str, Any]
    parts: Document
    signature: Signature
    data: DataSettings

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.parts.name

    @property
    def run(self) -> str:
        """The run that trained it."""
        return self.parts.run

    @property
    def task(self) -> Mapping[str, Any]:
        """How records are scored, as JSON has it: ``loss_name``, ``target_bounds``, ..."""
        task: Mapping[str, Any] = self.document["task"]
        return task

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every exported form of the model."""
        return self.parts.variants

    def variant(self, name: str | None = None) -> Variant:
        """Return the variant of that name, or the default one; raises :class:`BundleError` if there is none."""
        wanted = self.parts.default if name is None else name
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        known = nearest(wanted, [variant.name for variant in self.variants])
        raise BundleError(f"variant {wanted!r}: not in the bundle of {self.name}; {known}")

    def read(self, name: str) -> bytes:
        """Return a file's bytes, which are those that were signed.

        They are checked each time, so that what is used is what was checked.

        Raises:
            BundleError: no such file, or it is no longer what was signed.
        """
        if name not in self.files:
            raise BundleError(f"{name[:200]!r}: not a file of this bundle; {nearest(name, self.files)}")
        data = read(self.folder, name)
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise BundleError(f"{name}: differs from what was signed; {AGAIN}")
        return data

    @cached_property
    def privacy(self) -> dict[str, Any]:
        """``privacy.json``: what the model's training cost its records."""
        return self._object("privacy.json")

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json``: what was measured, and the gates it had to pass."""
        return self._object("evaluation.json")

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """``lineage.json``: the run, its rounds, ledgers and versions."""
        return self._object("lineage.json")

    @cached_property
    def reference(self) -> dict[str, Any]:
        """``reference.json``: what records and answers look like, on public records."""
        return self._object("reference.json")

    def _object(self, name: str) -> dict[str, Any]:
        """A document of the bundle."""
        return strict_json.parse_object(self.read(name), name)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What was signed of a bundle; its files have not been looked at.

    Attributes:
        digest, key, files: as in :class:`Bundle`.
        predicate: ``name``, ``run``, ``spec_digest``, ``default`` and ``created``.
    """

    digest: str
    key: bytes
    files: Mapping[str, str]
    predicate: Mapping[str, Any]


def seal(folder: Path, key: Ed25519PrivateKey) -> str:
    """Sign every file of a finished bundle, and return the bundle's digest.

    The statement is written last, in one step, once all the others are durable. An earlier statement is replaced.

    Raises:
        BundleError: the folder is not a bundle that :func:`verify` would accept; the file is named.
        StoreError: the statement cannot be written.
    """
    present = listed(folder)
    present.pop(STATEMENT, None)
    _check_names(present)
    sizes, digests = {}, {}
    for name in sorted(present):
        if present[name] != "file":
            raise BundleError(f"{name}: is {present[name]}; a bundle holds plain files only, take it out")
        data = read(folder, name)
        check_content(name, data)
        sizes[name], digests[name] = len(data), hashlib.sha256(data).hexdigest()
    bundle = _assembled(folder, digests, sizes, digest="", key=key.public_key().public_bytes_raw())
    payload = strict_json.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digests[name]}} for name in sorted(digests)],
            "predicateType": PREDICATE_TYPE,
            "predicate": _predicate(bundle),
        }
    )
    sync(folder, sorted(digests))
    write_atomic(folder / STATEMENT, dsse.sign(payload, dsse.IN_TOTO, key))
    return hashlib.sha256(payload).hexdigest()


def statement(envelope: bytes, keys: Sequence[bytes]) -> Statement:
    """Return the statement in an envelope (the bytes of ``statement.dsse.json``), once its signature is verified.

    Raises:
        BundleError: not signed by one of ``keys``, or no statement about a bundle.
    """
    payload, key = dsse.verify(envelope, keys)
    if dsse.Envelope.parse(envelope).encode() != envelope:
        raise BundleError(f"{STATEMENT}: not written as the specification has it; {AGAIN}")
    document = strict_json.parse_object(payload, STATEMENT)
    files, predicate = _subjects(document), document.get("predicate")
    if not isinstance(predicate, dict):
        raise BundleError(f"{STATEMENT}: predicate must be an object; publish the run again")
    return Statement(digest=hashlib.sha256(payload).hexdigest(), key=key, files=files, predicate=predicate)


def verify(folder: Path, keys: Sequence[bytes]) -> Bundle:
    """Return the bundle in a folder, once it is known to be what one of ``keys`` signed.

    Args:
        folder: as :func:`seal` left it, or a copy.
        keys: raw Ed25519 public keys that are trusted, 32 bytes each, at least one.

    Raises:
        BundleError: unsigned, signed by somebody else, or the first file by name that is missing, too many, a
            link, no plain file, too large or not what was signed; or documents that contradict one another.
    """
    present = listed(folder)
    if present.pop(STATEMENT, None) is None:
        raise BundleError(f"{folder}: no signed bundle ({STATEMENT} is missing); {AGAIN}")
    signed = statement(read(folder, STATEMENT), keys)
    sizes = {}
    for name in sorted(signed.files.keys() | present.keys()):
        if name not in signed.files:
            raise BundleError(f"{name[:200]!r}: is not in the signed statement; take it out, or {AGAIN}")
        if name not in present:
            raise BundleError(f"{name}: is missing; {AGAIN}")
        if present[name] != "file":
            raise BundleError(f"{name}: is {present[name]}, not a plain file; {AGAIN}")
        data = read(folder, name)
        if hashlib.sha256(data).hexdigest() != signed.files[name]:
            raise BundleError(f"{name}: differs from what was signed; {AGAIN}")
        check_content(name, data)
        sizes[name] = len(data)
    bundle = _assembled(folder, signed.files, sizes, digest=signed.digest, key=signed.key)
    if signed.predicate != _predicate(bundle):
        raise BundleError(f"{STATEMENT}: its predicate is not that of the bundle's documents; publish the run again")
    return bundle


def _assembled(
    folder: Path, digests: Mapping[str, str], sizes: Mapping[str, int], *, digest: str, key: bytes
) -> Bundle:
    """A bundle whose documents agree with one another and with its files."""
    for name in sorted(REQUIRED):
        if name not in digests:
            raise BundleError(f"{name}: is missing; a bundle needs it, publish the run again")
    data = read(folder, "bundle.json")
    if hashlib.sha256(data).hexdigest() != digests["bundle.json"]:
        raise BundleError(f"bundle.json: changed while it was read; {AGAIN}")
    document = strict_json.parse_object(data, "bundle.json")
    parts, signature, settings = read_document(document)
    bundle = Bundle(
        folder=folder,
        digest=digest,
        key=key,
        files=dict(digests),
        document=document,
        parts=parts,
        signature=signature,
        data=settings,
    )
    for variant in parts.variants:
        if (sizes.get(variant.file), digests.get(variant.file)) != (variant.bytes, variant.sha256):
            raise BundleError(f"{variant.file}: bundle.json names another file than this one; publish the run again")
    exported = {variant.file for variant in parts.variants}
    if stray := sorted(name for name in digests if name.endswith(".onnx") and name not in exported):
        raise BundleError(f"{stray[0]}: is no variant of bundle.json; take it out and publish the run again")
    _check_manifest(bundle)
    return bundle


def _check_manifest(bundle: Bundle) -> None:
    """The stored model is the one that ``bundle.json`` describes."""
    manifest = strict_json.parse_object(bundle.read("model/manifest.json"), "model/manifest.json")
    described = {
        "model": bundle.document["model"]["name"],
        "hyperparameters": bundle.document["model"]["hyperparameters"],
        "signature": bundle.document["signature"],
        "task": bundle.document["task"],
        "weights_sha256": bundle.files[WEIGHTS],
    }
    for field, value in described.items():
        if manifest.get(field) != value:
            raise BundleError(f"model/manifest.json: {field} is not what bundle.json describes; publish the run again")


def _predicate(bundle: Bundle) -> dict[str, Any]:
    """What the statement says of the bundle, for readers that look at nothing else."""
    return {
        "name": bundle.name,
        "run": bundle.run,
        "spec_digest": bundle.lineage.get("spec_digest"),
        "default": bundle.parts.default,
        "created": bundle.parts.created,
    }


def _subjects(document: Mapping[str, Any]) -> dict[str, str]:
    """The digest of each file that a statement names."""
    for field, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if document.get(field) != wanted:
            raise BundleError(f"{STATEMENT}: {field} must be {wanted}; it is no statement about a bundle")
    subjects = document.get("subject")
    if not isinstance(subjects, list) or not 1 <= len(subjects) <= MAX_FILES:
        raise BundleError(f"{STATEMENT}: subject must list 1 to {MAX_FILES} files; publish the run again")
    digests: dict[str, str] = {}
    for subject in subjects:
        try:
            name, digest = subject["name"], subject["digest"]["sha256"]
        except (TypeError, KeyError, IndexError):
            name = digest = None
        if not isinstance(name, str) or not isinstance(digest, str) or name in digests:
            raise BundleError(f"{STATEMENT}: a subject has no name, no digest, or stands twice; publish the run again")
        digests[name] = digest
    _check_names(digests)
    return digests


def _check_names(names: Mapping[str, str]) -> None:
    """Refuse names that could stand for another file, alone or together."""
    taken: set[str] = set()
    for name in sorted(names):
        check_name(name)
        if name == STATEMENT or name.lower() in taken:
            raise BundleError(f"{name}: two files of this name, or of one that differs in case only; rename one")
        taken.add(name.lower())
