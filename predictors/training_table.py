"""The training table of a predictor: proxies with units and errors, groups, and the outcome.

`training_table` checks a frame once; the predictors trust the result. A higher `y` is always
better: if the user's target is a loss, `y` is its negative; `TrainingTable.shown` turns it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
TextArray = NDArray[np.str_]

GROUP = "group"
"""Column of `X` with the group of a checkpoint; no proxy may have this name."""

ONE_GROUP = "all"
"""Name of the group if the user names no columns of groups."""

COMPARABLE, UNKNOWN = "comparable", "unknown"
"""Whether the level of a proxy means the same in all groups."""


class Kind(StrEnum):
    """Kind of a number; it decides which transform makes its effect nearly linear."""

    LOSS = "loss"
    PROBABILITY = "probability"
    PERCENT = "percent"
    COUNT = "count"
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A proxy, described for a predictor.

    Args:
        name: column of `X`.
        kind: its unit.
        sign: +1 if a larger value can only promise a better outcome, -1 if a smaller one, 0 if
            neither is known.
        error: column of `X` with its standard error, in the same unit; None if unknown.
    """

    name: str
    kind: Kind = Kind.PLAIN
    sign: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTable:
    """Checkpoints with their proxies and outcomes.

    Args:
        X: one row per checkpoint, indexed by its id or name: proxies, their errors, and `GROUP`;
            NaN where a number is missing.
        columns: the proxies among the columns of `X`.
        y: outcome of each row, higher is better, NaN if RL was not run.
        y_error: its standard error, NaN if unknown.
        target: name of the outcome, for people.
        lower_is_better: whether the user's target is `-y`.
        notes: for the user: which columns were left out, and why.
        levels: `COMPARABLE` if all groups measured all proxies in the same way, so that a value
            means the same in each; else `UNKNOWN`.

    Example:
        >>> table = training_table(frame, target="post_rl", features=["pass_at_1"])
        >>> model = make_model("default", table.columns).fit(table.X, table.y)
    """

    X: pd.DataFrame
    columns: tuple[Column, ...]
    y: FloatArray
    y_error: FloatArray
    target: str = "target"
    lower_is_better: bool = False
    notes: tuple[str, ...] = ()
    levels: str = UNKNOWN

    def __len__(self) -> int:
        return len(self.X)

    @property
    def groups(self) -> TextArray:
        """Group of each row."""
        return groups_of(self.X)

    @property
    def ids(self) -> list[str]:
        """Id or name of each row."""
        return [str(name) for name in self.X.index]

    def rows(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> TrainingTable:
        """Return the table of some rows, by position or mask."""
        return replace(self, X=self.X.iloc[chosen], y=self.y[chosen], y_error=self.y_error[chosen])

    def with_outcome(self) -> TrainingTable:
        """Return the rows with an outcome, on which a predictor can be fitted."""
        return self.rows(np.isfinite(self.y))

    def shown(self, y: FloatArray) -> FloatArray:
        """Turn values of `y` into the user's target."""
        return -y if self.lower_is_better else y


def groups_of(X: pd.DataFrame) -> TextArray:
    """Return (n,) the group of each row."""
    return np.asarray(X[GROUP].astype(str), dtype=np.str_)


def training_table(
    frame: pd.DataFrame,
    *,
    target: str,
    features: Sequence[str],
    errors: Mapping[str, str] | None = None,
    target_error: str | None = None,
    groups: Sequence[str] = (),
    lower_is_better: bool = False,
    names: str | None = None,
    needs_outcome: bool = True,
) -> TrainingTable:
    """Make a training table from the columns of a frame.

    Args:
        frame: one row per checkpoint.
        target: column of the outcome; empty where RL was not run.
        features: columns of the proxies.
        errors: column of the standard error of each proxy.
        target_error: column of the outcome's standard error.
        groups: columns whose combinations are the groups.
        lower_is_better: whether the target is a loss.
        names: column that names the checkpoints; default: the frame's index.
        needs_outcome: whether a table without any outcome is refused.

    Raises:
        ConfigError: if a column is unknown, is not numeric, holds an infinite number, is
            named twice, or is both proxy and target; or if no row has an outcome.

    Example:
        >>> frame = pd.DataFrame({"pass_at_1": [0.3, 0.4], "post_rl": [0.5, 0.6]})
        >>> training_table(frame, target="post_rl", features=["pass_at_1"]).y
        array([0.5, 0.6])
    """
    import pandas as pd

    errors = dict(errors or {})
    _check_names(frame, target, features, errors, target_error, groups, names)
    numbers = {name: _numbers(frame, name).to_numpy() for name in [*features, *errors.values()]}
    for column in errors.values():
        if (numbers[column] < 0).any():
            raise ConfigError(f"column {column!r} holds a negative standard error")
    X = pd.DataFrame(numbers, index=pd.Index(frame[names]) if names else frame.index)
    X[GROUP] = _labels(frame, groups).to_numpy()
    y: FloatArray = np.asarray(_numbers(frame, target), dtype=np.float64)
    if needs_outcome and not np.isfinite(y).any():
        raise ConfigError(
            f"no row has a number in the target column {target!r}",
            fix="Record outcomes first (`rlready outcome`), or name another target",
        )
    y_error: FloatArray = np.full(len(y), np.nan)
    if target_error:
        y_error = np.asarray(_numbers(frame, target_error), dtype=np.float64)
    columns, notes = [], []
    for name in features:
        if not np.isfinite(X[name]).any():
            notes.append(f"{name} is left out: it has no number in any row")
            continue
        columns.append(describe_column(name, X[name].to_numpy(dtype=float), errors.get(name)))
    if not columns:
        raise ConfigError(f"none of the features {', '.join(features)} has a number in any row")
    return TrainingTable(
        X=X,
        columns=tuple(columns),
        y=-y if lower_is_better else y,
        y_error=y_error,
        target=target,
        lower_is_better=lower_is_better,
        notes=tuple(notes),
    )


_LOSS = re.compile(r"(^|_)(nll|loss|perplexity|ppl|bits_per_byte)(_|$)")
_GOOD = re.compile(
    r"^(pass_at|lenient_pass_at|maj_at|signal_share|signal_variance|pre|accuracy|acc|score)(_|$)|_acc$"
)
_COUNT = re.compile(
    r"^(n|num|count)_|(^|_)(tokens|epochs|steps?|unique|count|exaflops?|samples)(_|$)"
)


def describe_column(name: str, values: FloatArray, error: str | None = None) -> Column:
    """Describe a column by the words in its name and the range of its values.

    A loss has the sign -1; pass@k (strict or lenient), maj@k, accuracies, and the share and
    variance of the signal have +1; all others have 0 (entropy has a peak instead of a direction; a
    format gap is lost score, but RL recovers it soon). The name is ignored if the values contradict
    it, as a negative loss does.
    """
    bare = name.partition("@")[0].lower()
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if _LOSS.search(bare) and low > 0:
        return Column(name=name, kind=Kind.LOSS, sign=-1, error=error)
    if _GOOD.search(bare):
        return Column(name=name, kind=_share(low, high), sign=1, error=error)
    if bare.endswith("_share"):
        return Column(name=name, kind=_share(low, high), error=error)
    if _COUNT.search(bare) and low >= 0:
        return Column(name=name, kind=Kind.COUNT, error=error)
    return Column(name=name, error=error)


def _share(low: float, high: float) -> Kind:
    if low < 0 or high > 100:
        return Kind.PLAIN
    return Kind.PROBABILITY if high <= 1 else Kind.PERCENT


def _check_names(
    frame: pd.DataFrame,
    target: str,
    features: Sequence[str],
    errors: Mapping[str, str],
    target_error: str | None,
    groups: Sequence[str],
    names: str | None,
) -> None:
    wanted = [target, *features, *errors.values(), *groups]
    wanted += [name for name in (target_error, names) if name]
    unknown = sorted(set(wanted) - set(map(str, frame.columns)))
    if unknown:
        raise ConfigError(
            f"the table has no column {', '.join(map(repr, unknown))}",
            fix=f"Its columns: {', '.join(map(str, frame.columns))}",
        )
    twice = sorted({name for name in features if list(features).count(name) > 1})
    if twice:
        raise ConfigError(f"feature {', '.join(twice)} is named twice")
    if not features:
        raise ConfigError("no features are named", fix="Name at least one proxy")
    if target in features or target_error in features:
        raise ConfigError(
            f"{target!r} is the target", why="a predictor must not see the outcome as a proxy"
        )
    without = sorted(set(errors) - set(features))
    if without:
        raise ConfigError(
            f"a standard error is given for {', '.join(without)}, which is not a feature",
            fix=f"Features: {', '.join(features)}",
        )
    if GROUP in features or GROUP in errors.values():
        raise ConfigError(f"a proxy cannot be named {GROUP!r}", fix="Rename the column")


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    import pandas as pd

    column = frame[name]
    values = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = values.isna() & column.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(
            f"column {name!r} is not numeric: row {row + 1} holds {str(column.iloc[row])[:40]!r}",
            fix="Leave the cell empty if it was not measured",
        )
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise ConfigError(f"column {name!r}: row {row + 1} holds an infinite number")
    return values


def _labels(frame: pd.DataFrame, groups: Sequence[str]) -> pd.Series[str]:
    import pandas as pd

    if not groups:
        return pd.Series([ONE_GROUP] * len(frame), index=frame.index)
    texts = [frame[name].astype(object).where(frame[name].notna(), "none") for name in groups]
    joined = texts[0].astype(str)
    for text in texts[1:]:
        joined = joined + " / " + text.astype(str)
    return joined
