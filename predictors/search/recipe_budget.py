"""Whether a token budget can be met by the sources, and the mixture nearest to a wished one.

With p_i = w_i l_i / sum w_j l_j the share of the tokens, limit i reads p_i B <= m_i (budget B, the
source's available tokens times its repetitions m_i). Multiplied by sum w_j l_j it is linear in w,
so both questions are linear programs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.predictors.search.space_parts import Simplex, Source
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError


def check_budget(
    sources: Sequence[Source],
    simplex: Simplex,
    budget: float,
    n_unique_range: tuple[float, float] | None,
    epochs_range: tuple[float, float],
) -> None:
    """Raise ConfigError, with the numbers, if no recipe can meet the budget.

    Args:
        sources: of the recipes.
        simplex: the mixtures that floors and caps allow.
        budget: tokens that every recipe trains on.
        n_unique_range: fewest and most different examples; None if they are not searched or fixed.
        epochs_range: fewest and most epochs.
    """
    most = sum(source.most_tokens for source in sources)
    if most < budget:
        raise ConfigError(
            f"the budget of {budget:.4g} tokens cannot be filled: with the repetitions allowed all "
            f"sources together give {most:.4g}",
            why="; ".join(map(_supply, sources)),
            fix="Lower token_budget, raise max_repetitions, or add a source",
        )
    nearest_allowed(sources, simplex, budget, np.full(len(sources), 1.0 / len(sources)))
    if n_unique_range is not None:
        _check_epochs(sources, budget, n_unique_range, epochs_range)


def nearest_allowed(
    sources: Sequence[Source], simplex: Simplex, budget: float, wished: FloatArray
) -> FloatArray:
    """Return the mixture (sources,) within all limits that is nearest (L1) to the wished one.

    Raises:
        ConfigError: if floors, caps, repetition limits and budget leave none.
    """
    from scipy.optimize import linprog

    d = len(sources)
    mean_tokens = np.array([source.mean_tokens for source in sources])
    limited = [i for i, source in enumerate(sources) if np.isfinite(source.most_tokens)]
    # Variables: w, and t >= |w - wished|, whose sum is minimised.
    rows = [np.hstack([sign * np.eye(d), -np.eye(d)]) for sign in (1.0, -1.0)]
    bounds = [wished, -wished]
    for i in limited:
        row = np.zeros(2 * d)
        row[:d] = -mean_tokens * sources[i].most_tokens / budget
        row[i] += mean_tokens[i]
        rows.append(row[None, :] / mean_tokens.max())
        bounds.append(np.zeros(1))
    box = [(source.floor, source.cap) for source in sources]
    solution = linprog(
        np.r_[np.zeros(d), np.ones(d)],
        A_ub=np.vstack(rows),
        b_ub=np.concatenate(bounds),
        A_eq=np.r_[np.ones(d), np.zeros(d)][None, :],
        b_eq=np.ones(1),
        bounds=[*box, *[(0.0, None)] * d],
    )
    if solution.x is None:
        room = sum(min(each.cap, _largest_share(each, sources, budget)) for each in sources)
        tight = [source for source in sources if _is_tight(source, sources, budget)]
        raise ConfigError(
            f"no mixture meets the floors and caps and fills the budget of {budget:.4g} tokens "
            "within the repetitions allowed",
            why="; ".join(
                [
                    *(_contradiction(source, sources, budget) for source in tight),
                    *([f"caps and tokens allow {room:.3g} of the mixture"] if room < 1.0 else []),
                    *map(_supply, sources),
                ]
            ),
            fix="Lower token_budget or the floors, or raise caps or max_repetitions",
        )
    weights = np.clip(solution.x[:d], simplex.floors, simplex.caps)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _check_epochs(
    sources: Sequence[Source],
    budget: float,
    n_unique_range: tuple[float, float],
    epochs_range: tuple[float, float],
) -> None:
    fewest, most = n_unique_range
    lengths = [source.mean_tokens for source in sources if source.cap > 0.0]
    least, greatest = budget / (most * max(lengths)), budget / (fewest * min(lengths))
    low, high = epochs_range
    if greatest < low or least > high:
        raise ConfigError(
            f"the budget of {budget:.4g} tokens makes {least:.3g}..{greatest:.3g} epochs of "
            f"{fewest:g}..{most:g} examples, outside the allowed {low:g}..{high:g}",
            fix="Change token_budget, n_unique or epochs",
        )


def _is_tight(source: Source, sources: Sequence[Source], budget: float) -> bool:
    """Return whether a source cannot fill its floor, if the others are as long as they may be."""
    return source.floor > _largest_share(source, sources, budget)


def _contradiction(source: Source, sources: Sequence[Source], budget: float) -> str:
    return (
        f"{source.name} has a floor of {source.floor:g}, but its {source.most_tokens:.4g} tokens "
        f"fill at most {_largest_share(source, sources, budget):.3g} of the budget"
    )


def _largest_share(source: Source, sources: Sequence[Source], budget: float) -> float:
    """Return a bound on the weight that the tokens of a source suffice for."""
    longest = max((each.mean_tokens for each in sources if each is not source), default=1.0)
    share = min(source.most_tokens / budget, 1.0)
    # Share of tokens p = w l / (w l + (1 - w) l'), solved for w.
    own = share * longest
    return own / (own + (1.0 - share) * source.mean_tokens) if share < 1.0 else 1.0


def _supply(source: Source) -> str:
    if not np.isfinite(source.most_tokens):
        return f"{source.name}: no limit, weight {source.floor:g}..{source.cap:g}"
    return (
        f"{source.name}: {source.available_tokens:.4g} tokens x {source.max_repetitions:g}, "
        f"weight {source.floor:g}..{source.cap:g}"
    )
