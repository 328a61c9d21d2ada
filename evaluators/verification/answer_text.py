r"""Final answers as text: how large they may be, and what their notation means.

    judge_text("1000", r"1\,000")    ->  True, without any algebra

Everything here is plain text and exact fractions, linear in the length of its input, and safe on
hostile input. What it cannot decide is left (as None) to the algebra in `verify`.
"""

from __future__ import annotations

import functools
import re

from rlready.evaluators.answers.rewriting import rewrite
from rlready.evaluators.answers.words import bare_answer, settled
from rlready.evaluators.verification.accepted_answers import split_tolerance

# Caps. A final answer beyond one of them is no answer that a grader would read; the longest
# reference answer in six public benchmarks has 993 characters, a proof's worth of matrices.
MAX_ANSWER_CHARS = 2_000
# The LaTeX parser's time grows with the square of the nesting: 3 s at 50 nested fractions.
MAX_NESTING = 24
MAX_DIGIT_RUN = 256
# The parser expands determinants and evaluates binomials on the spot: 6 by 6 symbols take a second.
MAX_DETERMINANT_CELLS = 30
# Of a binomial, five digits take milliseconds, nine never end.
MAX_BINOMIAL_DIGITS = 5


def over_cap(answer: str) -> str | None:
    """Which cap an answer breaks, in words; None if it may be parsed."""
    if len(answer) > MAX_ANSWER_CHARS:
        return f"{len(answer)} characters, over {MAX_ANSWER_CHARS}"
    depth = deepest = 0
    for character in answer:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"nesting of {deepest}, over {MAX_NESTING}"
    longest = max((len(run) for run in re.findall(r"[0-9]+", answer)), default=0)
    if longest > MAX_DIGIT_RUN:
        return f"{longest} digits in a row, over {MAX_DIGIT_RUN}"
    cells = answer.count("&")
    if cells > MAX_DETERMINANT_CELLS and re.search(r"\\det|vmatrix", answer):
        return f"a determinant beside {cells} column marks, over {MAX_DETERMINANT_CELLS}"
    if "binom" in answer and longest > MAX_BINOMIAL_DIGITS:
        return f"a binomial beside {longest} digits, over {MAX_BINOMIAL_DIGITS}"
    return None


# --- judgement --------------------------------------------------------------------------------

rewritten = functools.lru_cache(maxsize=1024)(rewrite)


def judge_text(gold: str, answer: str) -> bool | None:
    """Whether an answer equals the gold, as far as text and plain numbers tell; None if not.

    Both within the caps.
    """
    gold, tolerance = split_tolerance(gold)
    if gold.strip() == answer.strip():
        return True
    return settled(bare_answer(rewritten(gold)), bare_answer(rewritten(answer)), tolerance)
