"""A model with all that keeps it honest: intervals, domain, signal, in one object that is stored.

`predict` and `predictive` speak as `TrainingTable.y` does, higher is better; `assess` is the
surface for people and gives the user's target (a loss stays a loss).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from rlready.predictors.calibration.domain import Place, Placed, TrainingDomain, domain_of
from rlready.predictors.calibration.intervals import (
    Regime,
    calibrate,
    intervals,
    predictive,
)
from rlready.predictors.calibration.signal_test import signal_report
from rlready.predictors.features import PlainColumns, plain_columns
from rlready.predictors.models.catalogue import make_model
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import (
    GROUP,
    ONE_GROUP,
    Column,
    FloatArray,
    Kind,
    TextArray,
    TrainingTable,
    describe_column,
)
from rlready.predictors.validation.folds import (
    MakeModel,
    fit_model,
    group_folds,
    row_folds,
    twins,
)
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

VERSIONS = "versions"
"""Key of `frame.attrs` that says how the columns of a frame were measured, by column."""


class CalibratedPredictor(RegressorMixin, BaseEstimator):
    """Outcomes of checkpoints with intervals that say what they promise, and a domain.

    Args:
        model: name of a model (`models.make_model`), or a scikit-learn regressor.
        columns: the proxies, see `features.plain_columns`; None: those of the table in `fit`, or of
            a frame every column of numbers but `GROUP` and standard errors (`..._se`).
        level: share of outcomes that intervals hold, 0.5..0.99.
        n_folds: at most so many fits without some rows, and so many without some groups.
        committee: names of unlike models whose disagreement is a sign of extrapolation.
        versions: how each column was measured (evaluator and benchmark), by column; rows measured
            in another way are refused.
        seed: of folds and permutations.

    Attributes:
        model_: fitted on all rows with an outcome.
        ids_: of these rows.
        out_of_fold_: (n,) their predictions by models that have not seen them; NaN where a row is
            alone in its group.
        calibration_: models and residuals of the folds, and the law of errors.
        domain_: what the training rows look like.
        signal_: the permutation test of the proxies.
        columns_: the proxies, plain.
        lower_is_better_: whether the user's target is the negative of `y`.
        target_: its name.
        notes_: what a reader has to know.
    """

    def __init__(
        self,
        model: Any = "default",
        *,
        columns: PlainColumns | None = None,
        level: float = 0.9,
        n_folds: int = 20,
        committee: Sequence[str] = (),
        versions: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.columns = columns
        self.level = level
        self.n_folds = n_folds
        self.committee = committee
        self.versions = versions
        self.seed = seed

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """The predictor, fitted on a `TrainingTable`, or on a frame of proxies and outcomes.

        `sample_weight` of a frame stands for precisions of the outcomes in any unit; a table has
        their standard errors.

        Raises:
            ConfigError: if there are fewer than five outcomes, or all are the same.
        """
        table = X if isinstance(X, TrainingTable) else self._table(X, y, sample_weight)
        self._check_settings()
        table = _usable(table.with_outcome(), self.n_folds, self.seed)
        self.columns_ = plain_columns(table.columns)
        self.target_ = table.target
        self.lower_is_better_ = table.lower_is_better
        make = self._maker(self.model, table)
        # Dozens of fits of small matrices: on busy cores, threads of BLAS and OpenMP cost ten times
        # the time of one.
        with threadpool_limits(limits=1):
            self.calibration_ = calibrate(make, table, n_folds=self.n_folds, seed=self.seed)
            self.model_ = fit_model(make, table)
        self.ids_ = table.ids
        self.out_of_fold_ = table.y - self.calibration_.by_row.residuals
        self.committee_ = [fit_model(self._maker(name, table), table) for name in self.committee]
        self.domain_: TrainingDomain = domain_of(table)
        self.signal_ = signal_report(table, seed=self.seed)
        self.notes_ = [*table.notes, *_notes(table)]
        self.n_features_in_ = len(self.columns_)
        return self

    def predict(self, X: Any) -> FloatArray:
        """(n,) expected outcomes, higher is better.

        Raises:
            ConfigError: if X misses columns, or has them measured in another way.
        """
        check_is_fitted(self)
        mean: FloatArray = np.asarray(self.model_.predict(self._checked(X)), dtype=np.float64)
        return mean

    def assess(self, X: Any, unseen: FloatArray | None = None) -> pd.DataFrame:
        """Return one row for each row of X, with all that is predicted, in the user's target.

        Columns: `prediction`; `low` and `high`, the interval of the outcome of one RL run; `level`;
        `regime` and `promise` (see `Regime`); `domain` (in, edge, out) and `reasons`, in words.

        Args:
            X: rows; those of one group together.
            unseen: (n,) predictions by models that have not seen the row, higher is better. They
                replace those of the model where they are finite, and intervals move with them.

        Raises:
            ConfigError: if X misses columns, or has them measured in another way.
        """
        import pandas as pd

        X = self._checked(X)
        mean = self.predict(X)
        low, high, regimes = intervals(self.calibration_, X, _groups(X), mean, self.level)
        placed = self.placed(X)
        if unseen is not None:
            shift = np.where(np.isfinite(unseen), unseen - mean, 0.0)
            mean, low, high = mean + shift, low + shift, high + shift
        if self.lower_is_better_:
            mean, low, high = -mean, -high, -low
        return pd.DataFrame(
            {
                "prediction": mean,
                "low": low,
                "high": high,
                "level": self.level,
                "regime": [regime.value for regime in regimes],
                "promise": [regime.promise for regime in regimes],
                "domain": [place.value for place in placed.places],
                "reasons": ["; ".join(reasons) for reasons in placed.reasons],
            },
            index=X.index,
        )

    def predictive(self, X: Any, *, noise: bool = True) -> Predictive:
        """The joint law of the outcomes of one RL run each; without `noise`, of the true scores.

        Where the training outcomes have no standard errors the noise of RL cannot be told from the
        rest, and is part of it in any case (`notes_` says so).
        """
        X = self._checked(X)
        return predictive(
            self.calibration_, _groups(X), self.predict(X), noise=noise, level=self.level
        )

    def placed(self, X: Any) -> Placed:
        """Where each row stands to the training rows, and why."""
        X = self._checked(X)
        if not self.committee_:
            return self.domain_.place(X)
        said = np.stack([model.predict(X) for model in [self.model_, *self.committee_]])
        error = float(np.sqrt(np.nanmean(self.calibration_.by_row.residuals**2)))
        return self.domain_.place(X, disagreement=np.ptp(said, axis=0), cv_error=error)

    def has_signal(self) -> bool:
        """Whether the proxies order outcomes inside groups better than chance does."""
        return bool(self.signal_.found())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _maker(self, model: Any, table: TrainingTable) -> MakeModel:
        if isinstance(model, str):
            make_model(model, table.columns)  # an unknown name fails here, not in a fold
            return lambda: make_model(model, table.columns)
        return lambda: clone(model)

    def _table(self, X: pd.DataFrame, y: Any, sample_weight: Any) -> TrainingTable:
        if y is None:
            raise ConfigError("outcomes are missing", fix="Call fit(X, y) or fit(TrainingTable)")
        X = X if GROUP in X else X.assign(**{GROUP: ONE_GROUP})
        columns = self.columns or plain_columns(_described(X))
        outcomes = np.asarray(y, dtype=np.float64)
        error = np.full(len(X), np.nan)
        if sample_weight is not None:
            # Only the ratios of weights are known: the noisiest outcome is taken as noise for a
            # tenth of its variance.
            weight = np.asarray(sample_weight, dtype=np.float64)
            error = np.sqrt(0.1 * np.nanvar(outcomes) * weight.min() / weight)
        return TrainingTable(
            X=X,
            columns=tuple(
                Column(name=name, kind=Kind(kind), sign=sign, error=se)
                for name, kind, sign, se in columns
            ),
            y=outcomes,
            y_error=error,
        )

    def _check_settings(self) -> None:
        if not 0.5 <= self.level <= 0.99:
            raise ConfigError(f"level {self.level} is not within 0.5..0.99")
        if self.n_folds < 2:
            raise ConfigError(f"n_folds is {self.n_folds}", fix="Give at least 2; 20 is usual")

    def _checked(self, X: Any) -> pd.DataFrame:
        """The rows, as a frame that has every column in the way it was learned."""
        check_is_fitted(self)
        frame: pd.DataFrame = X.X if isinstance(X, TrainingTable) else X
        wanted = [name for name, *_ in self.columns_]
        wanted += [se for *_, se in self.columns_ if se]
        missing = [name for name in wanted if name not in frame]
        if missing:
            stems = {str(name).partition("#")[0] for name in missing}
            others = [str(n) for n in frame if str(n).partition("#")[0] in stems]
            raise ConfigError(
                f"the rows have no column {', '.join(map(repr, missing))}",
                why=(
                    f"{', '.join(others)} was measured in another way (content, protocol or "
                    "evaluator version)"
                    if others
                    else "the predictor was fitted on it"
                ),
                fix="Measure the checkpoints with the same evaluators, or fit a new predictor",
            )
        self._check_versions(frame)
        if GROUP not in frame:
            known = np.unique(self.calibration_.groups)
            if known.tolist() != [ONE_GROUP]:
                raise ConfigError(
                    f"the rows have no column {GROUP!r}",
                    why="levels and intervals depend on the group",
                    fix=f"Name the group of each row; known are {', '.join(known[:8])}",
                )
            frame = frame.assign(**{GROUP: ONE_GROUP})
        return frame

    def _check_versions(self, frame: pd.DataFrame) -> None:
        given = frame.attrs.get(VERSIONS) or {}
        differ = [
            f"{name}: {given[name]}, the predictor learned {version}"
            for name, version in (self.versions or {}).items()
            if name in given and given[name] != version
        ]
        if differ:
            raise ConfigError(
                f"columns were measured in another way: {'; '.join(differ)}",
                why="numbers of different versions must not be compared",
                fix="Measure the checkpoints with the same evaluators, or fit a new predictor",
            )


def _groups(X: pd.DataFrame) -> TextArray:
    return np.asarray(X[GROUP].astype(str), dtype=np.str_)


def _described(X: pd.DataFrame) -> list[Column]:
    names = [str(n) for n in X if n != GROUP and X[n].dtype.kind in "fiu" and "_se" not in str(n)]
    return [
        describe_column(
            name, X[name].to_numpy(dtype=float), f"{name}_se" if f"{name}_se" in X else None
        )
        for name in names
    ]


def _usable(table: TrainingTable, n_folds: int, seed: int) -> TrainingTable:
    """The table without columns that are empty where a model is fitted.

    Raises:
        ConfigError: if nothing can be learned from it.
    """
    if len(table) > 1 and np.ptp(table.y) <= 1e-12 * (1.0 + np.abs(table.y).max()):
        raise ConfigError(
            f"all {len(table)} outcomes are {table.shown(table.y)[0]:g}",
            why="nothing can be learned from outcomes that do not differ",
            fix="Record outcomes of other checkpoints, or take another target",
        )
    folds = [*row_folds(table, n_folds, seed), *group_folds(table, n_folds, seed)]
    rest = [np.setdiff1d(np.arange(len(table)), fold) for fold in folds if len(fold) < len(table)]
    left_out = []
    for name in [column.name for column in table.columns]:
        known = np.isfinite(table.X[name].to_numpy(dtype=float))
        if not known.any():
            left_out.append((name, "no row with an outcome has it"))
        elif not all(known[rows].any() for rows in rest):
            left_out.append((name, "too few rows or groups have it to see what it is worth"))
    names = [name for name, _ in left_out]
    columns = tuple(column for column in table.columns if column.name not in names)
    if not columns:
        raise ConfigError(
            "no proxy can be used",
            why="; ".join(f"{name}: {why}" for name, why in left_out),
            fix="Measure the checkpoints that have outcomes (`rlready evaluate`)",
        )
    notes = tuple(f"{name} is left out: {why}" for name, why in left_out)
    return replace(table, columns=columns, notes=table.notes + notes)


def _notes(table: TrainingTable) -> list[str]:
    notes = []
    if not np.isfinite(table.y_error).any():
        notes.append(
            "outcomes have no standard errors: the noise of RL runs cannot be told from what the "
            "proxies do not explain"
        )
    n_twins = len(table) - len(np.unique(twins(table)))
    if n_twins:
        notes.append(f"{n_twins} rows repeat the proxies of another row: they share a fold")
    return notes


__all__ = ["VERSIONS", "CalibratedPredictor", "Place", "Regime"]
