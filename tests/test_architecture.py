"""Imports run one way, heavy libraries come late, and MLproject is current."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest
import yaml
from places import ROOT
from setuptools import find_packages

from rlready.workflow.cli.main import main
from rlready.workflow.cli.mlproject import project_text

PACKAGES = ("registry", "evaluators", "predictors", "testbed", "workflow")
MAY_IMPORT = {
    "registry": {"registry"},
    "evaluators": {"evaluators", "registry"},
    "predictors": {"predictors", "registry"},
    "testbed": {"testbed", "evaluators", "predictors", "registry"},
    "workflow": set(PACKAGES),
}
ROOMS = {
    "registry": ("", "mlflow_store"),
    "evaluators": (
        "",
        "checkpoints",
        "answers",
        "benchmarks",
        "metrics",
        "heldout",
        "verification",
        "sampling",
        "adaptive",
    ),
    "predictors": ("", "public", "models", "validation", "calibration", "decisions", "search"),
    "testbed": ("", "world", "training", "study"),
    "workflow": (
        "",
        "evaluate",
        "predict",
        "search",
        "testbed",
        "compare",
        "report",
        "importers",
        "rl_prompts",
        "callbacks",
        "cli",
    ),
}
"""A room imports from itself and from those before it; "" is the package's own folder."""

# MLflow looks for the loader of old predictors under this name.
OUT_OF_ORDER = {
    "registry.served_predictor",
}
HEAVY = {"torch", "transformers", "datasets", "mlflow", "pandas", "pyarrow", "sklearn", "rich"}
# An estimator is a class whose base is scikit-learn's: the modules of `predictors` that define one
# import it when they are imported, and the command line imports them inside its functions.
# A callback of a trainer is a subclass too; one module of the callbacks imports the base class.
ALLOWED_EARLY = {
    "predictors": {"sklearn"},
    "workflow.callbacks.trainer_callback": {"transformers"},
}
ONLY_IN = {
    "mlflow": "registry/mlflow_store/",
    "math_verify": "evaluators/verification/",
    "latex2sympy2_extended": "evaluators/verification/",
    "sympy": "evaluators/verification/",
}
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 80
MOST_FILES_OF_A_FOLDER = 16


@cache
def modules() -> dict[str, ast.Module]:
    """Trees of our modules, by name without `rlready.`; a package has its folder's name."""
    trees = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("**/*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if not name.startswith("workflow.launch"):
                trees[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def path_of(name: str) -> str:
    return name.replace(".", "/") + ".py"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names that are imported anywhere, inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@cache
def our_imports(name: str) -> frozenset[str]:
    """Our modules that one imports, inside functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {
                whole if whole.removeprefix("rlready.") in modules() else node.module
                for whole in (f"{node.module}.{alias.name}" for alias in node.names)
            }
    ours = {each.removeprefix("rlready.") for each in names if each.startswith("rlready.")}
    return frozenset(ours)


def room_of(name: str) -> tuple[str, str]:
    """Package and room of a module."""
    package, *inner = name.split(".")
    return package, inner[0] if inner and inner[0] in ROOMS[package] else ""


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


@pytest.mark.parametrize("name", modules())
def test_packages_and_rooms_import_one_way(name: str) -> None:
    package, room = room_of(name)
    for other in our_imports(name):
        other_package, other_room = room_of(other)
        assert other_package in MAY_IMPORT[package], f"{name} imports {other}"
        if other_package == package and name not in OUT_OF_ORDER:
            order = ROOMS[package]
            assert order.index(other_room) <= order.index(room), f"{name} imports {other}"


def test_every_folder_is_a_known_room() -> None:
    for package in PACKAGES:
        rooms = {room.partition(".")[0] for room in find_packages(str(ROOT / package))}
        assert rooms == set(ROOMS[package]) - {""}


def test_heavy_libraries_are_imported_inside_functions() -> None:
    for name, tree in modules().items():
        heavy = {library.split(".")[0] for library in at_import_time(tree)} & HEAVY
        heavy -= ALLOWED_EARLY.get(name, ALLOWED_EARLY.get(name.split(".")[0], set()))
        assert not heavy, f"{name} imports {heavy} when it is imported"


def test_each_library_with_a_keeper_is_imported_by_it_alone() -> None:
    for name, tree in modules().items():
        for library in imported(tree):
            keeper = ONLY_IN.get(library.split(".")[0])
            assert keeper is None or path_of(name).startswith(keeper), f"{name} imports {library}"


def test_no_module_takes_part_in_an_import_circle() -> None:
    """Imports inside functions and for type checkers count: they hide circles, no more."""
    for start in modules():
        seen: set[str] = set()
        todo = [name for name in our_imports(start) if name in modules()]
        while todo:
            name = todo.pop()
            assert name != start, f"{start} imports itself in a circle"
            if name not in seen:
                seen.add(name)
                todo += [other for other in our_imports(name) if other in modules()]


def test_rooms_stay_small() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).glob("**/*.py"):
            text = path.read_text(encoding="utf-8")
            assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno is not None
                    n_lines = node.end_lineno - node.lineno + 1
                    assert n_lines <= MOST_LINES_OF_A_FUNCTION, f"{path}: {node.name}"
            assert len(list(path.parent.glob("*.py"))) <= MOST_FILES_OF_A_FOLDER, path.parent


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_what_its_list_names(package: str) -> None:
    module = import_module(f"rlready.{package}")
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{package}.{name} has no docstring"


def test_readme_and_docs_import_public_names_only() -> None:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for module, names in re.findall(
            r"^from (rlready\S*) import (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert module in {f"rlready.{package}" for package in PACKAGES}, f"{path}: {module}"
            assert set(names.split(", ")) <= set(import_module(module).__all__), f"{path}: {names}"


def test_help_imports_no_heavy_library() -> None:
    """`rlready --help` has to answer at once."""
    code = (
        "import sys\n"
        "from rlready.workflow.cli.main import main\n"
        "try: main(['evaluate', '--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY | {'scipy.stats'}!r} & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"


def test_asking_for_a_recipe_loads_no_estimator() -> None:
    """Two constants once drew in scikit-learn and `scipy.stats`: 0.5 s of each `search ask`."""
    code = (
        "import sys\n"
        "import rlready.workflow.predict.registry_table\n"
        "import rlready.workflow.search.mirror\n"
        "import rlready.workflow.search.run\n"
        "print(sorted({'sklearn', 'scipy.stats'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_mlproject_is_current() -> None:
    """`make mlproject` generates the file from the flags of the commands."""
    assert (ROOT / "MLproject").read_text(encoding="utf-8") == project_text()


def test_mlproject_passes_every_parameter() -> None:
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert entry_points.keys() == {"main", *main.commands}
    for entry in entry_points.values():
        assert all(f"{{{parameter}}}" in entry["command"] for parameter in entry["parameters"])


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
