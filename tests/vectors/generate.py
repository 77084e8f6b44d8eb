"""Writes the known-answer vectors of docs/secagg-spec.md: ``python tests/vectors/generate.py [FOLDER]``.

Everything follows from fixed seeds and from the ML-KEM ciphertexts recorded in kem.json: the library draws those by
itself, so they are kept. The formulas are tests/secagg_reference.py, which knows nothing of the room ``secagg``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import computations  # noqa: E402  # the two folders above are no packages
import convictions  # noqa: E402  # as above
import documents  # noqa: E402  # as above
import formulas  # noqa: E402  # as above
import messages  # noqa: E402  # as above
import refusals  # noqa: E402  # as above
import rounding  # noqa: E402  # as above
import transcripts  # noqa: E402  # as above


def main(folder: Path) -> None:
    """Write every file of vectors into the folder."""
    files = {
        **formulas.files(),
        **computations.files(),
        **rounding.files(),
        **documents.files(),
        **messages.files(),
        **transcripts.files(),
        **refusals.files(),
        **convictions.files(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (description, vectors) in files.items():
        text = json.dumps({"description": description, "vectors": vectors}, indent=1, ensure_ascii=True)
        (folder / f"{name}.json").write_text(text + "\n", encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
