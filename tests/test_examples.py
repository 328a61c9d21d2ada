"""The examples run from a clone, without network and in seconds, and say what the pages quote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def output_of(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def code_of(notebook: Path) -> tuple[str, list[dict[str, Any]]]:
    """Code of the cells, and the cells themselves."""
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells), cells


def test_there_are_four_scripts_and_a_notebook() -> None:
    assert (len(SCRIPTS), len(NOTEBOOKS)) == (4, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [path for path in SCRIPTS if path.stem != "trl_loop"],  # workflow/test_trl_loop.py runs it
    ids=lambda path: path.stem,
)
def test_a_script_runs_in_an_empty_folder_and_leaves_nothing(script: Path, tmp_path: Path) -> None:
    printed = output_of([str(script)], tmp_path)
    assert printed.count("\n") >= 2
    assert not list(tmp_path.iterdir())
    if script.stem == "choose_from_table":
        assert f"```\n{printed}```" in (ROOT / "docs" / "choose.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_kept_in_it(notebook: Path, tmp_path: Path) -> None:
    code, cells = code_of(notebook)
    kept = "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "stream"
    )
    script = tmp_path / "notebook.py"
    script.write_text(code)
    assert output_of([str(script)], EXAMPLES) == kept
    kinds = {kind for cell in cells for out in cell["outputs"] for kind in out.get("data", {})}
    assert "image/png" in kinds, "the notebook keeps its picture"


@pytest.mark.parametrize("path", [*SCRIPTS, *NOTEBOOKS], ids=lambda path: path.name)
def test_examples_use_public_names_only(path: Path) -> None:
    text = path.read_text() if path.suffix == ".py" else code_of(path)[0]
    lines = [line for line in text.splitlines() if line.startswith(("import rl", "from rl"))]
    assert lines
    for line in lines:
        assert line.startswith("from rlready.")
        assert line.split()[1].count(".") == 1, line
