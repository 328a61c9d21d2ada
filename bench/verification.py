"""Claim: checking 256 samples a problem is at least ten times math-verify called one by one.

The answers resemble the samples of one problem: some are the gold in several notations, some are
popular wrong answers, some are rare ones, each at the end of about 1,000 characters of reasoning;
a few are cut short without an answer. Both sides check the same completions in the same run; our
time includes starting the processes and parsing each gold. math-verify is timed on a random share
of the completions (`--share`), gold and completion parsed each time, as its own metric does.

    python bench/verification.py [--quick] [--json] [--seed 0]
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import re
import time
from pathlib import Path
from typing import Any

from rlready.evaluators.verification.verifier import Verifier, checker_version
from rlready.registry.records import Verdict

DATA = Path(__file__).parents[2] / "shared" / "data"
BENCHMARKS = ("gsm8k_test", "amc23", "aime24", "minerva_math", "olympiadbench_maths_en")
N_SAMPLES = 256
TARGET = 10.0
SENTENCE = "Let us look at the terms one by one: $a_{k+1} = 2 a_k + 3$, so $a_2 = 2 a_1 + 3$. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 problems instead of 40")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--share", type=float, default=0.1, help="share of the completions for math-verify"
    )
    parser.add_argument("--workers", type=int, help="by default one per core")
    arguments = parser.parse_args()

    rng = random.Random(arguments.seed)
    golds = _golds(rng, 24 if arguments.quick else 40)
    items = [
        ((gold,), text) for gold in golds for text in _completions(gold, golds, rng, N_SAMPLES)
    ]
    rng.shuffle(items)
    result = _measure(items, rng, arguments.share, arguments.workers)
    if not arguments.json:
        print(f"{len(golds)} problems x {N_SAMPLES} samples; {checker_version()}")
        print(
            f"ours {result['items_per_s']:,.0f} items/s, math-verify one by one "
            f"{result['math_verify_items_per_s']:,.0f} items/s: ratio {result['ratio']:.1f} "
            f"(to reach: {TARGET:g})"
        )
        print(f"verdicts that agree: {result['agreement']:.4f}; where not: {result['differ']}")
    print(json.dumps(result))


def _measure(items: list[Any], rng: random.Random, share: float, workers: int | None) -> Any:
    began = time.perf_counter()
    with Verifier(n_workers=workers) as verifier:
        checked = verifier.check(items)
    ours_s = time.perf_counter() - began

    chosen = rng.sample(range(len(items)), max(1, int(share * len(items))))
    peer, peer_s = _one_by_one([(items[i][0][0], items[i][1]) for i in chosen])
    differ = [
        (items[i][0][0], checked[i].extracted, str(checked[i].verdict), accepted)
        for i, accepted in zip(chosen, peer, strict=True)
        if (checked[i].verdict is Verdict.CORRECT) != accepted
    ]
    rate, their_rate = len(items) / ours_s, len(chosen) / peer_s
    return {
        "bench": "verification",
        "n_items": len(items),
        "n_distinct": len({(items[i][0], result.extracted) for i, result in enumerate(checked)}),
        "items_per_s": round(rate, 1),
        "math_verify_items_per_s": round(their_rate, 1),
        "ratio": round(rate / their_rate, 2),
        "agreement": round(1 - len(differ) / len(chosen), 5),
        "differ": sorted(set(map(str, differ)))[:8],
        "n_unscored": sum(result.verdict is Verdict.UNSCORED for result in checked),
        "target": TARGET,
        "reached": rate / their_rate >= TARGET,
    }


def _one_by_one(pairs: list[tuple[str, str]]) -> tuple[list[bool], float]:
    """math-verify's verdicts and its seconds, imports and first use not counted."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    verify(parse(r"\boxed{1}"), parse(r"\boxed{x+1}"))
    began = time.perf_counter()
    accepted = [
        bool(verify(parse(rf"\boxed{{{_unfenced(gold)}}}"), parse(text))) for gold, text in pairs
    ]
    return accepted, time.perf_counter() - began


def _golds(rng: random.Random, n_problems: int) -> list[str]:
    if not DATA.is_dir():
        print(f"{DATA} is not here: golds are made up")
        fractions = [
            rf"\frac{{{rng.randrange(1, 99)}}}{{{rng.randrange(2, 99)}}}" for _ in range(n_problems)
        ]
        return [g if rng.random() < 0.5 else str(rng.randrange(1, 9999)) for g in fractions]
    golds = []
    for index in range(n_problems):
        with gzip.open(DATA / f"{BENCHMARKS[index % len(BENCHMARKS)]}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        row = rng.choice([row for row in rows if len(row["answer"]) < 60])
        golds.append((row.get("answers_latex") or [row["answer"]])[0])
    return golds


def _completions(gold: str, golds: list[str], rng: random.Random, n_samples: int) -> list[str]:
    """Completions of one problem: a few answers make up most of them, as in real samples."""
    right = _notations(_unfenced(gold))
    wrong = [_unfenced(other) for other in rng.sample(golds, min(6, len(golds)))]
    wrong += [_perturbed(_unfenced(gold), rng) for _ in range(30)]
    rate = rng.choice((0.05, 0.2, 0.5, 0.8, 0.95))
    texts = []
    for _ in range(n_samples):
        reasoning = SENTENCE * rng.randrange(8, 17)
        if rng.random() < 0.05:
            texts.append(reasoning)  # cut short
            continue
        if rng.random() < rate:
            answer = right[min(int(rng.expovariate(1.0)), len(right) - 1)]
        else:
            answer = wrong[min(int(rng.expovariate(0.2)), len(wrong) - 1)]
        texts.append(f"{reasoning}So the answer is $\\boxed{{{answer}}}$.")
    return texts


def _notations(gold: str) -> list[str]:
    spaced = re.sub(r"\s*([+=,])\s*", r" \1 ", gold)
    display = gold.replace(r"\frac", r"\dfrac")
    notations = [gold, spaced, display, rf"{gold} \text{{ units}}", f"x = {gold}"]
    if gold.isdigit():
        notations += [f"{int(gold):,}", f"{gold}.0", rf"\frac{{{2 * int(gold)}}}{{2}}"]
    return list(dict.fromkeys(notations))


def _perturbed(gold: str, rng: random.Random) -> str:
    numbers = list(re.finditer(r"[0-9]+", gold))
    if not numbers:
        return f"{gold} + {rng.randrange(1, 9)}"
    number = rng.choice(numbers)
    changed = str(max(0, int(number.group()) + rng.choice((-2, -1, 1, 2, 10))))
    return gold[: number.start()] + changed + gold[number.end() :]


def _unfenced(gold: str) -> str:
    gold = gold.strip()
    fenced = len(gold) > 1 and gold[0] == gold[-1] == "$" and "$" not in gold[1:-1]
    return gold[1:-1] if fenced else gold


if __name__ == "__main__":
    main()
