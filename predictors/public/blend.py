"""Change gradually from public outcomes to the user's own outcomes.

    answer = w x order model + (1 - w) x fitted predictor,   w = (12 - n) / 8, within 0..1

With n = 4 outcomes or fewer there is no fitted predictor, and only the order model (`order.py`)
answers: a prior that the outcomes update. The slope of the prior has the weight of about 11
outcomes, so from 12 on only the fitted predictor answers. The level of a group without outcomes
always comes from the predictor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.predictive import Predictive
from rlready.predictors.public.posterior import OrderPosterior
from rlready.predictors.training_table import FloatArray

MOST_OF_PRIOR_ALONE, FEWEST_OF_PREDICTOR_ALONE = 4, 12
"""Largest number of outcomes for the order model alone, and smallest for the predictor alone."""


def weight_of_prior(n_outcomes: int, *, has_signal: bool = True) -> float:
    """Return the weight of the order model beside a predictor that was fitted on n outcomes.

    Args:
        n_outcomes: number of outcomes that the predictor was fitted on.
        has_signal: whether a permutation test found a signal in them. A few outcomes without a
            signal leave the order to the prior. Many are evidence against any order, and the
            weight is 0.

    Example:
        >>> [weight_of_prior(n) for n in (4, 5, 8, 12)]
        [1.0, 0.875, 0.5, 0.0]
    """
    span = FEWEST_OF_PREDICTOR_ALONE - MOST_OF_PRIOR_ALONE
    weight = min(max((FEWEST_OF_PREDICTOR_ALONE - n_outcomes) / span, 0.0), 1.0)
    return weight if has_signal or not weight else 1.0


def blended(predictive: Predictive, order: OrderPosterior, weight: FloatArray) -> Predictive:
    """Return a fitted predictor's distribution, blended with that of the order model.

    Args:
        predictive: distribution of the fitted predictor.
        order: order of the same rows.
        weight: (n,) weights of the order model.
    """
    by_order = order.predictive()
    has_level = levelled(order)
    mean = by_order.mean.copy()
    for group in np.unique(order.rows.groups[~has_level]):
        members = order.rows.groups == group
        mean[members] += predictive.mean[members].mean() - mean[members].mean()
    level_sd = np.where(has_level, by_order.group_sd, predictive.group_sd)
    return replace(
        predictive,
        mean=weight * mean + (1.0 - weight) * predictive.mean,
        row_sd=np.sqrt(weight * by_order.row_sd**2 + (1.0 - weight) * predictive.row_sd**2),
        group_sd=np.sqrt(weight * level_sd**2 + (1.0 - weight) * predictive.group_sd**2),
        # The order model has no ceiling, so neither has a blend with it.
        bound=None,
        additive_sd=None,
    )


def levelled(order: OrderPosterior) -> NDArray[np.bool_]:
    """Return (n,) whether the row's group has an outcome, which gives the order model a level."""
    recorded = np.isfinite(order.rows.outcome)
    return np.isin(order.rows.groups, np.unique(order.rows.groups[recorded]))
