"""Claim: the own tests of four modules notice at least 80 % of small changes to their statements.

A mutant is a copy of `predictors/` in which one comparison, +-1 constant, min or max, or sign of
arithmetic is changed. The module's own tests (below) run on it until the first failure; the slow
ones are left out. A mutant that no test notices survives, and is printed with its line: either a
test is missing, or the change cannot be seen (a tolerance, a bound that is never met).

The sample is seeded. Constants of types, texts and error messages are not changed. Each test run is
a fork, so that numpy, scipy and MLflow are imported once.

    python bench/mutants.py [FILE ...] [--n 25] [--seed 0] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
GOAL = 0.8
TESTS = {
    "predictors/calibration/intervals.py": ("test_interval_values", "test_intervals"),
    "predictors/validation/scores.py": ("test_score_values", "test_scores"),
    "predictors/validation/validate.py": (
        "test_validation_values",
        "test_pairs",
        "test_validation",
    ),
    "predictors/decisions/rl_plan.py": ("test_plan_values", "test_plan"),
}
_LONGEST_S = 600
_FOLDERS = ("registry", "evaluators", "predictors", "testbed", "workflow")

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_SIGNS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
_EXTREMES = {
    **{"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"},
    **{"argmin": "argmax", "argmax": "argmin", "floor": "ceil", "ceil": "floor"},
}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A changed module: where, what it was, what it is, and the whole text."""

    line: int
    before: str
    after: str
    text: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--n", type=int, default=25, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="4 mutants of each file")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    _import_libraries()
    result = {}
    for file in arguments.files or TESTS:
        found = _judged(file, 4 if arguments.quick else arguments.n, arguments.seed)
        result[file] = found
        if not arguments.json:
            _show(file, found)
    reached = all(one["killed"] >= GOAL * one["n"] for one in result.values())
    print(json.dumps({"bench": "mutants", "files": result, "reached": reached}))


def changes(tree: ast.AST) -> list[tuple[int, ast.AST]]:
    """All changes to a module: the position of a node, as `ast.walk` goes, and its replacement."""
    inside = _untouched(tree)
    return [
        (position, changed)
        for position, node in enumerate(ast.walk(tree))
        if id(node) not in inside
        for changed in _changes(node)
    ]


def mutant(tree: ast.AST, position: int, changed: ast.AST) -> Mutant:
    """The module with one change."""
    other = copy.deepcopy(tree)
    target = list(ast.walk(other))[position]
    before = ast.unparse(target)
    target.__dict__.update(changed.__dict__)
    return Mutant(
        line=target.lineno, before=before, after=ast.unparse(target), text=ast.unparse(other)
    )


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield _with(node, ops=[_COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        yield _with(node, op=_SIGNS[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield _with(node, op=ast.UAdd())
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield _with(node, value=node.value + 1)
        yield _with(node, value=node.value - 1)
    elif isinstance(node, ast.Attribute) and node.attr in _EXTREMES:
        yield _with(node, attr=_EXTREMES[node.attr])
    elif isinstance(node, ast.Name) and node.id in _EXTREMES:
        yield _with(node, id=_EXTREMES[node.id])


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _untouched(tree: ast.AST) -> set[int]:
    """Ids of nodes inside errors that are raised, and inside annotations."""
    inside = set()
    for node in ast.walk(tree):
        parts = [getattr(node, name, None) for name in ("annotation", "returns")]
        parts += [node] if isinstance(node, ast.Raise) else []
        inside |= {id(each) for part in parts if part is not None for each in ast.walk(part)}
    return inside


def _judged(file: str, n: int, seed: int) -> dict[str, object]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    everything = changes(tree)
    rng = np.random.default_rng(seed)
    chosen = [everything[at] for at in sorted(rng.permutation(len(everything))[:n])]
    tests = [ROOT / "tests" / "predictors" / f"{name}.py" for name in TESTS[file]]
    tests = [path for path in tests if path.exists()]
    with tempfile.TemporaryDirectory() as folder:
        home = _copy(Path(folder))
        began = time.monotonic()
        if _is_noticed(home, tests):
            raise SystemExit(f"the tests of {file} fail on the unchanged file")
        longest = min(_LONGEST_S, 60 + 5 * (time.monotonic() - began))
        changed, survivors = home / file, []
        original = changed.read_bytes()
        for position, node in chosen:
            made = mutant(tree, position, node)
            changed.write_text(made.text, encoding="utf-8")
            if not _is_noticed(home, tests, longest):
                survivors.append(made)
            changed.write_bytes(original)
    return {
        "n": len(chosen),
        "of": len(everything),
        "killed": len(chosen) - len(survivors),
        "survivors": [f"{m.line}: {m.before} -> {m.after}" for m in survivors],
    }


def _copy(folder: Path) -> Path:
    """Make the packages importable from a folder, predictors/ as a copy of its own."""
    (folder / "rlready").mkdir()
    for name in _FOLDERS:
        if name == "predictors":
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
        (folder / "rlready" / name).symlink_to(
            folder / name if name == "predictors" else ROOT / name
        )
    return folder


def _import_libraries() -> None:
    """Import what the tests need before any fork: no part of rlready, and no plugin of pytest."""
    import mlflow
    import pandas
    import pytest
    import scipy.stats
    import sklearn.ensemble
    import sklearn.gaussian_process
    import threadpoolctl

    libraries = (mlflow, pandas, pytest, scipy.stats, threadpoolctl)
    assert all(libraries), sklearn.__version__
    assert not any(name.startswith("rlready.") for name in sys.modules)


class _NoShrinking:
    """A pytest plugin: a failing example is enough, the smallest one is of no use here."""

    def pytest_collection(self) -> None:
        """Replace the profile that conftest loads."""
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutants",
            settings.get_profile("rlready"),
            phases=(Phase.explicit, Phase.generate),
            database=None,
            derandomize=True,
        )
        settings.load_profile("mutants")


def _is_noticed(home: Path, tests: list[Path], longest: float = _LONGEST_S) -> bool:
    """Whether a test fails, or ends the interpreter, or does not end in time."""
    child = os.fork()
    if not child:
        _run_tests(home, tests)
    until = time.monotonic() + longest
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run_tests(home: Path, tests: list[Path]) -> None:
    """Run in the fork: the tests on the copy, without a word; then end."""
    code = 1
    try:
        os.chdir(ROOT)
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(home))
        import pytest

        # Some plugins are imported already, which pytest warns of.
        flags = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*flags, *map(str, tests)], plugins=[_NoShrinking()]))
    finally:
        os._exit(code)


def _show(file: str, found: dict[str, object]) -> None:
    print(f"\n{file}: {found['killed']} of {found['n']} noticed ({found['of']} possible)")
    for survivor in found["survivors"]:
        print(f"    survives, line {survivor}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
