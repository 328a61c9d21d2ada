"""What people read is written in plain English: no archaic turns, no inverted word order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("registry", "evaluators", "predictors", "testbed", "workflow")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "MLproject", ROOT / "Makefile"]
PAGES += [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "LOG.md"]
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).glob("**/*.py"))]

TURNS = {
    "say 'invalid' or what is wrong": r"\b(can|could)(not| not) be meant\b",
    "say 'separated by'": r"\bparted by\b",
    "say 'is not a ...'": r"(?<!there )(?<!There )\b(is|are|was|were) no\b"
    r"(?! (longer|more|less|better|worse|slower|faster|earlier|later|greater|smaller|one)\b)",
    "say what it does not do": r"\bnone of (its|our|their) business\b|\bnothing to (it|them)\b",
    "say 'readers', 'users'": r"\b[Ww]hoever\b|\bwho(m)? it concerns\b",
    "say 'existing ...'": r"\bwhat (is|was) there\b|\bthat there (is|are|was)\b",
    "say 'fellow' by its noun": r"\bits fellows?\b|\bits like\b",
    "say 'if'": r"\bin case of need\b|\bas the case may be\b|\blest\b",
    "say 'instead of'": r"\bin lieu of\b|\bin the stead\b",
    "say 'without'": r"\b(save|but) for the\b(?= (one|few))",
    "say 'therefore', 'from'": r"\b(thence|thereof|therein|whereof|wherein|thereby)\b",
    "say 'until'": r"\btill\b",
}


def sentences_of(path: Path) -> Iterator[tuple[int, str]]:
    """Strings, docstrings and comments of a module, or the lines of a page, with their line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
    for number, line in enumerate(text.splitlines(), 1):
        _, mark, comment = line.partition("# ")
        if mark:
            yield number, comment


@pytest.mark.parametrize("path", [*PAGES, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_no_archaic_turns(path: Path) -> None:
    hits = [
        f"line {line}: {advice}: {match[0]!r} in {sentence[:100]!r}"
        for line, sentence in sentences_of(path)
        for advice, pattern in TURNS.items()
        if (match := re.search(pattern, sentence))
    ]
    assert not hits, "\n".join(hits)
