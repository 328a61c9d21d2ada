"""The standing of a checkpoint in its group: a proxy without unit and level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.scales import UNKNOWN_TRIALS, damped, linked, middle_and_spread
from rlready.predictors.training_table import FloatArray, Kind

_TINY = 1e-9


def standing(
    values: FloatArray, kind: Kind, name: str = "proxy", trials: float = UNKNOWN_TRIALS
) -> FloatArray:
    """Standardise the values of one group on the linear scale of their kind.

    The values first go through the link of their kind. Extreme values are then damped, and the rest
    gets mean 0 and standard deviation 1. A change of unit (percent, bits, a factor of a plain
    number) does not change the result.

    Args:
        values: (n,) values of the checkpoints of one group; NaN where not measured.
        kind: kind of the numbers.
        name: name of the proxy, for messages.
        trials: number of trials behind a share, which keeps the logit of 0 and 1 finite.

    Returns:
        The (n,) standings; NaN where not measured, 0 if the measured values do not differ.

    Raises:
        ConfigError: if a value is impossible for the kind.
    """
    unknown = np.full(len(values), np.nan)
    on_scale, _ = linked(values, unknown, kind, trials, name)
    measured = np.isfinite(on_scale)
    if measured.any():
        middle, spread = middle_and_spread(on_scale)
        on_scale, _ = damped(on_scale, unknown, np.asarray(middle), np.asarray(spread))
    return standardised(on_scale)


def standardised(values: FloatArray) -> FloatArray:
    """Scale (n,) numbers to mean 0 and standard deviation 1; NaN stays, equal numbers become 0."""
    measured: NDArray[np.bool_] = np.isfinite(values)
    if not measured.any():
        return values
    centred = values - values[measured].mean()
    sd = float(np.std(values[measured], ddof=1)) if measured.sum() > 1 else 0.0
    if sd <= _TINY * (1.0 + float(np.abs(values[measured]).max())):
        return np.where(measured, 0.0, np.nan)
    return np.asarray(centred / sd)
