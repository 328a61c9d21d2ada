"""The report as one HTML file that needs nothing else.

The page has one script, which sorts and filters its tables. A policy in its head allows this script
and nothing else: no other script runs and no request is sent, whatever a name contains.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from rlready.workflow.html_page import rendered, visible
from rlready.workflow.report.parts import Interval, Report, Table

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_SCRIPT = Path(__file__).with_name("tables.js.jinja")
_SHOWN_ROWS = 12
"""Rows of a table that are shown before a reader asks for all."""


def page(report: Report) -> str:
    """Return the HTML text of a report.

    Example:
        >>> Path("report.html").write_text(page(report(evidence)))  # doctest: +SKIP
    """
    script = _SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return rendered(
        _TEMPLATE,
        {"bar": _bar, "visible": _visible, "prose": _prose},
        report=report,
        script=script,
        script_digest=digest,
        n_shown=_SHOWN_ROWS,
    )


def _bar(interval: Interval, table: Table) -> dict[str, float | None]:
    """Return the places of an interval in a picture from 0 to 100."""
    low, high = table.ends
    span = high - low or 1.0
    numbers = {
        "low": interval.low,
        "high": interval.high,
        "value": interval.value,
        "recorded": interval.recorded,
    }
    return {
        name: None
        if number is None
        else round(100.0 * min(max((number - low) / span, 0.0), 1.0), 1)
        for name, number in numbers.items()
    }


def _prose(text: str) -> Any:
    """Return a sentence as HTML: escaped, with commands in backticks as code."""
    from markupsafe import Markup, escape  # comes with Jinja2

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(_visible(text)))))


def _visible(text: str) -> str:
    """Return a text with each control character as a visible mark."""
    return visible(text, kept="\n\t\N{NO-BREAK SPACE}")
