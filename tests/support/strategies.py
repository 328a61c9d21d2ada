"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

from hypothesis import strategies as st

from rlready.evaluators.metrics.pass_at_k import ProblemCounts


@st.composite
def counts(draw: st.DrawFn, min_n: int = 1, max_n: int = 9) -> ProblemCounts:
    """Counts of one problem with n scored samples."""
    n = draw(st.integers(min_n, max_n))
    c = draw(st.integers(0, n))
    n_unparsed = draw(st.integers(0, n - c))
    return ProblemCounts(
        problem_id=draw(st.text("abc123", min_size=1, max_size=4)),
        n=n,
        c=c,
        n_unparsed=n_unparsed,
        n_unscored=draw(st.integers(0, 2)),
    )
