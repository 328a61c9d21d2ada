"""Show held-out examples with the tokens that are scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlready.workflow.evaluate.heldout_preview import ShownExample

_MAX_CHARS = 1200
BEGIN, END = "⟦", "⟧"
"""Around scored tokens; on a terminal these are coloured, too."""


def heldout_view(examples: Sequence[ShownExample]) -> Iterator[Any]:
    """Yield a heading and a text for each example; long parts are cut in the middle."""
    from rich.text import Text

    for example in examples:
        cut = f"; {example.n_cut_bytes:,} response bytes are not" if example.n_cut_bytes else ""
        yield (
            f"{example.heldout_set}, {example.id}: {example.n_scored:,} of {example.n_tokens:,} "
            f"tokens are scored, those between {BEGIN} and {END}{cut}"
        )
        text = Text()
        for part, is_scored in example.parts:
            shown = _shortened(part)
            text.append(f"{BEGIN}{shown}{END}" if is_scored else shown, "green" * is_scored)
        yield text
        yield ""


def _shortened(text: str) -> str:
    n_left_out = len(text) - _MAX_CHARS
    if n_left_out <= 0:
        return text
    half = _MAX_CHARS // 2
    return f"{text[:half]} [... {n_left_out:,} characters ...] {text[-half:]}"
