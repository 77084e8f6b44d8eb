"""What all command lines share: where output goes, and JSON output."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from models.files import write_atomic

# Progress and talk go to stderr, results to stdout, so that results can be piped.
console = Console(stderr=True, highlight=False)
output = Console(highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on stdout, plain."""
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")


def save_json(path: Path, document: Any) -> None:
    """One JSON document in a file, written atomically."""
    write_atomic(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def check_writable(path: Path | None) -> None:
    """Find out before hours of work that a result file cannot be written."""
    if path is not None and (path.is_dir() or not os.access(path.resolve().parent, os.W_OK)):
        raise OSError(f"--json {path}: cannot be written there; name a file in a writable folder")


@contextmanager
def step(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner for one step of a longer command, and its time afterwards; yields what takes word of its progress."""
    begin = time.monotonic()
    with console.status(text) as status:
        yield lambda more: status.update(escape(f"{text} ({more})"))
    console.print(f"[green]✓[/] {text} [dim]({time.monotonic() - begin:.1f} s)[/]")
