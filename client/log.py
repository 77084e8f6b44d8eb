"""A department's log: one rotating file, and what an operator should see on the terminal.

The working process writes its records to stdout in one line each; the service writes them on.
"""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler

from rich.logging import RichHandler

from client.config import directory
from strategies.console import console

LOG_BYTES, LOG_FILES = 5_000_000, 5
MARK = "\x1econfide "


class _OneLine(logging.Formatter):
    """A record in one line that the service can tell from Flower's own output."""

    def format(self, record: logging.LogRecord) -> str:
        """Mark, level, text; line breaks would look like Flower's output."""
        text = super().format(record).replace("\n", " ")
        return f"{MARK}{record.levelname} {text}"


def to_parent() -> None:
    """In the working process: records go to stdout, marked."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OneLine("%(message)s"))
    _set(handler)


def to_file(*, verbose: bool) -> None:
    """In the service: everything to the rotating file, what matters to the terminal."""
    folder = directory() / "log"
    folder.mkdir(exist_ok=True, mode=0o700)
    file = RotatingFileHandler(folder / "client.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = RichHandler(console=console, show_path=False)
    terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    _set(file, terminal)


def take(line: str) -> None:
    """In the service: one line of the working process."""
    text = line.strip()
    if text.startswith(MARK.strip()):
        level, _, message = text.removeprefix(MARK.strip()).strip().partition(" ")
        logging.getLogger("confide.client").log(logging.getLevelNamesMapping().get(level, logging.INFO), "%s", message)
    elif text:
        logging.getLogger("confide.client.flower").debug("%s", text)


def _set(*handlers: logging.Handler) -> None:
    """Make these the handlers of everything of ours."""
    root = logging.getLogger("confide")
    root.setLevel(logging.DEBUG)
    root.propagate = False
    root.handlers = list(handlers)
