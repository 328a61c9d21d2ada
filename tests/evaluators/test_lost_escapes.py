r"""Commands that lost their backslash: what JSON makes of `\frac`, and what is an ordinary text."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from rlready.evaluators.benchmarks.lost_escapes import Kind, lost_escape

LOST = [r"\frac{1}{2}", r"\beta", r"\boxed{5}", r"3 \times 4", r"\text{Monday}", r"\theta = 2"]
LOST += [
    r"x \neq 5",
    r"x\neq5",
    r"\nabla f",
    r"x \notin A",
    r"\left( 1 \right)",
    r"\rho",
    r"\rangle",
]
LOST += [r"\tfrac12", r"\triangle ABC", r"\forall x", r"x \u0008ar", r"\therefore", r"\tilde{x}"]


def as_json_reads(text: str) -> str:
    """The text, written into JSON with single backslashes; what is no escape was doubled."""
    return str(json.loads('"' + text.replace(r"\left", r"\\left") + '"'))


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("kind", ["answer", "problem"])
def test_a_command_that_json_swallowed_is_seen(text: str, kind: Kind) -> None:
    assert lost_escape(text, kind) is None
    lost = lost_escape(as_json_reads(text), kind)
    assert lost is not None
    assert "two backslashes" in lost.fix


@pytest.mark.parametrize("text", [r"\nu", r"x \ne 5", r"\tan x", r"n \to 3", r"\ni"])
def test_an_answer_is_one_line_so_that_short_commands_count_too(text: str) -> None:
    assert lost_escape(as_json_reads(text), "answer")
    assert lost_escape(as_json_reads(f"Let ${text}$ hold."), "problem")
    assert lost_escape(text, "answer") is None


@pytest.mark.parametrize("text", [r"x \ne 5", r"as x \to 0", r"with \nu = 3", r"find \tan 45"])
@pytest.mark.parametrize("kind", ["problem", "example"])
def test_short_commands_outside_of_formulas_are_seen_behind_a_space(text: str, kind: Kind) -> None:
    assert lost_escape(as_json_reads(text), kind)


@pytest.mark.parametrize(
    "text",
    [
        "Find x.\nexists = 3",
        "A line\nu = 3 and\ne^x",
        "$a +\nu = 5$",
        "a\tan apple\ta tree",
        "1\t2\n3\t4",
        "a\r\nright turn\r\nb",
        "\\begin{aligned}\nx &= 1 \\\\\ne^t &= 2\n\\end{aligned}",
    ],
)
def test_ordinary_lines_and_tables_of_a_problem_pass(text: str) -> None:
    assert lost_escape(text, "problem") is None
    assert lost_escape(text, "example") is None


@pytest.mark.parametrize(
    "text",
    [
        "\text = path.suffix\n\tau = 3",
        "see\neq. (3)",
        "x = Symbol('x')\neq = Eq(x, 2)\neq(1, 2)\neq.subs(x, 1)",
        "10 %\r20 %",
        "\x1b[1mbold\x1b[0m",
        "if a:\n\timport x",
        "\right = 3".replace("\r", "\t"),
    ],
)
def test_program_code_and_logs_of_an_example_pass(text: str) -> None:
    assert lost_escape(text, "example") is None


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_hardly_anything_else_is_seen_in_every_text(kind: Kind) -> None:
    for text in (
        r"\frac{1}{2}",
        r"\beta",
        r"\text{so}",
        r"a \times b",
        r"x \neq 5",
        r"\left( \right)",
    ):
        assert lost_escape(as_json_reads(text), kind), text
    assert lost_escape("a\x00b", kind)
    assert lost_escape("so \x07lpha", kind)
    assert lost_escape("\x0bec{x}", kind)


def test_the_message_names_the_command() -> None:
    lost = lost_escape("Simplify \frac{4}{8}", "problem")
    assert lost is not None
    assert lost.what == "holds a form feed before 'rac{4}{8}'"
    assert lost.why == r"JSON or Python probably read the first letter of \frac as an escape"
    assert lost.fix.startswith(r"Write \\frac with two backslashes in the file")
