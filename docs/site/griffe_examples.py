"""Extension of griffe: the section `Example:` of our docstrings is shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^Example:\n((?: {4}.*\n?|\n)+)", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Griffe knows the plural only, and would read the brackets of a doctest as links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of each object."""
        if obj.docstring:
            obj.docstring.value = _SECTION.sub(_plural, obj.docstring.value)


def _plural(section: re.Match[str]) -> str:
    body = section[1]
    if ">>>" not in body:  # Markdown shows it as code if it is indented further
        body = "\n" + re.sub(r"^(?=.)", "    ", body, flags=re.MULTILINE)
    return f"Examples:\n{body}"
