"""Whether a token budget can be met by the sources, and the mixture nearest to a wished one.

With p_i = w_i l_i / sum w_j l_j the share of the tokens, limit i reads p_i B <= m_i (budget B, the
source's available tokens times its repetitions m_i). Multiplied by sum w_j l_j it is linear in w,
so both questions are linear programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from rlready.predictors.search.space import RecipeSpace, Source


def check_budget(space: RecipeSpace, budget: float) -> None:
    """Raise ConfigError, with the numbers, if no recipe of the space can meet the budget."""
    most = sum(source.most_tokens for source in space.sources)
    if most < budget:
        raise ConfigError(
            f"the budget of {budget:.4g} tokens cannot be filled: with the repetitions allowed all "
            f"sources together give {most:.4g}",
            why="; ".join(map(_said, space.sources)),
            fix="Lower token_budget, raise max_repetitions, or add a source",
        )
    nearest_allowed(space, budget, np.full(len(space.sources), 1.0 / len(space.sources)))
    _check_epochs(space, budget)


def nearest_allowed(space: RecipeSpace, budget: float, wished: FloatArray) -> FloatArray:
    """(sources,) the mixture within all limits whose weights differ least (L1) from the wished.

    Raises:
        ConfigError: if floors, caps, repetition limits and budget leave none.
    """
    from scipy.optimize import linprog

    d = len(space.sources)
    limited = [i for i, source in enumerate(space.sources) if np.isfinite(source.most_tokens)]
    # Variables: w, and t >= |w - wished|, whose sum is minimised.
    rows = [np.hstack([sign * np.eye(d), -np.eye(d)]) for sign in (1.0, -1.0)]
    bounds = [wished, -wished]
    for i in limited:
        row = np.zeros(2 * d)
        row[:d] = -space.mean_tokens * space.sources[i].most_tokens / budget
        row[i] += space.mean_tokens[i]
        rows.append(row[None, :] / space.mean_tokens.max())
        bounds.append(np.zeros(1))
    box = [(source.floor, source.cap) for source in space.sources]
    found = linprog(
        np.r_[np.zeros(d), np.ones(d)],
        A_ub=np.vstack(rows),
        b_ub=np.concatenate(bounds),
        A_eq=np.r_[np.ones(d), np.zeros(d)][None, :],
        b_eq=np.ones(1),
        bounds=[*box, *[(0.0, None)] * d],
    )
    if found.x is None:
        raise ConfigError(
            f"no mixture meets the floors and caps and fills the budget of {budget:.4g} tokens "
            "within the repetitions allowed",
            why="; ".join(map(_said, space.sources)),
            fix="Lower token_budget or the floors, or raise caps or max_repetitions",
        )
    weights = np.clip(found.x[:d], space.simplex.floors, space.simplex.caps)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _check_epochs(space: RecipeSpace, budget: float) -> None:
    axis, fixed = space.axis("n_unique"), space.fixed.n_unique
    if axis is None and fixed is None:
        return
    if axis is not None and axis.kind == "categorical":
        counts = [float(choice) for choice in axis.choices]
        fewest, most = min(counts), max(counts)
    else:
        fewest, most = (axis.low, axis.high) if axis else (float(fixed or 0), float(fixed or 0))
    lengths = [source.mean_tokens for source in space.sources if source.cap > 0.0]
    least, greatest = budget / (most * max(lengths)), budget / (fewest * min(lengths))
    low, high = space.epochs_range
    if greatest < low or least > high:
        raise ConfigError(
            f"the budget of {budget:.4g} tokens makes {least:.3g}..{greatest:.3g} epochs of "
            f"{fewest:g}..{most:g} examples, outside the allowed {low:g}..{high:g}",
            fix="Change token_budget, n_unique or epochs",
        )


def _said(source: Source) -> str:
    if not np.isfinite(source.most_tokens):
        return f"{source.name}: no limit, weight {source.floor:g}..{source.cap:g}"
    return (
        f"{source.name}: {source.available_tokens:.4g} tokens x {source.max_repetitions:g}, "
        f"weight {source.floor:g}..{source.cap:g}"
    )
