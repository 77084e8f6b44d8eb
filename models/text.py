"""Texts that somebody else wrote, made fit to be shown."""

from __future__ import annotations


def printable(text: object, most: int) -> str:
    r"""Return at most ``most`` characters of a text, with a space for each that a terminal might obey.

    >>> printable("a\x1b[31m\nb", 7)
    'a [31m '
    """
    return "".join(character if character.isprintable() else " " for character in str(text))[:most]
