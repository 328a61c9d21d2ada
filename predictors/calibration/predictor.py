"""A model with its intervals, its domain and its test for signal, stored as one object.

`predict`, `predictive`, `unseen` and `posterior` follow `TrainingTable.y`: higher is better.
`assess` is for people and has the unit and direction of the user's target (a loss stays a loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from rlready.predictors.bound import Bound
from rlready.predictors.calibration.domain import Placed, TrainingDomain, domain_of
from rlready.predictors.calibration.intervals import (
    anchors_of,
    calibrate,
    intervals,
    predictive,
)
from rlready.predictors.calibration.signal_test import signal_report
from rlready.predictors.features import PlainColumns, plain_columns
from rlready.predictors.models.catalogue import make_model
from rlready.predictors.predictive import Predictive
from rlready.predictors.table_cells import VERSIONS
from rlready.predictors.training_table import (
    GROUP,
    ONE_GROUP,
    Column,
    FloatArray,
    Kind,
    TextArray,
    TrainingTable,
    describe_column,
    groups_of,
)
from rlready.predictors.validation.folds import (
    MakeModel,
    fit_model,
    group_folds,
    row_folds,
    twins,
)
from rlready.predictors.validation.row_weights import error_notes
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


class CalibratedPredictor(RegressorMixin, BaseEstimator):
    """Predict outcomes of checkpoints, with intervals and a domain of validity.

    Args:
        model: name of a model (`make_model`), or a scikit-learn regressor.
        columns: the proxies, see `features.plain_columns`. None: those of the table in `fit`, or
            every numeric column of a frame except `GROUP` and standard errors (`..._se`).
        level: share of outcomes that intervals contain, 0.5 to 0.99.
        n_folds: largest number of fits without some rows, and of fits without some groups.
        committee: names of different models; their disagreement is a sign of extrapolation.
        versions: how each column was measured (evaluator and benchmark), by column. Rows that were
            measured in another way are refused.
        seed: seed of folds and permutations.

    Attributes:
        model_: the model, fitted to all rows with an outcome.
        ids_: ids of these rows.
        out_of_fold_: (n,) predictions of these rows by models that have not seen them; NaN if a
            row is alone in its group.
        calibration_: models and residuals of the folds, and the sizes of errors.
        domain_: description of the training rows.
        signal_: the permutation test of the proxies.
        columns_: the proxies, as plain values.
        lower_is_better_: whether the user's target is the negative of `y`.
        target_: name of the target.
        notes_: notes for the user on what was left out, and what is unknown.

    Example:
        >>> predictor = CalibratedPredictor().fit(table)  # doctest: +SKIP
        >>> predictor.assess(table.X)[["prediction", "low", "high", "domain"]]  # doctest: +SKIP
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
        """Fit the predictor to a `TrainingTable`, or to a frame of proxies and its outcomes.

        `sample_weight` of a frame is the precision of each outcome, in any unit; a table has their
        standard errors.

        Raises:
            ConfigError: if there are fewer than five outcomes, if all outcomes or all proxies are
                equal, or if a setting is invalid.
        """
        table = X if isinstance(X, TrainingTable) else self._table(X, y, sample_weight)
        if not 0.5 <= self.level <= 0.99:
            raise ConfigError(f"level {self.level} is not within 0.5..0.99")
        if self.n_folds < 2:
            raise ConfigError(f"n_folds is {self.n_folds}", fix="Give at least 2; 20 is usual")
        table = _usable(table.with_outcome(), self.n_folds, self.seed)
        self.columns_ = plain_columns(table.columns)
        self.target_ = table.target
        self.lower_is_better_ = table.lower_is_better
        make = self._maker(self.model, table)
        # There are dozens of fits of small matrices. On busy cores, threads of BLAS and OpenMP
        # would take ten times as long as one thread.
        with threadpool_limits(limits=1):
            self.model_ = fit_model(make, table)
            bound: Bound | None = getattr(self.model_, "bound_", None)
            self.calibration_ = calibrate(
                make, table, n_folds=self.n_folds, seed=self.seed, bound=bound
            )
        self.ids_ = table.ids
        self.out_of_fold_ = table.y - self.calibration_.by_row.residuals
        self.committee_ = [fit_model(self._maker(name, table), table) for name in self.committee]
        self.domain_: TrainingDomain = domain_of(table)
        self.signal_ = signal_report(table, seed=self.seed)
        self.notes_ = [*table.notes, *_notes(table)]
        self.n_features_in_ = len(self.columns_)
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return the (n,) expected outcomes, higher is better.

        Raises:
            ConfigError: if X lacks columns, or if they were measured in another way.
        """
        check_is_fitted(self)
        return np.asarray(self.model_.predict(self._checked(X)), dtype=np.float64)

    def assess(self, X: Any) -> pd.DataFrame:
        """Return a frame with the prediction for each row of X, in the unit of the user's target.

        Columns: `prediction`; `low` and `high`, the interval of the outcome of one RL run; `level`;
        `regime` and `promise` (see `Regime`); `domain` (in, edge, out) and `reasons`, in words.

        Args:
            X: rows to predict; pass all rows of a group together.

        Raises:
            ConfigError: if X lacks columns, or if they were measured in another way.
        """
        import pandas as pd

        X = self._checked(X)
        mean = self.predict(X)
        low, high, regimes = intervals(self.calibration_, X, groups_of(X), mean, self.level)
        placed = self.placed(X)
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

    def assess_unseen(self, table: TrainingTable) -> pd.DataFrame:
        """Return a frame as `assess` does, from models that have not seen the row's outcome.

        A training row gets the prediction of the fold that left it out, and the interval that the
        law of errors gives around it.
        """
        X = self._checked(table.X)
        assessed, mean = self.assess(X), self.unseen(table).mean
        anchors = anchors_of(groups_of(X), self.calibration_.groups)
        low, high = self.calibration_.law.student_ends(mean, anchors, self.level)
        if self.lower_is_better_:
            mean, low, high = -mean, -high, -low
        is_fitted = np.isin(table.ids, list(self.ids_))
        values: dict[str, Any] = {"prediction": mean, "low": low, "high": high}
        values["promise"] = "by a model that has not seen the outcome: model-based"
        return assessed.assign(
            **{name: np.where(is_fitted, new, assessed[name]) for name, new in values.items()}
        )

    def predictive(self, X: Any, *, noise: bool = True) -> Predictive:
        """Return the joint distribution of the outcomes of one RL run from each row.

        Without `noise` it is the distribution of the true scores. If the training outcomes have no
        standard errors, the noise of RL cannot be separated and is always included (see `notes_`).
        """
        X = self._checked(X)
        return self._predictive(groups_of(X), self.predict(X), noise=noise)

    def _predictive(self, groups: TextArray, mean: FloatArray, *, noise: bool) -> Predictive:
        return predictive(self.calibration_, groups, mean, noise=noise, level=self.level)

    def unseen(self, table: TrainingTable, *, noise: bool = False) -> Predictive:
        """Return the distribution of true scores, from models that have not seen the outcomes.

        With `noise` it is the distribution of the outcomes of one RL run from each row.
        """
        X = self._checked(table.X)
        held_out = dict(zip(self.ids_, self.out_of_fold_, strict=True))
        mean = np.array([held_out.get(name, math.nan) for name in table.ids])
        mean = np.where(np.isfinite(mean), mean, self.predict(X))
        return self._predictive(groups_of(X), mean, noise=noise)

    def posterior(self, table: TrainingTable) -> Predictive:
        """Return the distribution of true scores, given the recorded outcomes.

        An outcome y with standard error s and a prediction m with row sd r and level sd g are
        weighted by their precisions. The remaining error is an error of the row alone.
        """
        prior = self.unseen(table)
        has_outcome = np.isfinite(table.y)
        noise = np.where(np.isfinite(table.y_error), table.y_error, self.run_noise)
        total = prior.row_sd**2 + prior.group_sd**2
        weight = np.where(has_outcome, total / (total + noise**2), 0.0)
        return replace(
            prior,
            mean=prior.mean + weight * (np.where(has_outcome, table.y, prior.mean) - prior.mean),
            row_sd=np.where(has_outcome, np.sqrt(weight) * noise, prior.row_sd),
            group_sd=np.where(has_outcome, 0.0, prior.group_sd),
            additive_sd=None
            if prior.additive_sd is None
            else np.where(has_outcome, np.sqrt(weight) * noise, prior.additive_sd),
        )

    @property
    def run_noise(self) -> float:
        """Standard deviation of one RL run's score around the true one; 0 if unknown."""
        noise = self.calibration_.rl_noise
        return noise if math.isfinite(noise) else 0.0

    def contributions(self, X: pd.DataFrame) -> dict[str, FloatArray]:
        """Return, by proxy, the (n,) parts of the predictions that are due to the proxy.

        A part is the prediction minus the prediction with the proxy at the mean of its group in X.
        For a linear model the parts add up to the prediction minus that of the group's mean. For
        other models each part is the effect of one proxy, given the others.
        """
        names = [name for name, *_ in self.columns_]
        predicted, means = self.predict(X), X.groupby(GROUP)[names].transform("mean")
        return {name: predicted - self.predict(X.assign(**{name: means[name]})) for name in names}

    def placed(self, X: Any) -> Placed:
        """Return whether each row is in the domain of the training rows, and why not."""
        X = self._checked(X)
        if not self.committee_:
            return self.domain_.place(X)
        predictions = np.stack([model.predict(X) for model in [self.model_, *self.committee_]])
        error = float(np.sqrt(np.nanmean(self.calibration_.by_row.residuals**2)))
        return self.domain_.place(X, disagreement=np.ptp(predictions, axis=0), cv_error=error)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _maker(self, model: Any, table: TrainingTable) -> MakeModel:
        if isinstance(model, str):
            make_model(model, table.columns)  # an unknown name fails here, not in a fold
            return lambda: make_model(model, table.columns, levels=table.levels)
        return lambda: clone(model)

    def _table(self, X: pd.DataFrame, y: Any, sample_weight: Any) -> TrainingTable:
        if y is None:
            raise ConfigError("outcomes are missing", fix="Call fit(X, y) or fit(TrainingTable)")
        X = X if GROUP in X else X.assign(**{GROUP: ONE_GROUP})
        errors = {name: f"{name}_se" if f"{name}_se" in X else None for name in map(str, X)}
        columns = self.columns or plain_columns(
            [
                describe_column(name, X[name].to_numpy(dtype=float), error)
                for name, error in errors.items()
                if name != GROUP and X[name].dtype.kind in "fiu" and "_se" not in name
            ]
        )
        outcomes = np.asarray(y, dtype=np.float64)
        error = np.full(len(X), np.nan)
        if sample_weight is not None:
            # Weights only give ratios of precisions. The noise of the noisiest outcome is
            # therefore assumed to be a tenth of the variance.
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

    def _checked(self, X: Any) -> pd.DataFrame:
        """Return the rows as a frame, after checking that they have the learned columns."""
        check_is_fitted(self)
        frame: pd.DataFrame = X.X if isinstance(X, TrainingTable) else X
        columns = [name for name, *_ in self.columns_]
        columns += [se for *_, se in self.columns_ if se]
        missing = [name for name in columns if name not in frame]
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
        versions = frame.attrs.get(VERSIONS) or {}
        differ = [
            f"{name}: {versions[name]}, while the predictor was fitted on {version}"
            for name, version in (self.versions or {}).items()
            if name in versions and versions[name] != version
        ]
        if differ:
            raise ConfigError(
                f"columns were measured in another way: {'; '.join(differ)}",
                why="numbers of different versions must not be compared",
                fix="Measure the checkpoints with the same evaluators, or fit a new predictor",
            )
        if GROUP not in frame:
            groups = np.unique(self.calibration_.groups)
            if groups.tolist() != [ONE_GROUP]:
                raise ConfigError(
                    f"the rows have no column {GROUP!r}",
                    why="levels and intervals depend on the group",
                    fix=f"Name the group of each row; known are {', '.join(groups[:8])}",
                )
            frame = frame.assign(**{GROUP: ONE_GROUP})
        return frame


def _usable(table: TrainingTable, n_folds: int, seed: int) -> TrainingTable:
    """Return the table without columns that are empty in some fit.

    Raises:
        ConfigError: if nothing can be learned from the table.
    """
    table.check_differences()
    folds = [*row_folds(table, n_folds, seed), *group_folds(table, n_folds, seed)]
    fitted = [np.setdiff1d(np.arange(len(table)), fold) for fold in folds if len(fold) < len(table)]
    left_out = {}
    for column in table.columns:
        is_measured = np.isfinite(table.X[column.name].to_numpy(dtype=float))
        if not is_measured.any():
            left_out[column.name] = "no row with an outcome has it"
        elif not all(is_measured[rows].any() for rows in fitted):
            left_out[column.name] = "too few rows or groups have it to estimate its effect"
    columns = tuple(column for column in table.columns if column.name not in left_out)
    if not columns:
        raise ConfigError(
            "no proxy can be used",
            why="; ".join(f"{name}: {why}" for name, why in left_out.items()),
            fix="Measure the checkpoints that have outcomes (`rlready evaluate`)",
        )
    notes = tuple(f"{name} is left out: {why}" for name, why in left_out.items())
    return replace(table, columns=columns, notes=table.notes + notes)


def _notes(table: TrainingTable) -> list[str]:
    notes = error_notes(table)
    n_twins = len(table) - len(np.unique(twins(table)))
    if n_twins:
        notes.append(f"{n_twins} rows repeat the proxies of another row: they share a fold")
    return notes
