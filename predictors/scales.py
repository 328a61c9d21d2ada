"""Transform numbers of each kind, and their errors, to a scale on which effects are about equal.

| kind | link | why |
| --- | --- | --- |
| LOSS | log | a change of unit (bits, nats) or of text is a shift, not a new slope |
| PROBABILITY, PERCENT | empirical logit | near 0 and 1 a point is worth more than in the middle |
| COUNT | log1p | doubling counts, whatever the size |
| PLAIN | none | its scale is unknown |

Every link grows strictly, so the ranking by one column does not change. Errors are transformed by
the delta method (error times the slope of the link). For a share the slope is taken at the column's
typical share. At its own share, the logit of 63 right of 64 would have so large an error that
calibration would put it below 50 of 64.
"""

from __future__ import annotations

import numpy as np

from rlready.predictors.training_table import FloatArray, Kind
from rlready.registry.errors import ConfigError

UNKNOWN_TRIALS = 100.0
"""Assumed trials of a share with unknown error; they keep the logits of 0 and 1 finite."""

_FEWEST_TRIALS, _MOST_TRIALS = 8.0, 10_000.0

FAR = 3.0
"""Distance from the middle, in robust standard deviations, from which values are damped."""

LARGEST_SPREAD = 0.25
"""Variance of one trial at a share of one half."""

_UNIT = {Kind.PROBABILITY: 1.0, Kind.PERCENT: 100.0}

_MAD_TO_SD, _IQR_TO_SD = 1.4826, 1.349
"""Ratios that hold for a normal sample."""


def n_trials(values: FloatArray, error: FloatArray, kind: Kind) -> float:
    """Return the number of Bernoulli trials that the errors of a column of shares imply.

    It is the median over the rows: with one number per row, the link would not keep the order.
    """
    if kind not in (Kind.PROBABILITY, Kind.PERCENT):
        return UNKNOWN_TRIALS
    share, se = values / _UNIT[kind], error / _UNIT[kind]
    usable = np.isfinite(share) & np.isfinite(se) & (se > 0) & (share > 0) & (share < 1)
    if not usable.any():
        return UNKNOWN_TRIALS
    trials = share[usable] * (1 - share[usable]) / se[usable] ** 2
    return float(np.clip(np.median(trials), _FEWEST_TRIALS, _MOST_TRIALS))


def typical_spread(values: FloatArray, kind: Kind, trials: float) -> float:
    """Return the mean of share x (1 - share), the variance of a trial, over a column of shares."""
    if kind not in (Kind.PROBABILITY, Kind.PERCENT):
        return LARGEST_SPREAD
    share = _inner_share(values[np.isfinite(values)], kind, trials)
    return float(np.mean(share * (1.0 - share)))


def linked(
    values: FloatArray,
    error: FloatArray,
    kind: Kind,
    trials: float,
    name: str,
    spread: float = LARGEST_SPREAD,
) -> tuple[FloatArray, FloatArray]:
    """Return the (n,) values on the scale of their kind, and their standard errors on it.

    The binomial formula gives a share of exactly 0 or 1 the error 0. Such a share gets the error
    that follows from the column's trials instead.

    Args:
        values: (n,) numbers of the column; NaN where it was not measured.
        error: (n,) their standard errors; NaN where unknown.
        kind: of the column.
        trials: `n_trials` of the column.
        name: of the column, for messages.
        spread: `typical_spread` of the column.

    Raises:
        ConfigError: if a value is outside the range of the kind.
    """
    _check_range(values, kind, name)
    if kind is Kind.LOSS:
        return np.log(values), error / values
    if kind is Kind.COUNT:
        return np.log1p(values), error / (1.0 + values)
    if kind is Kind.PLAIN:
        return values, error
    share, unit = _inner_share(values, kind, trials), _UNIT[kind]
    trial_sd = np.sqrt(share * (1.0 - share))
    at_end = (values <= 0.0) | (values >= unit)
    se = np.where(at_end & np.isfinite(error), trial_sd / np.sqrt(trials), error / unit)
    logits: FloatArray = np.log(share) - np.log1p(-share)
    return logits, se / trial_sd / np.sqrt(spread)


def _inner_share(values: FloatArray, kind: Kind, trials: float) -> FloatArray:
    """Return (n,) shares with half a trial added to each side, so that none is 0 or 1."""
    return (values / _UNIT[kind] * trials + 0.5) / (trials + 1.0)


def _check_range(values: FloatArray, kind: Kind, name: str) -> None:
    finite = values[np.isfinite(values)]
    low, high = {
        Kind.LOSS: (np.nextafter(0.0, 1.0), np.inf),
        Kind.PROBABILITY: (0.0, 1.0),
        Kind.PERCENT: (0.0, 100.0),
        Kind.COUNT: (0.0, np.inf),
        Kind.PLAIN: (-np.inf, np.inf),
    }[kind]
    wrong = finite[(finite < low) | (finite > high)]
    if len(wrong):
        raise ConfigError(
            f"column {name!r} holds {wrong[0]:g}",
            why=f"it is a {kind.value} column, with numbers from {low:.3g} to {high:g}",
            fix="Correct the value, or leave the cell empty",
        )


def middle_and_spread(values: FloatArray) -> tuple[float, float]:
    """Return the median and a robust standard deviation of the finite values (1 if equal)."""
    finite = values[np.isfinite(values)]
    middle = float(np.median(finite))
    mad = _MAD_TO_SD * float(np.median(np.abs(finite - middle)))
    quarter, three_quarters = np.percentile(finite, [25, 75])
    spread = max(mad, float(three_quarters - quarter) / _IQR_TO_SD)
    # Values that differ only by rounding count as equal.
    tiny = 1e-9 * (1.0 + abs(middle))
    spread = spread if spread > tiny else float(np.std(finite))
    return middle, spread if spread > tiny else 1.0


def damped(
    values: FloatArray, error: FloatArray, middle: FloatArray, spread: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return values and errors in robust standard deviations, with extreme values damped.

    Beyond `FAR`, distances grow only by their logarithm. An overfitted checkpoint (RETU's loss of
    0.87, eight deviations out) keeps its rank and loses its leverage. A hard clip would give it
    the rank of the next one.
    """
    z = (values - middle) / spread
    beyond = np.maximum(np.abs(z) - FAR, 0.0)
    near = np.sign(z) * (np.minimum(np.abs(z), FAR) + np.log1p(beyond))
    return near, error / spread / (1.0 + beyond)
