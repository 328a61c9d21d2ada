"""Bytes of a turn that a chat template cut out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.heldout.cut_text import n_cut_bytes

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@pytest.mark.parametrize(
    ("content", "scored", "cut"),
    [
        ("<think>so</think>4", "4<end>", "<think>so</think>"),
        ("<think>\nso\n</think>\n\n4", "\n\n4", "<think>\nso\n</think>"),
        ("a <think>né</think> b", "a  b", "<think>né</think>"),
        ("4", "", "4"),
        ("  4\n\n", "4", ""),
        ("<think>so</think>4", "<think>\nso\n</think>\n\n4", ""),
        ("4 and more", "4", " and more"),
        ("", "", ""),
    ],
)
def test_what_is_cut_is_counted_in_bytes(content: str, scored: str, cut: str) -> None:
    assert n_cut_bytes(content, scored) == len(cut.encode())


@given(words, words, words, words)
def test_a_cut_in_one_place_is_never_overestimated(
    begin: str, middle: str, end: str, header: str
) -> None:
    assert n_cut_bytes(begin + middle + end, begin + end) <= len(middle.encode())
    assert n_cut_bytes(begin, header + begin) == 0
    assert n_cut_bytes(begin, "") in (0, len(begin.encode()))
