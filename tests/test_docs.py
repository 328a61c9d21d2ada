"""The documentation builds without warnings, asks no foreign server, and fits the code."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

import rlready.predictors.search.space_file as space_file
from rlready import evaluators, predictors, registry, testbed, workflow

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# What a page may load: a script, a style, a picture or a font. Links that a reader follows may lead
# anywhere.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|link(?=[^>]*\brel=.?(?:stylesheet|preload|preconnect|icon)))"
    r"[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+"
)


def loaded_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_has_every_page_and_asks_no_foreign_server(site: Path) -> None:
    names = {page.stem if page.stem != "README" else "index" for page in PAGES}
    assert names <= {page.stem for page in site.glob("*.html")}
    for page in site.glob("*.html"):
        assert not LOADED.search(page.read_text(encoding="utf-8")), page.name
    for style in site.glob("**/*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for package in (registry, evaluators, predictors, workflow, testbed):
        for name in package.__all__:
            # The function of a module with its name has an entry of its own.
            entries = (f"{package.__name__}.{name}", f"{package.__name__}.{name}.{name}")
            assert any(f'id="{entry}"' in page for entry in entries), entries[0]


def test_the_page_of_metrics_is_current() -> None:
    page = loaded_file(DOCS / "site" / "metrics_page.py")
    assert page.PAGE.read_text(encoding="utf-8") == page.page_text(), "run `make metrics`"


def test_the_page_on_searching_shows_the_file_that_init_writes() -> None:
    template = Path(space_file.__file__).with_name("space_template.toml").read_text()
    assert f"```toml\n{template}```" in (DOCS / "search.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=str)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_are_in_the_navigation_and_in_the_index() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    index = (DOCS / "README.md").read_text()
    for page in PAGES:
        assert f": {page.name}\n" in navigation, page.name
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_errors_of_the_page_are_those_of_the_code() -> None:
    texts = set()
    for package in ("registry", "evaluators", "predictors", "workflow"):
        for path in (ROOT / package).glob("**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
    rows = re.findall(r"^\| (\".*?) \|", (DOCS / "errors.md").read_text(), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r'"([^"]+)"', row)]
    assert len(quoted) > 20
    for text in set(quoted) - {"Agent versions"}:
        assert any(text in each for each in texts), text
