"""Where the final answer stands: one table of completions for each kind that was reported."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import data_path

from rlready.evaluators.answers.extraction import extract, extract_boxed, final_part
from rlready.registry.records import ANSWER_FORMATS, AnswerFormat

BOXED: dict[str, list[tuple[str, str | None]]] = {
    "the last balanced box": [
        (r"first \boxed{17}, no: $\boxed{204}$.", "204"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\fbox{ 3 }", "3"),
        (r"\boxed {4}", "4"),
        ("\\boxed\n{5}", "5"),
        ("\\boxed \n {5}", "5"),
        ("$$\n\\boxed\n{\\frac{1}{2}}\n$$", r"\frac{1}{2}"),
        (r"so \boxed 5.", "5"),
        (r"so \boxed x.", "x"),
        (r"\boxed{\boxed{6}}", "6"),
        (r"\boxed{7} and then \boxed{8 is cut of", "7"),
        (r"{ \boxed{10}", "10"),
        (r"so \\boxed{\\frac{1}{2}}", r"\\frac{1}{2}"),
        (r"\boxed{\(5\)}", r"\(5\)"),
        (r"\boxed{$5$}", "$5$"),
        (r"Final answer: **\boxed{73}**", "73"),
        ("\\[\n\\boxed{73}\n\\]", "73"),
        (r"\textbf{\boxed{73}}", "73"),
        (r"$\mathbf{\boxed{73}}$", "73"),
    ],
    "no box, or one that is cut": [
        (r"\boxed{}", None),
        (r"\boxedness{1}", None),
        (r"\boxed{8 is cut of", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{\text{5}", None),
        (r"\boxed{7} and \boxed{8 is cut of", None),
        (r"$\boxed{7}$, $\boxed{8", None),
        ("the answer is 5", None),
        (r"\beginboxed{8\sqrt{6}}", None),
        (r"\begin{boxed}5\end{boxed}", None),
        ("boxed{5}", None),
        (r"Mark your solution with \boxed . Then 5.", None),
        (r"I put it in \boxed form: 5", None),
        (r"Use \boxed notation, as asked. It is 7.", None),
        (r"The \boxed command is missing here, so 3.", None),
        (r"The answer goes into \boxed{} below.", None),
        ("", None),
    ],
    "several boxes are one list": [
        (r"So the values are $\boxed{4}$, $\boxed{9}$ and $\boxed{25}$.", "4, 9, 25"),
        (r"\(\boxed{2}\) and \(\boxed{-3}\).", "2, -3"),
        (r"\boxed{k = 45} \quad \text{and} \quad \boxed{n = 2}", "k = 45, n = 2"),
        (r"\boxed{2}, \boxed{3}", "2, 3"),
        (r"\boxed{2}; \boxed{3}", "2, 3"),
        (r"$\boxed{2}$, $\boxed{3}$, and $\boxed{5}$", "2, 3, 5"),
        ("\\[\\boxed{2}\\]\nand\n\\[\\boxed{3}\\]", "2, 3"),
        (r"$\boxed{2}$ as well as $\boxed{3}$", "2, 3"),
        (r"**\boxed{2}** and **\boxed{3}**", "2, 3"),
        (r"$\boxed{2}$ & $\boxed{3}$", "2, 3"),
        (r"Either \boxed{6} or \boxed{7} works, I cannot tell.", r"6 \text{ or } 7"),
        (r"\boxed{6} or maybe \boxed{7}", r"6 \text{ or } 7"),
        (r"$x = \boxed{2} \text{ or } x = \boxed{-3}$", r"2 \text{ or } -3"),
        (r"$x_1 = \boxed{2}$, $x_2 = \boxed{3}$", "2, 3"),
        (r"\boxed{2} and/or \boxed{3}", r"2 \text{ or } 3"),
        (r"$\boxed{2} , \\ \boxed{3}$", "2, 3"),
        (r"\boxed{3} hours and \boxed{20} minutes", r"3 \text{ hours}, 20 \text{ minutes}"),
        (r"\boxed{4} apples and \boxed{9} pears", "4, 9"),
        (r"$\{\boxed{1}, \boxed{2}\}$", r"\{1, 2\}"),
        (r"$[\boxed{1}, \boxed{2}]$", "[1, 2]"),
        (r"$a = \boxed{2}$ and $b = \boxed{3}$", "a = 2, b = 3"),
        (r"\boxed{\boxed{2}, \boxed{3}}", "2, 3"),
        (r"$(\boxed{2}, \boxed{3})$", "(2, 3)"),
        (r"$\left(\boxed{2}, \boxed{3}\right)$", r"\left(2, 3\right)"),
        (r"$\boxed{2}\%$ and $\boxed{3}\%$", r"2\%, 3\%"),
        (r"$\boxed{2}$ and $-\boxed{3}$", "2, -3"),
    ],
    "two boxes are not always a list": [
        (r"$\boxed{4} \boxed{9}$", "9"),
        (r"\boxed{4}. Then \boxed{9}", "9"),
        (r"\boxed{4}, so the total is \boxed{9}", "9"),
        ("\\boxed{5}\n\n\\boxed{5}", "5"),
        (r"\boxed{4}, no, \boxed{9}", "9"),
        (r"\boxed{4} is wrong and it is \boxed{9}", "9"),
    ],
    "what touches the box": [
        (r"$-\boxed{5}$", "-5"),
        (r"x = -\boxed{5}.", "-5"),
        (r"$x = -\boxed{x+1}$", "-(x+1)"),
        (r"$\pm\boxed{5}$", r"\pm5"),
        (r"so 3\boxed{x}", "3x"),
        (r"so $3\boxed{x+1}$", "3(x+1)"),
        (r"$\boxed{5} \times 10^{3}$", r"5 \times 10^{3}"),
        (r"\boxed{5} \times 10^{3}", r"5 \times 10^{3}"),
        (r"$\boxed{5} \cdot 10^3$ tons", r"5 \cdot 10^3"),
        (r"$\boxed{3}\sqrt{2}$", r"3\sqrt{2}"),
        (r"$\boxed{3}\pi$", r"3\pi"),
        (r"$\boxed{5}^2$", "5^2"),
        (r"$\boxed{x+1}^2$", "(x+1)^2"),
        (r"$2^{\boxed{10}}$", "2^{10}"),
        (r"$\sqrt{\boxed{2}}$", r"\sqrt{2}"),
        (r"$\frac{\boxed{3}}{4}$", r"\frac{3}{4}"),
        (r"$\frac{\boxed{3}}{\boxed{4}}$", r"\frac{3}{4}"),
        (r"$\boxed{2} + \boxed{3}i$", "2 + 3i"),
        (r"$\boxed{2}/\boxed{3}$", "2/3"),
        (r"$\boxed{2}:\boxed{3}$", "2:3"),
        (r"$\boxed{2} < x < \boxed{3}$", "2 < x < 3"),
        (r"$\boxed{2} \le x \le \boxed{3}$", r"2 \le x \le 3"),
        (r"It is -$\boxed{5}$.", "-5"),
        (r"$-\,\boxed{5}$", "- 5"),
        (r"$3 \cdot \boxed{x}$", r"3 \cdot x"),
        (r"0.\boxed{5}", "0.5"),
        (r"$0.\boxed{5}$", "0.5"),
        (r"$\boxed{5}.25$", "5.25"),
        (r"\boxed{5},000", "5,000"),
        (r"$\boxed{5}!$", "5!"),
        (r"$\boxed{42}_8$", "42_8"),
        (r"\boxed{42}_8", "42_8"),
        (r"$\boxed{28}\%$", r"28\%"),
        (r"\boxed{28}\%", r"28\%"),
        (r"\boxed{28}%.", "28%"),
        (r"\boxed{28} %.", r"28\%"),
        (r"$\boxed{28}$ pct", r"28\%"),
        (r"$\boxed{28}$ percent of them", r"28\%"),
        (r"\boxed{90}^\circ", r"90^\circ"),
        (r"so \$\boxed{5}.", r"\$5"),
        (r"it costs $\boxed{5}.", r"\$5"),
        (r"it costs $\boxed{5}. He has $7 left.", r"\$5"),
        (r"€\boxed{5}", "€5"),
        (r"\boxed{7.425} million", r"7.425 \text{ million}"),
        (r"\boxed{5} dozen eggs", r"5 \text{ dozen}"),
        (r"$\boxed{5}$ cm", r"5 \text{ cm}"),
        (r"$\boxed{5}$ square meters", r"5 \text{ square meters}"),
        (r"$\boxed{18}$ dollars.", r"18 \text{ dollars}"),
        (r"\boxed{5} or more", r"5 \text{ or more}"),
        (r"\boxed{5}\text{ or more}", r"5\text{ or more}"),
        (r"$A = \pi r^2 = \boxed{25\pi} \text{ cm}^2$", r"25\pi \text{ cm}^2"),
    ],
    "what only stands beside the box": [
        (r"$x = \boxed{5}$", "5"),
        (r"$\boxed{5} = x$", "5"),
        (r"$3 \times \boxed{4} = 12$", "4"),
        (r"$x \in \boxed{(1,2)}$", "(1,2)"),
        (r"$8 \equiv \boxed{3} \pmod{5}$", "3"),
        (r"$f(n) \ge \boxed{5}$", "5"),
        (r"$n = 4, m = \boxed{5}$", "5"),
        (r"$\text{Area } \boxed{5}$", "5"),
        (r"$\text{total} = \boxed{5} \text{ apples}$", "5"),
        (r"$\boxed{5} \quad \blacksquare$", "5"),
        (r"$\boxed{5} \tag{1}$", "5"),
        (r"The answer is $\boxed{5}$!", "5"),
        (r"The answer is \boxed{5}!", "5"),
        (r"\boxed{5} is the answer", "5"),
        (r"\boxed{5} apples", "5"),
        (r"There are 3 \boxed{5}", "5"),
        (r"it costs $\boxed{5}$. He has $7 left.", "5"),
        (r"- \boxed{5}", "5"),
        ("so\n- \\boxed{5}\n- done", "5"),
        (r"the answer-\boxed{5}", "5"),
        (r"(so \boxed{7})", "7"),
        (r"$(x = \boxed{5})$", "5"),
        ("2+3 =\n\\boxed{5}", "5"),
        ("It is 4+\n\\boxed{5}\n", "5"),
    ],
    "a number before a boxed number is a calculation that has ended": [
        (r"7*000\boxed{7}", "7"),
        (r"$7*000\boxed{7}$", "7"),
        (r"7*000\boxed{-7}", "-7"),
        (r"7*000\boxed{\$7}", r"\$7"),
        (r"7*000\boxed{7}\%", r"7\%"),
        (r"7*000\boxed{7}, \boxed{8}", "7, 8"),
        (r"12-5\boxed{7}", "7"),
        (r"$12-5 \boxed{7}$", "7"),
        (r"x=2+3=5\boxed{5}", "5"),
        (r"so $3\boxed{5}$", "5"),
        (r"so $(3\boxed{5})$", "5"),
        (r"(2)\boxed{7}", "7"),
        (r"[1]\boxed{7}", "7"),
        (r"5\%\boxed{5}", "5"),
        (r"4!\boxed{24}", "24"),
        (r"3\boxed{\frac12}", r"\frac12"),
        (r"0*\boxed{7}", "7"),
        (r"7-\boxed{7}", "7"),
        (r"12+\boxed{.5}", ".5"),
    ],
    "a number before a box may belong to it": [
        (r"so 3\boxed{x}", "3x"),
        (r"$\log_2\boxed{8}$", r"\log_2(8)"),
        (r"$\sqrt[3]\boxed{8}$", r"\sqrt[3]8"),
        (r"$\frac{1}\boxed{2}$", r"\frac{1}2"),
        (r"$2^{-\boxed{3}}$", "2^{-3}"),
        (r"10^\boxed{3}", "10^3"),
        (r"1/\boxed{7}", "1/7"),
        (r"3e-\boxed{3}", "3e-3"),
        (r"$2 - \boxed{3}$", "2 - 3"),
        (r"0.\boxed{5}", "0.5"),
    ],
    "only what follows the reasoning": [
        (r"<think>Maybe \boxed{5}?</think> So the answer is 6.", None),
        (r"<think>Maybe \boxed{5}?</think> So \boxed{6}.", "6"),
        (r"Maybe \boxed{5}?</think> So \boxed{6}.", "6"),
        (r"</think> \boxed{9}", "9"),
        (r"<think>Say \boxed{5}. Hmm wait, that is wrong because", None),
        (r"So \boxed{5}.</think>", None),
        (r"So \boxed{5}. <think> or \boxed{6}", "5"),
        (r"<THINK>\boxed{5}</THINK>\boxed{6}", "6"),
        (r"<thinking>\boxed{5}</thinking>\boxed{6}", "6"),
        (r"<reasoning>\boxed{5}</reasoning><answer>\boxed{6}</answer>", "6"),
        (r"[THINK]\boxed{5}[/THINK]\boxed{6}", "6"),
        (r"<think>\boxed{5}</think>\boxed{6}<think>\boxed{7}</think>\boxed{8}", "8"),
        (r"$x < 5$ and $y > 3$, so \boxed{9}", "9"),
    ],
    "a run-on into another problem is cut": [
        ("The answer is \\boxed{5}.\n\nProblem: What is 2+7?\nWe add. \\boxed{9}", "5"),
        ("\\boxed{5}\n\nQuestion: What is 2+7?\n\\boxed{9}", "5"),
        ("\\boxed{5}\nQ: What is 2+7?\nA: \\boxed{9}", "5"),
        ("\\boxed{5}\n\nUser: What is 2+7?\nAssistant: \\boxed{9}", "5"),
        ("\\boxed{5}\nuser\nWhat is 2+7?\nassistant\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\nHuman: What is 2+7?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\n**Question 2:** What?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\n## Problem 2\nWhat?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\n### Instruction:\nWhat?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\nExample 3: What?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\nProblem 2\nWhat?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\nTask: What?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\n**Problem**\nWhat?\n\\boxed{9}", "5"),
        ("\\boxed{5}\n\n[Question] What?\n\\boxed{9}", "5"),
        ("\\boxed{5}. Question: What?\n\\boxed{9}", "5"),
        ("\\boxed{5}<|im_end|>\n<|im_start|>user\nWhat?\n\\boxed{9}", "5"),
        ("\\boxed{5}</s> [INST] What? [/INST] \\boxed{9}", "5"),
        ("Problem: What is 2+7?\nSolution: We add. \\boxed{9}", "9"),
        ("**Question:** What is 2+7?\n\nStep 1: $2+7$\n\\boxed{9}", "9"),
        ("\\boxed{4} is what part 1 gives.\nThe question: the sum. So \\boxed{9}", "9"),
    ],
}


@pytest.mark.parametrize("kind", BOXED)
def test_the_box_is_read_as_people_do(kind: str) -> None:
    read = [(text, extract(text)) for text, _ in BOXED[kind]]
    assert read == BOXED[kind]


OTHERS: dict[AnswerFormat, list[tuple[str, str | None]]] = {
    "hash": [
        ("She sold 24.\n#### 72\n", "72"),
        ("####72", "72"),
        ("#### $1,000", "$1,000"),
        ("#### 72 clips", "72"),
        ("#### **72**", "72"),
        ("#### -5", "-5"),
        ("#### 10%", "10%"),
        ("#### $\\frac{1}{2}$", r"\frac{1}{2}"),
        ("#### \\boxed{72}", "72"),
        ("#### 5 or more", r"5 \text{ or more}"),
        ("#### 3 hours 20 minutes", "3 hours 20 minutes"),
        ("#### Step 1: add\n2+3\n#### 72", "72"),
        ("#### 72\n\nQuestion: another?\n#### 9", "72"),
        ("#### 2. Add them up", None),
        ("#### Conclusion\nIt is 5.", None),
        ("The answer is 72.", None),
        ("", None),
    ],
    "phrase": [
        ("So the answer is 72 clips in all. I hope it is correct.", "72"),
        ("The answer is $72$.", "72"),
        ("The answer is \\(\\frac{1}{2}\\).", r"\frac{1}{2}"),
        ("**Answer:** 72", "72"),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        ("The answer is \\boxed{72}", "72"),
        ("The answer is (B).", "(B)"),
        ("The answer is -5", "-5"),
        ("The answer is 1,234,567.", "1,234,567"),
        ("The answer is $72 per week.", "$72"),
        ("The answer is 25 percent.", r"25\%"),
        ("The answer is 5. Wait, no. The answer is 6.", "6"),
        ("The answer is 5.\n\nQuestion: what?\nThe answer is 9.", "5"),
        ("The answer is 5 or more.", r"5 \text{ or more}"),
        ("The answer is $5$ or more.", r"5 \text{ or more}"),
        ("The answer is 5 less than 8.", "5 less than 8"),
        ("The answer is $2$ and $3$.", "2, 3"),
        ("The final answer is 5, not 6.", "5, not 6"),
        ("the answer is at least 5", "at least 5"),
        ("<think>The answer is 5</think> The answer is 6.", "6"),
        ("I do not know.", None),
        ("#### 72", None),
        ("The answer is", None),
    ],
    "last": [
        ("2 + 3 = 5", "5"),
        ("So we get 72.", "72"),
        ("It is $x = 5$.", "5"),
        ("It's $\\frac{1}{2}$", r"\frac{1}{2}"),
        ("3 apples and 4 pears", "4"),
        ("That is 1,000 dollars", r"1,000 \text{ dollars}"),
        ("a total of $18.", "$18"),
        ("**5**", "5"),
        ("($5)", "$5"),
        ("It is 3 1/2 cups", "3 1/2"),
        ("the point (3, 4).", "(3, 4)"),
        ("It is \\boxed{7} or so", "7"),
        ("So 5.\n\nQuestion: how many of 9?", "5"),
        ("none", None),
        ("", None),
    ],
    "auto": [
        ("The answer is 5, so \\boxed{6}.", "6"),
        ("The answer is 5.\n#### 72", "72"),
        ("2 + 3. The answer is 5. Check: 7", "5"),
        ("2 + 3 = 5", "5"),
        ("The answer is 5.\n\nProblem: What is 2+7? \\boxed{9}", "5"),
        ("\\boxed{}. The answer is 5.", "5"),
        ("no number", None),
    ],
}


@pytest.mark.parametrize("answer_format", OTHERS)
def test_each_format_looks_in_its_own_place(answer_format: AnswerFormat) -> None:
    read = [(text, extract(text, answer_format)) for text, _ in OTHERS[answer_format]]
    assert read == OTHERS[answer_format]


def test_every_solution_of_gsm8k_is_read_by_its_hash() -> None:
    with gzip.open(data_path("gsm8k_test.jsonl.gz"), "rt") as file:
        solutions = [json.loads(line)["solution"] for line in file]
    golds = [solution.split("####")[1].strip() for solution in solutions]
    assert [extract(solution, "hash") for solution in solutions] == golds
    assert [extract(solution, "auto") for solution in solutions] == golds


BRACED = st.recursive(
    st.text("0123456789abxyz+-*/,. ", min_size=1, max_size=6),
    lambda inner: st.builds("{}\\frac{{{}}}{{{}}}".format, inner, inner, inner),
    max_leaves=4,
)
PIECES = st.sampled_from(
    [r"\boxed{", "}", "{", "$", r"\(", r"\)", "####", " 5", "and ", ", ", "-", r"\%", "\n", "(",
     ")", "the answer is ", "Problem: ", "</think>", "<think>", r"\text{", "or ", "=", "!",
     "^", "\\"]
)  # fmt: skip


@given(BRACED, st.sampled_from(["So ${}$.", "\\[\n{}\n\\]", "{}", "**{}**", "It is {} indeed."]))
def test_a_box_gives_back_what_was_put_in(answer: str, sentence: str) -> None:
    expected = answer.strip() or None
    assert extract(sentence.replace("{}", rf"\boxed{{{answer}}}")) == expected


@given(st.lists(st.text("0123456789", min_size=1, max_size=4), min_size=1, max_size=6))
def test_boxes_joined_by_commas_are_the_list_in_their_order(answers: list[str]) -> None:
    text = ", ".join(rf"$\boxed{{{answer}}}$" for answer in answers)
    assert extract(f"They are {text}.") == ", ".join(answers)


@given(st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_no_text_breaks_the_extraction(text: str) -> None:
    for answer_format in ANSWER_FORMATS:
        answer = extract(text, answer_format)
        assert answer is None or answer
    assert final_part(text) in text


HOSTILE = {
    "open boxes": r"\boxed{" * 20_000,
    "nested boxes": r"\boxed{" * 20_000 + "}" * 20_000,
    "spaces": r"\boxed" + " " * 200_000,
    "bare boxes": (r"\boxed" + " " * 50) * 4_000,
    "braces": "{" * 200_000,
    "backslashes": "\\" * 200_001,
    "many boxes": r"\boxed{1}, " * 20_000,
    "commands before a box": r"\a" * 100_000 + r"\boxed{5}",
    "digits": "1" * 200_000 + r"\boxed{5}" + "1" * 200_000,
    "dollars": "$" * 200_001,
    "formulas": "$a " * 60_000,
    "open formulas": r"\(a" * 60_000,
    "display formulas": r"\[ " * 60_000,
    "hashes": "#" * 200_000,
    "hash lines": "#### a\n" * 30_000,
    "phrases": "the answer is " * 20_000,
    "problems": "\nProblem: 5" * 20_000,
    "tags": "</think>" * 20_000 + "<think>" * 20_000,
    "one word": "a" * 200_000 + "5",
    "commas": "1," * 100_000,
    "brackets": "(" * 100_000 + "5" + ")" * 100_000,
    "line breaks": "\n" * 200_000 + "5",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_extraction_is_linear_on_hostile_text(name: str) -> None:
    began = time.process_time()
    for answer_format in ANSWER_FORMATS:
        extract(HOSTILE[name], answer_format)
    assert time.process_time() - began < 5.0


def test_a_gold_in_its_own_box_is_found_where_its_braces_match() -> None:
    assert extract_boxed(r"\boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert extract_boxed(r"\boxed{\frac{1}{2}") is None
