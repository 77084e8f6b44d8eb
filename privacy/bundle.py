"""A bundle of evidence: what one machine can show, and what others have shown, in one folder.

``docs/ledger-spec.md``, "Bundle", is the form of it; :mod:`privacy.verify` judges it. Nothing secret goes in. A bundle
is made whole or not at all: it is written beside the place where it is to be, and renamed.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privacy import canonical, merkle, notes
from privacy.errors import LedgerError
from privacy.ledger import Ledger
from privacy.verify_evidence import walk

FORMAT = "confide/evidence/v1"
MOST_BYTES = 8 << 20  # of a document; a ledger may be of any size
_SEALING = ("governance", "permit", "roster")


def write(
    out: Path,
    *,
    home: Path | None = None,
    homes: Iterable[Path] = (),
    include: Iterable[Path] = (),
    key: Ed25519PrivateKey | None = None,
    now: float | None = None,
) -> list[str]:
    """Make a bundle and return the names of its files.

    Args:
        out: the folder to make; it must not exist.
        home: a machine's ``CONFIDE_HOME``: the ledger of a department, the witness and the runs of a coordinator.
        homes: more of them, as a simulated federation has.
        include: bundles of other machines, to be merged into this one.
        key: the ledger's key, which signs the checkpoint; by default the ``identity_key`` of ``client/client.toml``.
        now: Unix seconds.

    Raises:
        LedgerError: ``out`` exists, there is nothing to show, something cannot be read, or two machines show different
            files of one name. ``out`` is then not made.
    """
    if out.exists() or out.is_symlink():
        raise LedgerError(f"{out}: exists already; name a folder that does not")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    try:
        draft.mkdir(parents=True)
        machines = [*([] if home is None else [home]), *homes]
        for machine in machines:
            collect(machine, draft, key=key)
        for other in include:
            merge(other, draft)
        if not any(draft.iterdir()):
            raise LedgerError(
                f"{home}: neither a ledger nor a witness nor a run; set CONFIDE_HOME, or include a bundle"
            )
        created = canonical.timestamp(int(time.time() if now is None else now))
        _put(draft, "bundle.json", canonical.encode({"created": created, "format": FORMAT}))
        draft.rename(out)
    except OSError as error:
        raise LedgerError(f"{error.filename or out}: {error.strerror or error}; nothing was made") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return list(walk(out)[0])


def collect(home: Path, out: Path, *, key: Ed25519PrivateKey | None = None) -> None:
    """Add to a bundle what a machine can show; arguments and errors as for :func:`write`."""
    if Ledger.exists(home / "client" / "ledger"):
        _ledger(home / "client" / "ledger", out, key or _identity(home / "client"))
    witness = home / "server" / "witness"
    if (witness / "key.pub").exists():
        _witness(witness, out)
    for run in sorted((home / "server" / "runs").glob("*/")):
        if (run / "sealing.json").exists():
            _put(out, f"rosters/{run.name}.json", _sealing(run / "sealing.json"))
        if (run / "model" / "manifest.json").exists():
            _put(out, f"models/{run.name}.json", _read(run / "model" / "manifest.json"))


def merge(other: Path, out: Path) -> None:
    """Add to a bundle what another one holds; arguments and errors as for :func:`write`."""
    found, unknown = walk(other)
    if unknown or "bundle.json" not in found:
        what = f"holds {unknown[0]}, which is no file of one, or a link" if unknown else "has no bundle.json"
        raise LedgerError(f"{other}: is no bundle of evidence: {what}; have it made again")
    for name, file in found.items():
        if name == "bundle.json":
            continue
        if name.endswith(".jsonl"):
            _put(out, name, file.read_bytes())
        else:
            _put(out, name, _read(file))


def _ledger(folder: Path, out: Path, key: Ed25519PrivateKey) -> None:
    """A ledger as far as it goes now: entries, a checkpoint of exactly these, the policies that they name."""
    ledger = Ledger.open(folder, key=key, readonly=True)
    lines = list(ledger.lines())
    entries = [json.loads(line)["entry"] for line in lines]
    name = ledger.origin.split("/")[1]
    root = merkle.root([merkle.leaf(canonical.encode(entry)) for entry in entries])
    _put(out, f"ledgers/{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    _put(out, f"checkpoints/{name}.note", notes.sign(ledger.origin, len(lines), root, key).encode())
    named = {entry["ref"]["digest"] for entry in entries if entry["kind"] == "policy"}
    for digest, (text, signature) in ledger.policies().items():
        if digest in named:
            _put(out, f"policies/{digest}.toml", text)
            _put(out, f"policies/{digest}.sig", f"{signature.hex()}\n".encode())


def _identity(folder: Path) -> Ed25519PrivateKey:
    """The key that a department signs with, where its settings say that it is."""
    try:
        settings = tomllib.loads((folder / "client.toml").read_text("utf-8"))
        file = folder / str(settings.get("identity_key", "identity.key"))
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LedgerError(
            f"{folder}: the signing key that client.toml names cannot be read ({type(error).__name__}), and without it "
            "there is no checkpoint; restore it"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerError(f"{file}: no Ed25519 private key; restore it from a backup")
    return key


def _witness(folder: Path, out: Path) -> None:
    """What a witness has seen, under its name as a file may have it."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", _read(folder / "name").decode("utf-8", "replace").strip())
    _put(out, f"witnesses/{name}/key", _read(folder / "key.pub"))
    for note in sorted((folder / "notes").glob("*.note")):
        _put(out, f"witnesses/{name}/{note.name}", _read(note))


def _sealing(file: Path) -> bytes:
    """A run's signed documents, to the byte as a bundle has them."""
    try:
        found = json.loads(_read(file))
        if not isinstance(found, Mapping) or sorted(found) != sorted(_SEALING):
            raise LedgerError(f"{file}: holds no roster and permit; restore it")
        return canonical.encode({name: found[name] for name in _SEALING})
    except (ValueError, RecursionError):
        raise LedgerError(f"{file}: damaged; restore it") from None


def _read(file: Path) -> bytes:
    """A document."""
    with file.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise LedgerError(f"{file}: more than {MOST_BYTES} bytes; it is not the file that was made")
    return data


def _put(out: Path, name: str, data: bytes) -> None:
    """Add a file; the same content twice is no harm, other content is an error.

    A policy that several departments have is signed by each of them: its signatures are collected.
    """
    file = out / name
    if file.exists() and (known := file.read_bytes()) != data:
        if not name.endswith(".sig"):
            raise LedgerError(f"{name}: two machines show different ones; bundle them apart, and ask who is right")
        data = b"".join(sorted({line + b"\n" for line in (known + b"\n" + data).split(b"\n") if line}))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
