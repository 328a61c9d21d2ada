"""Imports run one way, heavy libraries come late, and MLproject tells what the CLI takes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from rlready.workflow.cli import main

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "evaluators", "predictors", "testbed", "workflow")
MAY_IMPORT = {
    "registry": {"registry"},
    "evaluators": {"evaluators", "registry"},
    "predictors": {"predictors", "registry"},
    "testbed": {"testbed", "evaluators", "registry"},
    "workflow": set(PACKAGES),
}
HEAVY = {"torch", "transformers", "datasets", "mlflow", "pandas", "pyarrow", "sklearn", "rich"}
# An estimator is a class whose base is scikit-learn's: the modules of `predictors` that define one
# import it when they are imported, and the command line imports them inside its functions.
ALLOWED_EARLY = {"predictors": {"sklearn"}}
ONLY_IN = {"mlflow": "registry", "math_verify": "evaluators/verify.py"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("**/*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not inside functions, not for type checkers only."""
    nodes: list[ast.AST] = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from imported(node) if isinstance(node, ast.Import | ast.ImportFrom) else ()
        nodes += ast.iter_child_nodes(node)


def test_imports_run_one_way() -> None:
    for path, tree in modules():
        package = path.parts[0]
        ours = {name.split(".")[1] for name in imported(tree) if name.startswith("rlready.")}
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_heavy_libraries_are_imported_inside_functions() -> None:
    for path, tree in modules():
        heavy = {name.split(".")[0] for name in at_import_time(tree)} & HEAVY
        heavy -= ALLOWED_EARLY.get(path.parts[0], set())
        assert not heavy, f"{path} imports {heavy} when it is imported"


def test_each_library_with_a_keeper_is_imported_by_it_alone() -> None:
    for path, tree in modules():
        for name in imported(tree):
            keeper = ONLY_IN.get(name.split(".")[0])
            assert keeper is None or str(path).startswith(keeper), f"{path} imports {name}"


def test_no_module_takes_part_in_an_import_cycle() -> None:
    edges = {
        "rlready." + str(path.with_suffix("")).replace("/", "."): set(at_import_time(tree))
        for path, tree in modules()
    }
    for start in edges:
        seen, todo = set(), [name for name in edges[start] if name in edges]
        while todo:
            name = todo.pop()
            assert name != start, f"{start} imports itself in a circle"
            if name not in seen:
                seen.add(name)
                todo += [other for other in edges[name] if other in edges]


def test_help_imports_no_heavy_library() -> None:
    """`rlready --help` has to answer at once."""
    code = (
        "import sys\n"
        "from rlready.workflow.cli import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"


def _entry_point(name: str) -> tuple[dict[str, dict[str, str]], str]:
    entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][name]
    return entry["parameters"], entry["command"]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_mlproject_takes_the_flags_of_a_command_with_their_defaults(name: str) -> None:
    """An entry point gives the positional arguments, and then every flag with a value."""
    parameters, command = _entry_point(name)
    defaults: dict[str, str | None] = {}
    positional, flags = [], {}
    for param in main.commands[name].params:
        flag = param.opts[0].removeprefix("--")
        if flag == "json":  # MLflow's own output is not JSON anyway.
            continue
        if isinstance(param, click.Argument):
            positional.append(f"{{{flag}}}")
        else:
            flags[f"--{flag}"] = f"{{{flag}}}"
        if isinstance(param, click.Option) and param.is_flag:
            defaults[flag] = "false"
        elif param.required:
            defaults[flag] = None
        elif isinstance(param, click.Argument) or param.multiple:
            defaults[flag] = ""
        else:
            defaults[flag] = str(param.default)
    assert {flag: given.get("default") for flag, given in parameters.items()} == defaults
    words = ["python", "workflow/launch/run.py", "$PPID", name, *positional]
    assert command.split()[: len(words)] == words
    pairs = command.split()[len(words) :]
    assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == flags


def test_every_parameter_of_the_main_entry_point_is_used() -> None:
    parameters, command = _entry_point("main")
    assert all(f"{{{parameter}}}" in command for parameter in parameters)


def test_every_dependency_of_mlflow_run_is_pinned() -> None:
    """MLflow caches the environment by the constraints, so a new dependency has to appear there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    assert environment["dependencies"] == ["-c constraints.txt", "-e .[local]"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["local"]]
    pins = {_project_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {_project_name(requirement) for requirement in needed} <= pins


def _project_name(requirement: str) -> str:
    match = re.match(r"[\w.-]*", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()
