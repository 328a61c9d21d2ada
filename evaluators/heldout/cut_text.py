r"""How much of an assistant's text is missing from the scored text.

Chat templates of reasoning models remove thoughts: of `<think>so</think>4` only `4` is rendered, so
the loss belongs to another text than that of the file. White space that a template trims or inserts
is not counted.
"""

from __future__ import annotations

from bisect import bisect_right


def n_cut_bytes(content: str, scored: str) -> int:
    """Return how many UTF-8 bytes of a turn's content do not appear in its scored text.

    The longest end of the content that appears there is matched first, then the longest beginning
    of the rest that appears before it, so that a cut at one place is measured exactly.
    """
    without_space = ("".join(text.split()) for text in (content, scored))
    return len(_cut(content, scored).encode()) if _cut(*without_space) else 0


def _cut(content: str, scored: str) -> str:
    """Return the part of the content that is not in the scored text."""
    # Longer ends appear only if all shorter ones do, so that a bisection finds the longest.
    lengths = range(len(content) + 1)
    n_end = bisect_right(lengths, 0, key=lambda n: content[len(content) - n :] not in scored) - 1
    rest = content[: len(content) - n_end]
    before = scored[: scored.rfind(content[len(rest) :])]
    n_begin = bisect_right(range(len(rest) + 1), 0, key=lambda n: rest[:n] not in before) - 1
    return rest[n_begin:]
