"""Prompts that other texts contain, exactly or in long parts."""

from __future__ import annotations

from rlready.evaluators.metrics.text_overlap import MOST_PROMPTS, N_WORDS, text_overlap

LONG = "a b c d e f g h i j k l m n o p q r s t"


def test_case_space_and_punctuation_do_not_hide_a_prompt() -> None:
    found = text_overlap({"a": "What is 2 + 3?", "b": "What is 2 - 3?"}, ["WHAT  is\n2+3 ."])
    assert (found.exact, found.partial, found.n_texts) == (("a",), (), 1)


def test_a_short_prompt_inside_another_text_does_not_count() -> None:
    assert text_overlap({"a": "2+3"}, ["first 2+3 and then 4"]).exact == ()


def test_a_long_prompt_inside_another_text_is_exact_and_a_part_of_it_partial() -> None:
    found = text_overlap({"a": LONG}, [f"x {LONG} y"])
    assert (found.exact, found.partial) == (("a",), ())
    part = " ".join(LONG.split()[2 : 2 + N_WORDS])
    assert text_overlap({"a": LONG}, [part]).partial == ("a",)
    shorter = " ".join(LONG.split()[2 : 1 + N_WORDS])
    assert text_overlap({"a": LONG}, [shorter]).partial == ()


def test_an_instruction_that_many_prompts_share_does_not_count() -> None:
    prompts = {str(i): f"{i} {i} {LONG}" for i in range(MOST_PROMPTS + 1)}
    assert text_overlap(prompts, [LONG]).partial == ()
    few = dict(list(prompts.items())[:MOST_PROMPTS])
    assert text_overlap(few, [LONG]).partial == tuple(few)


def test_a_prompt_without_words_is_nowhere() -> None:
    assert text_overlap({"a": "???"}, ["!!!", ""]).exact == ()
