"""Verdicts on judged cases, by kind: ours, and math-verify alone on the same completions.

The cases are `../shared/data/verifier_cases_2.jsonl` and `tests/data/verdict_cases.jsonl` (golds,
completion, expected verdict, kind). Cases marked as disputable are left out. `--before FILE` adds
the figures of an earlier `--json` run, so that one table shows kind -> before / after.

    python bench/verdict_cases.py [--quick] [--json] [--wrong] [--before FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rlready.evaluators.verification.verifier import Verifier, checker_version

ROOT = Path(__file__).parents[1]
SHARED_CASES = ROOT.parent / "shared" / "data" / "verifier_cases_2.jsonl"
OUR_CASES = ROOT / "tests" / "data" / "verdict_cases.jsonl"

Counts = dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the shared cases only")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument(
        "--wrong", action="store_true", help="print each case with another verdict than expected"
    )
    parser.add_argument("--before", type=Path, help="last line of an earlier run with --json")
    arguments = parser.parse_args()

    results = {"shared": _measure(SHARED_CASES)}
    if not arguments.quick:
        results["own"] = _measure(OUR_CASES)
    if not arguments.json:
        before = json.loads(arguments.before.read_text()) if arguments.before else {}
        print(checker_version())
        for name, result in results.items():
            _print(name, result, before.get(name, {}).get("kinds", {}), arguments.wrong)
    print(json.dumps({"bench": "verdict_cases", "version": checker_version(), **results}))


def _measure(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    rows = [row for row in rows if not row.get("disputable")]
    with Verifier() as verifier:
        checked = verifier.check([(tuple(row["golds"]), row["completion"]) for row in rows])
    ours = [str(result.verdict).upper() for result in checked]
    peer = ["CORRECT" if _math_verify(row) else "INCORRECT" for row in rows]
    kinds: dict[str, Counts] = defaultdict(Counter)
    wrong = []
    for row, verdict, peer_verdict in zip(rows, ours, peer, strict=True):
        expected = row["expected"]
        counts = kinds[row["kind"]]
        counts["n"] += 1
        counts["right"] += verdict == expected
        counts["false_correct"] += verdict == "CORRECT" != expected
        counts["unscored"] += verdict == "UNSCORED"
        # math-verify does not distinguish a missing answer from a wrong one.
        counts["math_verify_right"] += (peer_verdict == "CORRECT") == (expected == "CORRECT")
        counts["math_verify_false_correct"] += peer_verdict == "CORRECT" != expected
        if verdict != expected:
            wrong.append([row["kind"], row["golds"], row["completion"], expected, verdict])
    total: Counts = dict(sum(map(Counter, kinds.values()), Counter()))
    return {"total": total, "kinds": {k: dict(c) for k, c in sorted(kinds.items())}, "wrong": wrong}


def _math_verify(row: dict[str, Any]) -> bool:
    """Return math-verify's own verdict, with its defaults; the gold is boxed, as it advises."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    answer = parse(row["completion"])
    return any(verify(parse(rf"\boxed{{{gold.strip('$')}}}"), answer) for gold in row["golds"])


def _print(name: str, result: dict[str, Any], before: dict[str, Counts], wrong: bool) -> None:
    print(f"\n{name} cases: right of n (false CORRECT)")
    print(f"{'kind':60s} {'n':>4s} {'before':>9s} {'now':>9s} {'math-verify':>12s}")
    for kind, counts in [*result["kinds"].items(), ("all", result["total"])]:
        if not counts:
            continue
        old = before.get(kind, sum(map(Counter, before.values()), Counter()) if before else {})
        cells = [_cell(old, ""), _cell(counts, ""), _cell(counts, "math_verify_")]
        print(f"{kind[:60]:60s} {counts['n']:4d} {cells[0]:>9s} {cells[1]:>9s} {cells[2]:>12s}")
    for case in result["wrong"] if wrong else []:
        print(" | ".join(map(str, case)))


def _cell(counts: Counts, prefix: str) -> str:
    if not counts:
        return "-"
    return f"{counts.get(prefix + 'right', 0)} ({counts.get(prefix + 'false_correct', 0)})"


if __name__ == "__main__":
    main()
