"""The comparison as one HTML file that needs nothing else.

Names, recipes and samples come from models and from other people's files: the template escapes
every value, and the page has no script at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlready.workflow.compare.comparison import Comparison
from rlready.workflow.compare.paired import PairedDifference
from rlready.workflow.html_page import rendered, visible

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_TEXT_CHARACTERS = 20_000


def page(comparisons: Sequence[Comparison]) -> str:
    """Return the HTML text of a page with all comparisons.

    Example:
        >>> Path("compare.html").write_text(page(compare(["sft-1", "sft-2"], store, config)))
    """
    filters: dict[str, Callable[..., Any]] = {
        "signed": lambda value: f"{value:+.4f}",
        "percent": lambda value: f"{value:.0%}",
        "shown": _shown,
        "bar": _bar,
        "reach": _reach,
        "list_values": lambda metrics: list(metrics.values()),
        "readable": _readable,
    }
    return rendered(_TEMPLATE, filters, comparisons=comparisons)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _readable(text: str) -> str:
    """Return the text of a sample, cut if it is very long, with controls as visible marks."""
    shown, n_cut = visible(text[:_TEXT_CHARACTERS]), len(text) - _TEXT_CHARACTERS
    return shown if n_cut <= 0 else f"{shown}\n[{n_cut:,} more characters]"


def _reach(differences: Sequence[PairedDifference]) -> float:
    """Return the largest distance from 0 that an interval reaches: half the width of a picture."""
    ends = [end for d in differences for end in (d.value, d.low, d.high) if end is not None]
    return max(map(abs, ends), default=1.0) or 1.0


def _bar(difference: PairedDifference, reach: float) -> dict[str, float]:
    """Return the places of an interval in a picture from -100 to 100, `reach` at its ends."""
    ends = {"value": difference.value, "low": difference.low, "high": difference.high}
    return {
        name: 100.0 * (difference.value if end is None else end) / reach
        for name, end in ends.items()
    }
