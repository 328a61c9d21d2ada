"""The training table of a predictor: proxies with units and errors, groups, and the outcome.

`training_table` checks a frame once; the predictors trust the result. A higher `y` is always
better: if the user's target is a loss, `y` is its negative; `TrainingTable.shown` turns it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.kinds import STATED, Basis, kind_of, kind_word, stated_kinds
from rlready.predictors.kinds import Kind as Kind
from rlready.predictors.table_cells import EMPTY, Cells, mixed_units, named_rows, read_cells
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
TextArray = NDArray[np.str_]

GROUP = "group"
"""Column of `X` with the group of a checkpoint. A proxy cannot have this name."""

ONE_GROUP = "all"
"""Name of the group if the user names no columns of groups."""

COMPARABLE, UNKNOWN = "comparable", "unknown"
"""Values of `TrainingTable.levels`: whether a value of a proxy means the same in all groups."""

_LIMITS = {
    Kind.LOSS: (0.0, np.inf),
    Kind.PROBABILITY: (0.0, 1.0),
    Kind.PERCENT: (0.0, 100.0),
    Kind.COUNT: (0.0, np.inf),
    Kind.PLAIN: (-np.inf, np.inf),
}
_ROWS_NAMED = 5

_SAME = 1e-12
"""Relative difference of numbers that count as equal, because a sum may round them."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The description of a proxy for a predictor.

    Args:
        name: column of `X`.
        kind: kind of its numbers, which decides their transform.
        sign: +1 if larger values go with better outcomes, -1 if smaller values do, 0 if unknown.
        error: column of `X` with its standard error, in the same unit; None if unknown.
        basis: source of kind and sign.
    """

    name: str
    kind: Kind = Kind.PLAIN
    sign: int = 0
    error: str | None = None
    basis: Basis = field(default="name", compare=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTable:
    """Checkpoints with their proxies and outcomes.

    Args:
        X: one row per checkpoint, indexed by its id or name. The columns are the proxies, their
            standard errors, and `GROUP`; NaN where a number is missing.
        columns: the proxies among the columns of `X`.
        y: (n,) outcomes, higher is better; NaN if RL was not run.
        y_error: (n,) standard errors of the outcomes; NaN if unknown.
        target: name of the outcome, for people.
        lower_is_better: whether the user's target is `-y`.
        notes: notes for the user, for example which columns were left out, and why.
        levels: `COMPARABLE` if all groups measured all proxies in the same way, so that a value
            means the same in each group; otherwise `UNKNOWN`.

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

    def check_differences(self) -> None:
        """Refuse rows with outcomes that all have the same outcome, or the same proxies.

        Raises:
            ConfigError: if nothing can be learned from these rows.
        """
        y = self.y[np.isfinite(self.y)]
        if len(y) < 2:
            return
        if np.ptp(y) <= _SAME * (1.0 + np.abs(y).max()):
            raise ConfigError(
                f"all {len(y)} outcomes are {self.shown(y)[0]:g}",
                why="nothing can be learned from outcomes that do not differ",
                fix="Record outcomes of other checkpoints, or choose another target",
            )
        names = [column.name for column in self.columns]
        proxies = self.X.loc[np.isfinite(self.y), names]
        if names and (proxies.nunique() == 1).all():
            shown = ", ".join(f"{name} {proxies[name].dropna().iloc[0]:g}" for name in names[:3])
            raise ConfigError(
                f"all {len(y)} checkpoints with an outcome have the same proxies: {shown}"
                + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
                why="nothing can be learned from proxies that do not differ",
                fix="Measure other proxies (`rlready evaluate`), or name others with --features",
            )

    def shown(self, y: FloatArray) -> FloatArray:
        """Turn values of `y` into the user's target."""
        return -y if self.lower_is_better else y


def groups_of(X: pd.DataFrame) -> TextArray:
    """Return the (n,) groups of the rows."""
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
    kinds: Sequence[str] = (),
) -> TrainingTable:
    """Make a training table from the columns of a frame.

    Args:
        frame: one row per checkpoint.
        target: column of the outcome; its cells are empty where RL was not run.
        features: columns of the proxies.
        errors: column of the standard error, by proxy.
        target_error: column of the outcome's standard error.
        groups: columns whose combinations are the groups.
        lower_is_better: whether the target is a loss.
        names: column that names the checkpoints; default: the frame's index.
        needs_outcome: whether to refuse a table without any outcome.
        kinds: `COL=KIND[:SIGN]` for columns whose names do not tell their kind, see
            `stated_kinds`.

    Raises:
        ConfigError: if a column is unknown, is not numeric, holds an infinite number, is
            named twice, or is the target and also a proxy or a group; if a stated kind is wrong,
            if outcomes mix shares and percentages, or if no row has an outcome.

    Example:
        >>> frame = pd.DataFrame({"pass_at_1": [0.3, 0.4], "post_rl": [0.5, 0.6]})
        >>> training_table(frame, target="post_rl", features=["pass_at_1"]).y
        array([0.5, 0.6])
    """
    import pandas as pd

    errors = dict(errors or {})
    _check_names(frame, target, features, errors, target_error, groups, names)
    stated = stated_kinds(kinds, [*features, target])
    index = pd.Index(frame[names]) if names else frame.index
    rows = [str(row) for row in index]
    all_errors = {**errors, target: target_error} if target_error else errors
    number_columns = dict.fromkeys([*features, target, *all_errors.values()])
    cells = {name: read_cells(frame[name], name, rows) for name in number_columns}
    for name, error in all_errors.items():
        _check_error(error, cells[error], name, cells[name])
    notes = [note for name in number_columns if (note := cells[name].note(name))]
    X = pd.DataFrame({name: cells[name].values for name in [*features, *errors.values()]}, index)
    X[GROUP] = _labels(frame, groups, notes).to_numpy()
    y = cells[target].values
    if needs_outcome and not np.isfinite(y).any():
        raise ConfigError(
            f"no row has a number in the target column {target!r}",
            fix="Fill it in (in the registry: `rlready outcome`), or name another target",
        )
    if not lower_is_better:
        _check_units(target, y, rows, stated.get(target))
    y_error = cells[target_error].values if target_error else np.full(len(y), np.nan)
    columns = _columns(features, cells, errors, stated, notes)
    _check_shared(X, columns)
    return TrainingTable(
        X=X,
        columns=tuple(columns),
        y=-y if lower_is_better else y,
        y_error=y_error,
        target=target,
        lower_is_better=lower_is_better,
        notes=tuple(notes),
    )


def _columns(
    features: Sequence[str],
    cells: Mapping[str, Cells],
    errors: Mapping[str, str],
    stated: Mapping[str, tuple[Kind, int]],
    notes: list[str],
) -> list[Column]:
    """Describe the features that have a number; add a note for each of the others."""
    columns = []
    for name in features:
        if not np.isfinite(cells[name].values).any():
            notes.append(f"{name} is left out: it has no number in any row")
            continue
        columns.append(
            describe_column(
                name,
                cells[name].values,
                errors.get(name),
                stated=stated.get(name),
                is_percent=cells[name].is_percent,
            )
        )
    if not columns:
        raise ConfigError(f"none of the features {', '.join(features)} has a number in any row")
    return columns


def describe_column(
    name: str,
    values: FloatArray,
    error: str | None = None,
    *,
    stated: tuple[Kind, int] | None = None,
    is_percent: bool = False,
) -> Column:
    """Describe a column by the words in its name and the range of its values (`kinds.RULES`).

    Args:
        name: name of the column.
        values: (n,) its numbers; NaN where missing.
        error: column with their standard errors.
        stated: kind and sign from the user; the name is then ignored.
        is_percent: whether the numbers are known to be percentages.

    Raises:
        ConfigError: if a number contradicts the stated kind.
    """
    if stated is not None:
        _check_stated(name, values, stated[0])
        return Column(name=name, kind=stated[0], sign=stated[1], error=error, basis="stated")
    kind, sign, basis = kind_of(name, values)
    if is_percent and kind in (Kind.PROBABILITY, Kind.PLAIN) and _is_within(values, 0.0, 100.0):
        kind = Kind.PERCENT
    return Column(name=name, kind=kind, sign=sign, error=error, basis=basis)


def kinds_dict(columns: Sequence[Column]) -> dict[str, dict[str, str]]:
    """Return kind, sign and basis of each proxy as JSON values."""
    return {
        column.name: {
            "kind": kind_word(column.kind, column.sign),
            "sign": "+" if column.sign > 0 else "-" if column.sign < 0 else "0",
            "basis": column.basis,
        }
        for column in columns
    }


def lacking(table: TrainingTable, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return a note for each set of checkpoints that lack the same proxies.

    Args:
        table: the rows.
        names: (n,) names for people; default: the ids, or row numbers if there are no ids.
    """
    import pandas as pd

    if names is None:
        is_named = not isinstance(table.X.index, pd.RangeIndex)
        names = table.ids if is_named else [f"row {i + 1}" for i in range(len(table))]
    columns_of: dict[tuple[int, ...], list[str]] = {}
    for column in table.columns:
        rows = np.flatnonzero(~np.isfinite(table.X[column.name].to_numpy(dtype=float)))
        if len(rows):
            columns_of.setdefault(tuple(rows.tolist()), []).append(column.name)
    return tuple(
        f"{', '.join(columns)} {'is' if len(columns) == 1 else 'are'} missing for {len(rows)} of "
        f"{len(table)} checkpoints: {named_rows(np.array(rows), names)}"
        for rows, columns in columns_of.items()
    )


def _check_names(
    frame: pd.DataFrame,
    target: str,
    features: Sequence[str],
    errors: Mapping[str, str],
    target_error: str | None,
    groups: Sequence[str],
    names: str | None,
) -> None:
    columns = [target, *features, *errors.values(), *groups]
    columns += [name for name in (target_error, names) if name]
    unknown = sorted(set(columns) - set(map(str, frame.columns)))
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
    if target in groups or target_error in groups:
        raise ConfigError(
            f"{target!r} is the target, and groups are named by it",
            why="the group of a checkpoint must be known before RL",
            fix="Name a column such as the base model or the SFT data",
        )
    without = sorted(set(errors) - set(features))
    if without:
        raise ConfigError(
            f"a standard error is given for {', '.join(without)}, which is not a feature",
            fix=f"Features: {', '.join(features)}",
        )
    if GROUP in features or GROUP in errors.values():
        raise ConfigError(f"a proxy cannot be named {GROUP!r}", fix="Rename the column")


def _check_stated(name: str, values: FloatArray, kind: Kind) -> None:
    low, high = _LIMITS[kind]
    wrong = values[(values < low) | (values > high) | ((kind is Kind.LOSS) & (values == 0.0))]
    if not len(wrong):
        return
    word, numbers = next((w, text) for w, (of_word, _, text) in STATED.items() if of_word is kind)
    is_percentage = kind is Kind.PROBABILITY and _is_within(values, 0.0, 100.0)
    raise ConfigError(
        f"--kind {name}={word}: the column holds {wrong[0]:g}",
        why=f"the numbers of this kind are {numbers}",
        fix=f"Write --kind {name}=percent" if is_percentage else "Choose another kind, or plain",
    )


def _is_within(values: FloatArray, low: float, high: float) -> bool:
    finite = values[np.isfinite(values)]
    return bool(((finite >= low) & (finite <= high)).all())


def _check_units(
    target: str, values: FloatArray, rows: Sequence[str], stated: tuple[Kind, int] | None
) -> None:
    """Refuse outcomes that seem to mix shares and percentages."""
    if stated is not None:
        _check_stated(target, values, stated[0])
        return
    mixed = mixed_units(values)
    if mixed is None:
        return
    shares, percent = (named_rows(positions, rows, values) for positions in mixed)
    raise ConfigError(
        f"the outcomes in {target!r} seem to mix shares and percentages",
        why=f"shares: {shares}; percentages: {percent}",
        fix=f"Write all of them in one unit; if all are right, add --kind {target}=percent",
    )


def _check_shared(X: pd.DataFrame, columns: Sequence[Column]) -> None:
    """Refuse a table in which no proxy was measured on two checkpoints."""
    counts = {c.name: int(np.isfinite(X[c.name].to_numpy(dtype=float)).sum()) for c in columns}
    if len(X) < 2 or max(counts.values(), default=2) >= 2:
        return
    has = [
        f"{row} has {', '.join(c for c in counts if np.isfinite(X[c].iloc[i]))}"
        for i, row in enumerate(map(str, X.index))
        if np.isfinite(X[list(counts)].iloc[i].to_numpy(dtype=float)).any()
    ]
    more = len(has) - _ROWS_NAMED
    raise ConfigError(
        "no two checkpoints have a proxy in common",
        why="; ".join(has[:_ROWS_NAMED]) + (f"; and {more} more" if more > 0 else ""),
        fix="Measure all checkpoints on the same benchmarks with the same settings",
    )


def _check_error(name: str, error: Cells, of: str, values: Cells) -> None:
    """Refuse a column of standard errors that are negative or in another unit."""
    if (error.values < 0).any():
        raise ConfigError(f"column {name!r} holds a negative standard error")
    if error.is_percent != values.is_percent and np.isfinite(error.values).any():
        signed, plain = (name, of) if error.is_percent else (of, name)
        raise ConfigError(
            f"column {signed!r} has percent signs and {plain!r} has none",
            why=f"{name!r} is the standard error of {of!r}",
            fix="Write both in one unit",
        )


def _labels(frame: pd.DataFrame, groups: Sequence[str], notes: list[str]) -> pd.Series[str]:
    """Return the group of each row; add a note on rows that have none."""
    import pandas as pd

    if not groups:
        return pd.Series([ONE_GROUP] * len(frame), index=frame.index)
    texts = []
    for name in groups:
        column = frame[name].astype(object)
        is_missing = column.isna() | column.astype(str).str.strip().str.lower().isin(EMPTY)
        texts.append(column.where(~is_missing, "none"))
        if is_missing.any():
            n = int(is_missing.sum())
            notes.append(f"{n} of {len(frame)} rows have no {name}: they form the group 'none'")
    joined = texts[0].astype(str)
    for text in texts[1:]:
        joined = joined + " / " + text.astype(str)
    return joined
