"""What is shipped: wheel, source distribution, and the container that runs the demo."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from places import ROOT

PACKAGES = ("registry", "evaluators", "predictors", "testbed", "workflow")
ROOT_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md")
MORE = ("CITATION.cff", "MLproject", "constraints.txt", "python_env.yaml")
MOST_BYTES = 5_000_000
SHIPPED_DATA = (
    "registry/py.typed",
    "registry/__init__.pyi",
    "evaluators/answers/tables.toml",
    "evaluators/benchmarks/suite_math7.toml",
    "predictors/public/rows.csv",
    "predictors/public/prior.toml",
    "predictors/search/space_template.toml",
    "testbed/base_model/model.safetensors",
    "testbed/demonstration/prompt.txt",
    "testbed/results/full.csv",
    "testbed/results/headroom.csv",
    "workflow/html_style.css.jinja",
    "workflow/report/page.html.jinja",
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source distribution, built from a copy of the sources."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in (*ROOT_FILES, *MORE):
        shutil.copy(ROOT / name, source / name)
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return source / "dist"


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_all_data_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.stat().st_size < MOST_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        f"rlready/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).glob("**/*.py")
        if path.relative_to(ROOT).parts[:2] != ("workflow", "launch")
    }
    assert code <= names, sorted(code - names)[:5]
    assert {f"rlready/{name}" for name in SHIPPED_DATA} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"rlready"}
    assert not any("test_" in name for name in names)


@pytest.mark.slow
def test_the_source_distribution_is_small_and_has_no_tests(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    assert archive.stat().st_size < MOST_BYTES
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {*ROOT_FILES, *MORE} - {"MANIFEST.in"} <= names
    assert not any(name.startswith("tests") for name in names)


@pytest.mark.slow
def test_twine_accepts_the_metadata(dist: Path) -> None:
    pytest.importorskip("twine")
    files = [str(path) for path in dist.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]


def test_the_container_runs_the_demo_as_an_ordinary_user() -> None:
    text = (ROOT / "Dockerfile").read_text()
    steps = re.sub(r"\\\n\s*", "", text)
    assert re.search(r"^FROM python:3\.\d+-slim", steps, re.MULTILINE)
    assert re.search(r"^USER 1000$", steps, re.MULTILINE)
    demo = re.search(r"testbed --profile demo", (ROOT / "Makefile").read_text())
    assert demo
    assert '"testbed", "--profile", "demo"' in steps
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "build", "samples", "*.db"} <= set(ignored)
    if hadolint := shutil.which("hadolint"):
        subprocess.run([hadolint, str(ROOT / "Dockerfile")], check=True)


def test_the_loop_may_tag_a_checkpoint_that_had_its_rl_run() -> None:
    # All twelve have; without the flag no alias is set, and `make loop` ended with exit code 2.
    lines = (ROOT / "Makefile").read_text().splitlines()
    steps = [line for line in lines if line.startswith(("\t$(READY) tag", "\t$(READY) resolve"))]
    assert len(steps) == 2
    assert all("--allow-trained" in step for step in steps)
