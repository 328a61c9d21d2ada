"""What counts as the same answer: one block of cases per rule, accepted and rejected."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from places import data_path

from rlready.evaluators.answers.extraction import extract_boxed
from rlready.evaluators.answers.numerals import read_number
from rlready.evaluators.answers.rewriting import rewrite
from rlready.evaluators.verification.verifier import Verifier
from rlready.registry.records import Verdict


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(n_workers=1) as verifier:
        yield verifier


RULES: dict[str, list[tuple[str, str, bool]]] = {
    "small numbers are compared relative to their size": [
        (r"\frac{1}{100!}", r"\frac{1}{101!}", False),
        (r"\frac{3}{300!}", r"\frac{1}{100 \cdot 299!}", True),
        (r"3^{-80}", r"\frac{1}{9^{40}}", True),
        (r"3^{-80}", r"3^{-81}", False),
        (r"2.5 \times 10^{-19}", r"2.6 \times 10^{-19}", False),
        (r"2.5 \times 10^{-19}", r"25 \times 10^{-20}", True),
        (r"\frac{7^{500}+1}{7^{501}}", r"\frac{1}{7}", False),
    ],
    "large numbers are exact": [
        (r"2^{300}+1", r"2^{300}", False),
        (r"2^{300}", r"8^{100}", True),
        (r"10^{40}+1", r"1" + "0" * 39 + "1", True),
        (r"2^{100000}", r"4^{50000}", True),
        (r"2^{100000}", r"2^{100001}", False),
        (r"2^{2^{20}}", r"4^{2^{19}}", True),
        ("5", r"1.5 \times 10^{99999999}", False),
        (r"\sqrt{7}", r"1.5 \times 10^{99999999}", False),
        (r"50!", r"50 \cdot 49!", True),
    ],
    "a decimal stands for a value that it rounds, from five digits on": [
        (r"\frac{2}{7}", "0.285714", True),
        (r"\frac{2}{7}", "0.2857", False),
        (r"\frac{2}{7}", "0.28571", True),
        (r"\frac{2}{7}", "0.28572", False),
        (r"\frac{200}{7}", "28.5714", True),
        (r"\sqrt{2}", "1.41421", True),
        (r"\sqrt{2}", "1.4142135623730950488", True),
        (r"\sqrt{2}", "1.4142135624", True),
        (r"\sqrt{2}", "1.4142135623", False),
        (r"\sqrt{2}", "1.41", False),
        (r"\sqrt{2}", "1.4142135625", False),
        (r"\frac{2}{3}", "0.6666667", True),
        (r"\frac{2}{3}", "0.6666666", False),
        (r"\frac{2}{3}", "0.6666668", False),
        (r"\frac{2}{3}", "-0.666667", False),
        ("0.3", "0.30000000000000004", False),
        (r"\frac{157183}{4}", "39295.8", False),
        ("1000004", r"1.0 \times 10^{6}", False),
        ("5.123456789", "5.123456788", False),
        ("2.50", r"\frac{5}{2}", True),
    ],
    "constants are compared by value": [
        (r"\frac{\sqrt{3}}{8}", r"\sin\frac{\pi}{9}\sin\frac{2\pi}{9}\sin\frac{4\pi}{9}", True),
        (r"\frac{1}{4}", r"\cos(\frac{\pi}{5})\cdot\cos(\frac{2\pi}{5})", True),
        (r"\frac{1}{2}", r"\cos\frac{\pi}{5} - \cos\frac{2\pi}{5}", True),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{7}}", False),
        ("0", r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}", True),
        (r"\sqrt[3]{2+\sqrt{5}}+\frac{1-\sqrt{5}}{2}", "1", True),
        (r"\log_{2} 8", "3", True),
        (r"\ln 8", r"3 \ln 2", True),
    ],
    "functions are compared at points": [
        (r"\frac{1}{x-1}-\frac{1}{x+1}", r"\frac{2}{x^2-1}", True),
        (r"\sin 2t", r"2 \sin t \cdot \cos t", True),
        (r"\sin 2t", r"2 \sin t \cos 2t", False),
        (r"\sin 2t", r"\sin 2", False),
        (r"\frac{5}{2}", r"\frac{5}{2} m", True),
        (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}", True),
        (r"\frac{n(n+1)}{2}", r"\frac{n^2-n}{2}", False),
        (r"x^{2}", r"x^{2}+10^{-9}x", False),
        (r"\sqrt{x^2}", "x", False),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", True),
        ("(1+2i)^2", "-3+4i", True),
        ("(1+2i)^2", "3+4i", False),
    ],
    "e-notation": [
        ("6.02e23", r"6.02 \times 10^{23}", True),
        ("1.5E-3", "0.0015", True),
        ("1.5e-3", "0.015", False),
        ("3e5", "300000", True),
        (r"2\mathrm{e}", "2e", True),
        ("2e", "2", False),
    ],
    "thousands separators": [
        ("1234567", r"1\,234\,567", True),
        ("1234567", r"1{,}234{,}567", True),
        ("25000", "25 000", True),
        ("25000.5", r"25\,000.5", True),
        ("0", "1 000", False),
        ("12", "1,2", False),
        ("123456", "123,45,6", False),
    ],
    "percent": [
        (r"37.5\%", "37.5", True),
        (r"37.5\%", r"\frac{3}{8}", True),
        (r"0.4", r"40\%", True),
        ("40", r"40\%", False),
        (r"40\%", "4", False),
    ],
    "lists with an ellipsis": [
        (r"1, 3, \ldots, 2n-1", r"1,3,\dots,2n-1", True),
        (r"2, 4, \ldots, 2n", r"2, 4, \ldots, n", False),
        (r"1+2+\cdots+n", r"1 + 2 + \dots + n", True),
    ],
    "interval and inequality": [
        (r"(2,5]", r"2 < x \le 5", True),
        (r"2 < x \le 5", "(2,5]", True),
        (r"(2,5]", r"2 \le x \le 5", False),
        (r"[3,\infty)", r"x \geq 3", True),
        (r"[3,\infty)", r"x > 3", False),
    ],
    "a subscript is a base": [
        ("1011_2", "1011_{2}", True),
        ("1011_{2}", "11_{10}", False),
        ("1011_{2}", "1011", False),
        ("1A_{16}", "26", False),
        ("1A_{16}", "1a_{16}", True),
    ],
    "equations": [
        ("2*x-3*y+1=0", "2x - 3y + 1 = 0", True),
        ("2*x-3*y+1=0", "4x-6y+2=0", True),
        ("2*x-3*y+1=0", "2x+3y+1=0", False),
        ("y=2x+1", "2x-y+1=0", True),
        ("y=2x+1", "2x+1", True),
        ("7", "x=7", True),
        ("x=7", "7", True),
        ("x=7", "t=7", False),
    ],
    "upright constants": [
        (r"\mathrm{e}^{2}-1", "e^2-1", True),
        (r"\mathrm{e}^{2}-1", "e^2+1", False),
        (r"1+\mathrm{i}", "1+i", True),
    ],
    "sets, tuples, matrices": [
        (r"\frac{1}{2}, \sqrt{8}", r"2\sqrt{2}, 0.5", True),
        (r"\{1,2,3\}", "3,2,1", True),
        (r"\{1,2,3\}", "1,2", False),
        ("(3,4)", "(4,3)", False),
        (r"(\frac{1}{2}, 10^{-9})", r"(0.5, 10^{-8})", False),
        (
            r"\begin{pmatrix}1&10^{-9}\\0&1\end{pmatrix}",
            r"\begin{pmatrix}1&10^{-8}\\0&1\end{pmatrix}",
            False,
        ),
    ],
    "words": [
        (r"\text{all real numbers}", "All real numbers", True),
        ("no real solution exists", "one real solution exists", False),
        ("3", "The answer is 3.", True),
        ("y=x", "It is the line $y=x$.", True),
        ("y=x", "It is not the line $y=x$.", False),
        (r"x \equiv 3 \pmod{5}", "5", False),
        ("5", "٥", False),
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_accepts_and_rejects(rule: str, verifier: Verifier) -> None:
    cases = RULES[rule]
    checked = verifier.check([((gold,), rf"So \boxed{{{answer}}}.") for gold, answer, _ in cases])
    wrong = [
        (case, found.verdict)
        for case, found in zip(cases, checked, strict=True)
        if found.verdict is not (Verdict.CORRECT if case[2] else Verdict.INCORRECT)
    ]
    assert not wrong


def test_numbers_are_read_without_algebra() -> None:
    for text in (
        "12",
        "-1,234.5",
        r"\frac{3}{4}",
        "3/4",
        r"2 \times 10^{5}",
        "2 1/3",
        r"33\frac{1}{3}\%",
    ):
        assert read_number(rewrite(text)), text
    for text in ("1,2", "x", r"\frac{1}{0}", "1.5 \\times 10^{999999999}", "", ".", "x_1", "1 2"):
        assert read_number(rewrite(text)) is None, text


# --- shared data ------------------------------------------------------------------------------


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data_path(name).read_text().splitlines()]


def _plain(text: str) -> str:
    text = text.strip()
    fenced = len(text) > 1 and text[0] == text[-1] == "$"
    return text[1:-1] if fenced else text


def _completion(prediction: str) -> str:
    if extract_boxed(prediction) is not None:
        return prediction
    return rf"\boxed{{{_plain(prediction)}}}"


def test_the_published_cases_are_judged_as_people_do(verifier: Verifier) -> None:
    rows = _rows("verifier_cases.jsonl")
    checked = verifier.check([((_plain(r["gold"]),), _completion(r["pred"])) for r in rows])
    wrong = [
        row
        for row, found in zip(rows, checked, strict=True)
        if (found.verdict is Verdict.CORRECT) != row["expected"]
    ]
    assert not wrong
    assert Verdict.UNSCORED not in {found.verdict for found in checked}


@pytest.mark.slow
def test_hostile_answers_cost_no_other_answer_its_verdict() -> None:
    rows = _rows("hostile_answers.jsonl")
    with Verifier(n_workers=1) as verifier:
        items = []
        for index, row in enumerate(rows):
            items.append((("5",), _completion(row["pred"])))
            items.append(((rf"x^2-{index}",), rf"\boxed{{-{index}+x \cdot x}}"))
        checked = verifier.check(items)
        for row in rows:
            began = time.monotonic()
            assert verifier.check([(("6",), _completion(row["pred"]))])[0].verdict != "correct"
            assert time.monotonic() - began < 15
    assert all(found.verdict is not Verdict.CORRECT for found in checked[::2])
    assert all(found.verdict is Verdict.CORRECT for found in checked[1::2])
    assert sum(found.verdict is Verdict.UNSCORED for found in checked) <= 1
