"""Claim: two versions of the code give the same numbers, to the last bit.

Run it at both commits on the same machine. It calls only what both have: the commands of `rlready`
and the bench scripts, each in a process of its own. Sections:

- testbed: the smoke profile, its table, summary, weights and inputs;
- full: the first rows of `testbed/results/full.csv` made again (3 of 48; the run is then stopped);
- registry: fit, rank, plan, validate, table and tag on the 9 checkpoints of three smoke profiles;
- old: the same on an old registry that holds the first 14 rows of full.csv, and on each --registry;
- table: validate on all rows of full.csv;
- evaluate: proxies and samples of the shipped base model, 16 samples of 40 problems;
- bench: what retu, coverage --quick, regmix and pass_at_k --quick print as their last line.

What may differ is dropped: run and model ids, times and CPU seconds, paths, and versions of
evaluator and checker. A text with a space in it is prose, of which only the numbers count.

    python bench/same_numbers.py [--quick] [--json] [--out FILE] [--against FILE]
        [--only SECTION ...] [--registry ARCHIVE ...]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
FULL = ROOT / "testbed" / "results" / "full.csv"
SEEDS, N_FULL, RL_SEEDS = (0, 1, 2), 3, (0, 1)
SMOKE_TARGET = "value_at_budget/8steps@world_after"
FULL_TARGET = "value_at_budget/60steps@world_after"
FEATURES = (
    *("pass_at_1@world", "pass_at_4@world", "pass_at_16@world", "pass_at_64@world"),
    *("signal_share_8@world", "token_entropy@world", "heldout_nll@heldout_canonical"),
)
BENCHES = (
    *(("retu",), ("retu", "--quick"), ("coverage", "--quick"), ("regmix", "--quick"), ("regmix",)),
    ("pass_at_k", "--quick"),
)
DROPPED = re.compile(
    r"(.*_)?(s|seconds|run_id|model_id|made_at|files|uri)|(evaluator|checker)_version.*"
)
NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w-])")
LIMIT_S, N_SHOWN = 1200, 60

Figures = dict[str, Any]
"""Values by their path, such as rank/rows/0/predicted."""


class CommandError(Exception):
    """A command that did not end with the exit code 0."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without full, registry and old")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument(
        "--against", type=Path, help="compare with a file of --out; 1 if it differs"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="these sections alone")
    parser.add_argument(
        "--registry",
        nargs="+",
        type=Path,
        default=[],
        metavar="ARCHIVE",
        help="tar files with an mlflow.db whose experiment is called rlready",
    )
    arguments = parser.parse_args()
    say: Callable[[str], None] = (lambda line: None) if arguments.json else _say
    names = arguments.only or (QUICK if arguments.quick else tuple(SECTIONS))
    earlier = json.loads(arguments.against.read_text()) if arguments.against else None
    sections: dict[str, Figures] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        for name in names:
            begin = time.perf_counter()
            sections[name] = _figures(SECTIONS[name](work, arguments.registry))
            seconds[name] = round(time.perf_counter() - begin, 1)
            say(f"{name}: {len(sections[name])} figures, {seconds[name]:.0f} s")
    if arguments.out:
        text = json.dumps({"sections": sections}, indent=0, sort_keys=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")
    is_equal: dict[str, bool] | None = None
    if earlier is not None:
        is_equal = {n: compare(n, earlier["sections"].get(n), sections[n], say) for n in names}
    failed = [name for name, figures in sections.items() if "FAILED" in figures]
    result = {
        "bench": "same_numbers",
        "n_figures": {name: len(figures) for name, figures in sections.items()},
        "digests": {name: _sha256(_text(figures).encode()) for name, figures in sections.items()},
        "seconds": seconds,
        "failed": failed,
        "is_equal": is_equal,
    }
    print(json.dumps(result))
    return 1 if failed or (is_equal is not None and not all(is_equal.values())) else 0


def compare(name: str, before: Figures | None, after: Figures, say: Callable[[str], None]) -> bool:
    """Whether a section is the same; each key that is not is shown with both values."""
    if before is None:
        say(f"{name}: not in the other file")
        return False
    keys = [*before, *(key for key in after if key not in before)]
    differing = [key for key in keys if _value(before, key) != _value(after, key)]
    if not differing:
        say(f"{name}: equal ({len(after)} figures)")
        return True
    say(f"{name}: {len(differing)} of {len(keys)} figures differ")
    for key in differing[:N_SHOWN]:
        say(f"  {key}: {_value(before, key)} -> {_value(after, key)}")
    if len(differing) > N_SHOWN:
        say(f"  and {len(differing) - N_SHOWN} more")
    return False


def testbed(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The smoke profile, and the files that it leaves."""
    out = _smoke(work, 0)
    yield "table", _table(out / "table.csv")
    yield "summary", json.loads((out / "summary.json").read_text())
    yield "curves", {p.parent.name: _lines(p) for p in sorted(out.glob("rl/*/curve.csv"))}
    yield "weights", _hashes(out, "*/*/model.safetensors")
    yield "inputs", _hashes(out, "inputs/**/*.jsonl")
    yield "space", tomllib.loads((out / "inputs" / "space.toml").read_text())
    for path in sorted(out.glob("proxies/*.json")):
        yield f"proxies/{path.stem}", json.loads(path.read_text())["proxies"]


def full(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The first units of the full profile, and how far they are those of full.csv."""
    with FULL.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:N_FULL]
    out = work / "full"
    ends = [out / "rl" / f"{row['name']}-seed{seed}" for row in rows for seed in RL_SEEDS]
    flags = ("--profile", "full", "--jobs", "1", "--out", out, *_store(work / "full.db"))
    with (work / "full.log").open("w") as log:
        process = subprocess.Popen(
            [_command(), "testbed", *map(str, flags)],
            cwd=work,
            env=_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        begin = time.monotonic()
        while process.poll() is None and not all(end.is_dir() for end in ends):
            if time.monotonic() - begin > LIMIT_S:
                break
            time.sleep(0.2)
        # The run never ends by itself: 45 more rows would take an hour.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not all(end.is_dir() for end in ends):
        raise CommandError(f"testbed --profile full: {(work / 'full.log').read_text()[-600:]}")
    yield "curves", {end.name: _lines(end / "curve.csv") for end in ends}
    weights = [end / "model.safetensors" for end in ends]
    weights += [out / "sft" / row["name"] / "model.safetensors" for row in rows]
    yield "weights", {str(p.parent.relative_to(out)): _sha256(p.read_bytes()) for p in weights}
    for row in rows:
        proxies = json.loads((out / "proxies" / f"{row['name']}.json").read_text())["proxies"]
        yield f"proxies/{row['name']}", proxies
        cells = {
            f"{proxy['name']}{end}@{proxy['benchmark']}": proxy[key]
            for proxy in proxies
            for end, key in (("", "value"), ("_se", "se"))
        }
        equal = [value == float(row[c]) for c, value in cells.items() if row.get(c)]
        yield f"of full.csv/{row['name']}", {"n_cells": len(equal), "n_equal": sum(equal)}


def registry(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The commands on three smoke profiles in one registry."""
    for seed in SEEDS:
        _smoke(work, seed)
    yield from _asked(work, _store(work / "smoke.db"), ("--target", SMOKE_TARGET))


def old(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The commands on registries that an earlier version wrote."""
    own = sorted(ROOT.glob("tests/**/registry_91df89d.tar.xz"))
    if not own:
        raise CommandError("there is no registry_91df89d.tar.xz in tests")
    for archive in (own[0], *archives):
        name = archive.name.partition(".")[0]
        folder = work / "old" / name
        store = _store(_unpacked(archive, folder))
        if archive == own[0]:
            yield f"{name}/rank of the stored predictor", _run(work, "rank", *store)
        for key, value in _asked(work, store, ("--target", FULL_TARGET)):
            yield f"{name}/{key}", value


def table(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The rows of full.csv validated, as a whole and by the style of their SFT solutions."""
    out = work / "predictions.csv"
    flags = (
        *("--table", FULL, "--target", FULL_TARGET, "--features", ",".join(FEATURES)),
        *("--se", ",".join(f"{name}={name.replace('@', '_se@')}" for name in FEATURES)),
        *("--target-se", FULL_TARGET.replace("@", "_se@"), "--names", "name"),
    )
    grouped = ("--group", "recipe.style", "--predictions", out, "--json")
    yield "by style", _run(work, "validate", *flags, *grouped)
    yield "predictions", _table(out)
    models = ("--model", "all", "--splits", "group,parity", "--group", "recipe.style")
    yield "all models", _run(work, "validate", *flags, *models, "--json")


def evaluate(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The shipped base model on the demonstration's problems and held-out solutions."""
    files = ROOT / "testbed" / "demonstration"
    samples = work / "samples"
    flags = (
        *("--benchmark", f"chain_hard={files / 'chain_hard.jsonl'}"),
        *("--benchmark", f"add3={files / 'add3.jsonl'}"),
        *("--held-out", files / "heldout_canonical.jsonl"),
        *("--prompt-template", files / "prompt.txt", "--samples", 16, "--max-tokens", 48),
        *("--engine", "hf", "--device", "cpu", "--seed", 0, "--samples-dir", samples),
        *_store(work / "evaluate.db"),
    )
    base = ROOT / "testbed" / "base_model"
    yield "report", _run(work, "evaluate", base, *flags)
    for path in sorted(samples.glob("*/*/part-*.parquet")):
        frame = pd.read_parquet(path).sort_values(["problem_id", "sample_index"])
        named = [name for name in frame.columns if not DROPPED.fullmatch(name)]
        rows = frame[named].to_dict("records")
        yield (
            f"samples/{path.parent.name}",
            {
                "n": len(rows),
                "sha256": _sha256(_text(rows).encode()),
                "logprob_sum": frame["logprob_sum"].tolist(),
            },
        )
    yield "files", sorted(p.parent.name for p in samples.glob("*/*/about.json"))


def bench(work: Path, archives: list[Path]) -> Iterator[tuple[str, Any]]:
    """The last lines of bench scripts."""
    for script, *flags in BENCHES:
        path = ROOT / "bench" / f"{script}.py"
        yield " ".join((script, *flags)), _json([sys.executable, path, *flags, "--json"], ROOT)


SECTIONS: Mapping[str, Callable[[Path, list[Path]], Iterator[tuple[str, Any]]]] = {
    section.__name__: section for section in (testbed, full, registry, old, table, evaluate, bench)
}
QUICK = ("testbed", "table", "evaluate", "bench")


def _smoke(work: Path, seed: int) -> Path:
    """The folder of a smoke profile, which is run once and put into smoke.db."""
    out = work / f"smoke{seed}"
    if not (out / "summary.json").is_file():
        flags = ("--profile", "smoke", "--seed", seed, "--jobs", 2, "--out", out)
        _run(work, "testbed", *flags, *_store(work / "smoke.db"))
    return out


def _asked(
    work: Path, store: tuple[Any, ...], target: tuple[str, str]
) -> Iterator[tuple[str, Any]]:
    """What the commands say of a registry."""
    yield "table", _run(work, "table", *store)
    yield "validate", _run(work, "validate", *target, *store)
    yield "fit", _run(work, "fit", *target, "--name", "same", *store)
    predictor = ("--predictor", "same", *store)
    yield "rank", _run(work, "rank", *predictor)
    for policy in ("expected", "anchor"):
        flags = ("--rl-runs", 3, "--policy", policy, *predictor)
        yield f"plan {policy}", _run(work, "plan", *flags)
    yield "tag", _run(work, "tag", "--dry-run", *predictor)


def _store(path: Path) -> tuple[Any, ...]:
    return ("--tracking-uri", f"sqlite:///{path}", "--json")


def _unpacked(archive: Path, folder: Path) -> Path:
    """The database of an archive; artifacts are named where they lie now."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as file:
        file.extraction_filter = getattr(tarfile, "data_filter", None)  # new in Python 3.11.4
        file.extractall(folder)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        asked = "select artifact_location from experiments where name = 'rlready'"
        (location,) = database.execute(asked).fetchone()
        made_in = location.removeprefix("file://").partition("/mlruns")[0]
        for (name,) in list(
            database.execute("select name from sqlite_master where type = 'table'")
        ):
            for _, column, kind, *_ in list(database.execute(f"pragma table_info({name})")):
                if "CHAR" in kind or "TEXT" in kind:
                    change = f"update {name} set {column} = replace({column}, ?, ?)"
                    database.execute(change, (made_in, str(folder)))
    for path in folder.glob("mlruns/**/MLmodel"):
        path.write_text(path.read_text().replace(made_in, str(folder)))
    return folder / "mlflow.db"


def _run(work: Path, *words: Any) -> Any:
    """The JSON that a command of rlready prints."""
    return _json([_command(), *words], work)


def _json(words: list[Any], folder: Path) -> Any:
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        cwd=folder,
        env=_environment(),
        check=False,
        timeout=LIMIT_S,
    )
    if done.returncode:
        raise CommandError(
            f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-600:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _command() -> str:
    return str(Path(sys.executable).with_name("rlready"))


def _environment() -> dict[str, str]:
    """One thread, because sums depend on their number, and no registry of the user's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _table(path: Path) -> dict[str, dict[str, str]]:
    """The cells of a CSV file as they stand, by the names of rows and columns."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): _sha256(path.read_bytes())
        for path in sorted(folder.glob(pattern))
    }


def _figures(parts: Iterator[tuple[str, Any]]) -> Figures:
    """The figures of a section; what failed is one of them."""
    figures: Figures = {}
    try:
        for name, value in parts:
            figures.update(_leaves(name, value))
    except (CommandError, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {error}", file=sys.stderr, flush=True)
        figures["FAILED"] = type(error).__name__
    return figures


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside a value by their path, without what may differ."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not DROPPED.fullmatch(str(key)):
                yield from _leaves(f"{path}/{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}/{index}", inner)
    elif isinstance(value, str) and " " in value:
        yield path, f"numbers {' '.join(sorted(NUMBER.findall(value)))}"
    elif not (isinstance(value, str) and value.startswith(("/", "file:"))):
        yield path, value


def _value(figures: Figures, key: str) -> str:
    return _text(figures[key]) if key in figures else "nothing"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
