r"""Reference answers out of lists that were written as texts, and out of whole solutions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.benchmarks.reference_answers import UnreadableAnswer, answer_of, listed

texts = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12),
    min_size=1,
    max_size=4,
)
latex = st.lists(
    st.sampled_from([r"\frac{1}{2}", "$2$", r"\text{no}", "(1, 2)", r"x \ne 3", "[0, 1)", "7"]),
    min_size=1,
    max_size=4,
)


@given(texts | latex)
def test_a_list_survives_repr_and_json(elements: list[str]) -> None:
    assert listed(repr(elements)) == elements
    assert listed(json.dumps(elements)) == elements
    assert listed(json.dumps(elements, ensure_ascii=False)) == elements
    assert listed(f"array({elements!r}, dtype=object)") == elements
    assert listed(repr(tuple(elements))) == elements


@given(latex)
def test_numpy_prints_no_commas_and_people_write_single_backslashes(elements: list[str]) -> None:
    assert listed("[" + " ".join(map(repr, elements)) + "]") == elements
    assert listed("['" + "', '".join(elements) + "']") == elements
    assert listed('["' + '"\n "'.join(elements) + '"]') == elements


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "[1, 2)",
        "{1, 2}",
        "(1, 2)",
        r"[\text{a}]",
        "5",
        "",
        "x",
        "['a'",
        '"a" or "b"',
        "[x]",
    ],
)
def test_intervals_sets_and_texts_are_no_lists(text: str) -> None:
    assert listed(text) is None


def test_a_bracketed_number_and_a_quoted_text_are_one_answer() -> None:
    assert listed("[70]") == listed('"70"') == listed("['70']") == ["70"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "empty list"),
        ("[['2', '3'], ['5']]", "list within a list"),
        ("[None]", "missing answer"),
        ("['1', None]", "missing answer"),
        ("{'answer': '5'}", "mapping"),
        ('{"answer": "5"}', "mapping"),
    ],
)
def test_what_is_no_list_of_answers_is_told(text: str, why: str) -> None:
    with pytest.raises(UnreadableAnswer, match=why):
        listed(text)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"We get $\boxed{5}$.", "5"),
        (r"We get $-\boxed{5}$.", "-5"),
        (r"we get $-\boxed{\frac{1}{2}}$", r"-\frac{1}{2}"),
        (r"we get $-\boxed{x+1}$", "-(x+1)"),
        (r"So $\boxed{25}\%$ of them are.", r"25\%"),
        (r"The angle is $\boxed{30}^\circ$.", r"30^\circ"),
        (r"So $x=\boxed{2}$ or $x=\boxed{3}$.", "2, 3"),
        (r"They are $\boxed{2}, \boxed{3}$ and $\boxed{4}$.", "2, 3, 4"),
        (r"Thus $(x,y)=(\boxed{1},\boxed{2})$ holds.", "(1, 2)"),
        (r"So \boxed{5}. We check it: \boxed{5}.", "5"),
        (r"The answer is $\boxed{\boxed{5}}$.", "5"),
        (r"we see \boxed 5", "5"),
        ("**Answer:** \\boxed{5}**", "5"),
        ("**Final Answer**\n\\boxed{5}", "5"),
        ("#### Step 1\nAdd.\n#### Step 2\nWe get $\\boxed{7}$.", "7"),
        ("get \\boxed{5}\n#### 5", "5"),
        ("We add.\n#### 5", "5"),
        ("Sold 48/2 = <<48/2=24>>24.\n#### 1,234", "1234"),
        ("We add.\n#### 5\nThe answer is: 5", "5"),
        ("We add 2 and 3. The answer is 5.", "5"),
        ("We add.\nAnswer: 5", "5"),
        ("We add.\n####5.", "5"),
        (r"The density is $\boxed{3e16} / \mathrm{cm}^{3}$.", "3e16"),
    ],
)
def test_the_answer_is_taken_out_of_a_solution(solution: str, answer: str) -> None:
    assert answer_of(solution, "any.name") == answer
    assert answer_of(solution, "solution") == answer


@pytest.mark.parametrize(
    ("solution", "why"),
    [
        (r"First \boxed{2}. Then we find the \boxed{3}.", "several answers marked: 2, 3"),
        (r"a is $\boxed{2}$ and $b$ is $\boxed{3}$", "several answers"),
        (r"$x=\boxed{2}$ and so $y=\boxed{3}$", "several answers"),
        ("get \\boxed{5}\n#### 6", "several answers marked: 6, 5"),
        (r"so $2\boxed{\sqrt3}$ is it", "part of a formula"),
        (r"so $\boxed{3}\pi$ is it", "part of a formula"),
        (r"so $\boxed{3}^2$ is it", "part of a formula"),
        (r"so $3-\boxed{2}$ is it", "part of a formula"),
        (r"so \boxed{5 is it", "not closed"),
        (r"so \boxed{} is it", "empty"),
        ("#### Step 1\nAdd.", "more than an answer"),
        ("We add.\n####", "followed by nothing"),
        ("Add <<2+3=5>>5 apples", "without a mark"),
    ],
)
def test_a_solution_with_no_answer_or_several_is_refused(solution: str, why: str) -> None:
    with pytest.raises(UnreadableAnswer, match=why):
        answer_of(solution, "answer")


@pytest.mark.parametrize(
    "answer",
    [
        r"\boxed{5}",
        r"x=\boxed{5}",
        r"$\boxed{5}\text{ cm}$",
        r"\boxed{10} m",
        "$5$",
        "[1, 2)",
        "5 apples",
        "The answer is 5.",
        "Therefore, the set $R$ is linearly independent.",
    ],
)
def test_what_is_just_an_answer_stays(answer: str) -> None:
    assert answer_of(answer, "answer") == answer


def test_sentences_are_an_answer_unless_the_field_says_solution() -> None:
    text = "We add 2 and 3 to get 5."
    assert answer_of(text, "answer") == text
    with pytest.raises(UnreadableAnswer, match="without a mark"):
        answer_of(text, "extra_info.Solution")
    assert answer_of("all real numbers above 5", "solution") == "all real numbers above 5"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000,
        "so " + "\\boxed{a" * 20_000 + "}" * 20_000,
        "a #### " * 50_000,
        "<<" * 90_000,
        "the answer is " * 30_000,
        "the answer is 5.\n" * 30_000,
        r"is \boxed{1} or " * 3_000 + "x",
    ],
)
def test_hostile_text_costs_little_time(text: str) -> None:
    try:
        assert answer_of(text, "solution")
    except UnreadableAnswer as error:
        assert len(error.why) < 200  # noqa: PT017
