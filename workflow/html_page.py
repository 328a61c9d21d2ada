"""Pages of HTML that need nothing else: their templates and their style.

Names, recipes and samples come from models and from other people's files. Every value that a
template shows is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_STYLE = Path(__file__).with_name("html_style.css.jinja")


def visible(text: str, kept: str = "\n\t") -> str:
    """Return a text with each control character as a visible mark, but those in `kept`."""
    return "".join(c if c in kept or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def rendered(
    template: Path, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Return the text of a page.

    Args:
        template: a Jinja2 file. `{% include "style" %}` stands for the style that all pages share,
            and `{% include NAME %}` for a file beside the template.
        filters: what the template may call.
        values: what it shows.

    Example:
        >>> rendered(Path("page.html.jinja"), title="a < b")  # doctest: +SKIP
        '<h1>a &lt; b</h1>'
    """
    # Jinja2 comes with MLflow; `rlready --help` does without it.
    from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined

    style = DictLoader({"style": _STYLE.read_text(encoding="utf-8")})
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=ChoiceLoader([style, FileSystemLoader(template.parent)]),
    )
    environment.filters |= dict(filters or {})
    return environment.get_template(template.name).render(values)
