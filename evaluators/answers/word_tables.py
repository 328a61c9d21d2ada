"""Tables of words, written as running text."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text: `word_set("or and not")` holds three."""
    return frozenset(text.split())


def word_list(text: str) -> list[str]:
    """Return the words of a text in their order."""
    return text.split()
