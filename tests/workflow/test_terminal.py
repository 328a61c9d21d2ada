"""What a terminal of 80 columns shows, and what a shell completes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlready.workflow import terminal

HEAVY = {"torch", "transformers", "mlflow", "pandas", "sklearn", "scipy.stats", "rich", "optuna"}
NAME = "b1600-u1600-canonical-n0-countdown-r0.0005-s0"
HEADINGS = ("", "checkpoint", "predicted", "interval", "P(best)", "ready")
ROW = ("1", NAME, "0.7061", "0.677 .. 0.723", "0.41", "undecided")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_numbers_and_names_stay_whole_whatever_the_width(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """At 80 columns every number of a ranking was cut to its first digit."""
    monkeypatch.setattr(terminal, "text_width", lambda: width)
    made = terminal.table(
        "title",
        HEADINGS,
        [ROW] * 3,
        words=("checkpoint", "ready"),
        unbroken=[heading for heading in HEADINGS if heading != "checkpoint"],
        optional=("interval", "P(best)", "predicted"),
    )
    out = io.StringIO()
    Console(file=out, width=width).print(made)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = {str(column.header): list(column.cells) for column in made.columns}
    assert "".join(shown["checkpoint"]) == NAME * 3
    for heading, cells in shown.items():
        if heading != "checkpoint":
            assert all(any(cell in line for line in lines) for cell in cells)
    assert ("too wide for this terminal" in out.getvalue()) == (len(shown) < len(HEADINGS))
    assert (len(shown) == len(HEADINGS)) == (width >= 100)


@pytest.mark.parametrize(
    ("words", "cword", "expected"),
    [
        ("rlready re", 1, ["plain,report", "plain,resolve"]),
        ("rlready report --st", 2, ["plain,--study", "plain,--storage"]),
        ("rlready search re", 2, ["plain,report"]),
    ],
)
def test_a_shell_completes_without_loading_a_heavy_library(
    words: str, cword: int, expected: list[str]
) -> None:
    code = (
        "import sys\n"
        "from rlready.workflow.cli.main import main\n"
        "try: main(prog_name='rlready')\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    asked = {"_RLREADY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(cword)}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | asked,
    )
    assert found.stdout.split() == expected
    assert found.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("is_terminal", "environment", "opened"),
    [
        (True, {"DISPLAY": ":0"}, True),
        (True, {"WAYLAND_DISPLAY": "wayland-0"}, True),
        (False, {"DISPLAY": ":0"}, False),
        (True, {}, False),
        (True, {"DISPLAY": ":0", "CI": "true"}, False),
    ],
)
def test_a_page_is_opened_only_for_somebody_at_a_desktop(
    is_terminal: bool,
    environment: dict[str, str],
    opened: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: pages.append(address) or True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    page = tmp_path / "report.html"
    assert not terminal.open_page(page), "there is no page yet"
    page.write_text("<p>")
    assert terminal.open_page(page) is opened
    assert pages == [page.as_uri()] * opened
