"""What each proxy adds to a prediction, beside a checkpoint like the mean of its group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlready.predictors.training_table import GROUP, FloatArray
from rlready.predictors.validation.folds import Model

if TYPE_CHECKING:
    import pandas as pd


def contributions(model: Model, X: pd.DataFrame, proxies: Sequence[str]) -> dict[str, FloatArray]:
    """By proxy, (n,) prediction less the one where that proxy is its group's mean among the rows.

    For a linear model these parts add up to the prediction less the group's; for another one they
    are the effect of each proxy alone, given the others. In the unit of the prediction.
    """
    predicted = np.asarray(model.predict(X), dtype=np.float64)
    means = X.groupby(GROUP)[list(proxies)].transform("mean")
    return {
        name: predicted
        - np.asarray(model.predict(X.assign(**{name: means[name]})), dtype=np.float64)
        for name in proxies
    }
