r"""How much of an assistant's text is missing from what is scored.

Chat templates of reasoning models cut thoughts: of `<think>so</think>4` only `4` is rendered, and
the loss is that of another text than the file's. Templates that only trim or insert white space cut
nothing.
"""

from __future__ import annotations

from bisect import bisect_right


def n_cut_bytes(content: str, scored: str) -> int:
    """Return how many UTF-8 bytes of a turn's content do not appear in its scored text.

    The longest end of the content that appears there is kept, and then the longest beginning of
    what is left that appears before it, so that a cut at one place is measured exactly.

    Args:
        content: of the turn, as in the file.
        scored: text of the tokens of this turn that are scored.
    """
    if not _cut(_squeezed(content), _squeezed(scored)):
        return 0
    return len(_cut(content, scored).encode())


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _cut(content: str, scored: str) -> str:
    """The part of the content that is not in the scored text."""
    # Whether an end of this length appears can only change once, from yes to no.
    lengths = range(len(content) + 1)
    n_end = bisect_right(lengths, 0, key=lambda n: content[len(content) - n :] not in scored) - 1
    rest = content[: len(content) - n_end]
    before = scored[: scored.rfind(content[len(rest) :])]
    n_begin = bisect_right(range(len(rest) + 1), 0, key=lambda n: rest[:n] not in before) - 1
    return rest[n_begin:]
