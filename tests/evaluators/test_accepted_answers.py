"""What a problem says about its golds: a wish for a percentage, a tolerance of its own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from places import data_path

from rlready.evaluators.benchmarks.problems import Benchmark, BenchmarkSource, load_benchmark
from rlready.evaluators.verification.accepted_answers import accepted_answers, asks_for_percentage
from rlready.evaluators.verification.verifier import Verifier
from rlready.registry.errors import BenchmarkError
from rlready.registry.records import Problem, Verdict

GSM8K = data_path("gsm8k_test.jsonl.gz")
# By hand: the problems of GSM8K's test set whose answer is a percentage.
ASKING = {
    14, 140, 184, 226, 348, 393, 458, 473, 707, 728, 772, 890, 999, 1030, 1094, 1152, 1159, 1179,
    1235, 1239,
}  # fmt: skip


def _problem(text: str, *golds: str, tolerance: str | None = None) -> Problem:
    return Problem(id="a", text=text, answers=golds, error_tolerance=tolerance)


def _verdict(problem: Problem, answer: str) -> Verdict:
    return _verdicts(problem, answer)[0]


def _verdicts(problem: Problem, *answers: str) -> list[Verdict]:
    items = [(accepted_answers(problem), rf"\boxed{{{answer}}}") for answer in answers]
    with Verifier(n_workers=1) as verifier:
        return [found.verdict for found in verifier.check(items)]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What percent of the plants are flowering?", True),
        ("What is the percentage chance of rain?", True),
        ("How likely is it, expressed as a percentage?", True),
        ("By what percent does the price rise? Round to a whole number.", True),
        ("Find the percentage of red balls.", True),
        ("What percentage is saved? How long is the trip?", True),
        ("Prices rise by 20%. How much does a coat cost?", False),
        ("The percentage of goats is to be 30%. How many goats are needed?", False),
        ("He knows what percent he saved. How many dollars are left?", False),
        ("If it is off by the same percentage, what temperature should she set?", False),
    ],
)
def test_a_question_for_a_percentage_is_recognized(text: str, asks: bool) -> None:
    assert asks_for_percentage(text) is asks


def test_gsm8k_has_twenty_such_problems_and_no_other_gets_a_second_gold() -> None:
    with gzip.open(GSM8K, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    problems = [_problem(row.get("question") or row["problem"], row["answer"]) for row in rows]
    changed = {
        i for i, problem in enumerate(problems) if accepted_answers(problem) != problem.answers
    }
    assert changed == ASKING
    assert accepted_answers(problems[14]) == ("60", r"60\%")


def test_25_and_25_percent_are_equal_only_where_a_percentage_is_meant() -> None:
    asked, plain = _problem("What percent are red?", "25"), _problem("How many are red?", "25")
    for answer in ("25", r"25\%", r"25\text{ percent}", "25%"):
        assert _verdict(asked, answer) is Verdict.CORRECT
        assert _verdict(plain, answer) is (Verdict.CORRECT if answer == "25" else Verdict.INCORRECT)
    assert _verdict(asked, r"26\%") is Verdict.INCORRECT
    assert _verdict(_problem("How many?", r"25\%"), "25") is Verdict.CORRECT


def test_the_wish_for_a_percentage_does_not_move_the_digest_and_a_tolerance_does() -> None:
    def digest(problem: Problem) -> str:
        return Benchmark(name="b", problems=(problem,), source="here").digest

    assert digest(_problem("What percent?", "25")) == digest(_problem("What percent?", "25"))
    assert digest(_problem("Find g.", "4.2")) != digest(_problem("Find g.", "4.2", tolerance="0.1"))


def test_a_tolerance_goes_before_the_rule_for_decimals() -> None:
    problem = _problem("Find g.", "4.2", tolerance="0.1")
    right = ("4.2", "4.1", "4.3", r"\frac{17}{4}", "x = 4.25", r"4.15 \text{ cm}", r"3\sqrt{2}")
    wrong = ("4.31", "4", "-4.2", r"\infty", r"\sqrt{2}", "y")
    assert _verdicts(problem, *right) == [Verdict.CORRECT] * len(right)
    assert _verdicts(problem, *wrong) == [Verdict.INCORRECT] * len(wrong)


def test_the_tolerance_of_a_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    rows = [
        {"id": "a", "problem": "g?", "answer": "4.2", "error_tolerance": "1e-1"},
        {"id": "b", "problem": "h?", "answer": "3", "error_tolerance": None},
        {"id": "c", "problem": "i?", "answer": "3", "error_tolerance": ""},
        {"id": "d", "problem": "j?", "answer": "3", "error_tolerance": 0.05},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    problems = load_benchmark(BenchmarkSource(name="b", location=path)).problems
    assert [problem.error_tolerance for problem in problems] == ["0.1", None, None, "0.05"]


@pytest.mark.parametrize("bad", ["much", -1, "nan", [1], True])
def test_a_tolerance_that_is_not_a_number_is_an_error(tmp_path: Path, bad: object) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({"problem": "g?", "answer": "4.2", "error_tolerance": bad}))
    with pytest.raises(BenchmarkError, match="error_tolerance"):
        load_benchmark(BenchmarkSource(name="b", location=path))
