"""How good a predictor is on checkpoints that it has not seen, and whether it beats the practice.

Each split asks another question:

    loo      another checkpoint of groups with known outcomes (rows left out one by one; over 60
             rows, 60 random parts)
    group    a checkpoint of a group without any outcome (whole groups left out)
    parity   the seed paper's: fitted to a random half of the rows and scored on the other half,
             mean and sd over repeats (Kang et al., arXiv 2510.01624); beside the models, their
             line through each proxy alone. Other halves would not be other checkpoints: what is
             given as lo and hi is the middle 95 % of the repeats, no interval of the score
    holdout  another table: fitted to all rows of this one

All but parity pool the predictions of all rows and score them once, with intervals that draw whole
groups (`bootstrap`). `selected` chooses among the models inside each training part, by their
predictions for groups left out of that part, so that choosing a model is scored too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from rlready.predictors.models.baselines import OneProxy
from rlready.predictors.models.catalogue import BASELINES, DEFAULT_MODEL, make_model, model_names
from rlready.predictors.training_table import GROUP, FloatArray, TrainingTable
from rlready.predictors.validation.bootstrap import (
    Bootstrapped,
    Difference,
    Interval,
    resampling,
    units_note,
)
from rlready.predictors.validation.fold_runs import FoldRun, FoldRuns, NamedModel, Progress
from rlready.predictors.validation.folds import (
    MakeModel,
    Rows,
    fit_model,
    leave_group_out,
    leave_one_out,
)
from rlready.predictors.validation.scores import (
    ALL,
    MIN_ROWS,
    SCORES,
    ClearRule,
    Score,
    Scorer,
    clear_rule,
    noise_ceiling_r2,
    score_of,
)
from rlready.registry.errors import ConfigError

SPLITS = ("loo", "group", "parity")
HOLDOUT = "holdout"
BASELINE = "baseline"
SELECTED = "selected"
CONSTANT = "constant"
PRACTICE = "pass_at_1"

MAX_LOO_FOLDS = 60
PARITY_REPEATS = 20

_NO_ORDER = "it gives all rows of a fold one number, and the order between folds means nothing"


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """What one model scores in a split.

    Args:
        scores: by name.
        differences: to the baseline, by name of the score; empty for the baseline itself.
        predicted: (n,) what was scored, higher is better; None for parity, or if `problem`.
        sd: over the repeats of parity, by name.
        problem: why the model has no scores.
    """

    scores: Mapping[str, Interval]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    predicted: FloatArray | None = None
    sd: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split: how many rows and groups are scored, and each model's scores."""

    name: str
    n_rows: int
    n_groups: int
    models: Mapping[str, ModelScores]


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What a validation found.

    Args:
        splits: by name.
        n_rows, n_groups: with an outcome.
        noise_ceiling_r2: the R2 of who knows all true outcomes; None if errors are unknown.
        default_model: name of the frozen default.
        baseline: the model that differences are to.
        baseline_column: the column of the model `baseline`, if one was named.
        clear: which pairs count as clearly different.
        notes: what a reader has to know.
    """

    splits: Mapping[str, SplitReport]
    n_rows: int
    n_groups: int
    noise_ceiling_r2: float | None
    default_model: str
    baseline: str
    baseline_column: str | None
    clear: ClearRule
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            **{name: _split_dict(split) for name, split in self.splits.items()},
            "noise_ceiling_r2": self.noise_ceiling_r2,
            "n_rows": self.n_rows,
            "n_groups": self.n_groups,
            "default_model": self.default_model,
            "baseline": self.baseline,
            "baseline_column": self.baseline_column,
            "clear_rule": str(self.clear),
            "differences": {
                name: {
                    model: {key: vars(d) for key, d in found.differences.items()}
                    for model, found in split.models.items()
                    if found.differences
                }
                for name, split in self.splits.items()
            },
            "notes": list(self.notes),
        }


def validate(
    table: TrainingTable,
    models: Sequence[str] | Mapping[str, MakeModel] = ("default",),
    splits: Sequence[str] = SPLITS,
    holdout: TrainingTable | None = None,
    baseline: str | None = None,
    n_draws: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    n_jobs: int | None = None,
) -> ValidationReport:
    """How good models are on rows that they have not seen.

    Args:
        table: rows without an outcome are left aside.
        models: names of `models.model_names`, "default" or "all"; or own ones, by name, the first
            as the default. The baselines are always there.
        splits: of `SPLITS`.
        holdout: another table with the same columns, to be predicted from all rows of this one.
        baseline: column of `X`; the line through it is what differences are to. By default it is
            the line through pass@1 if there is one, else the constant.
        n_draws: of the bootstrap.
        seed: of the bootstrap, the halves of parity, and the parts of leave-one-out.
        progress: told of each batch of fits.
        n_jobs: processes at most; by default one a core.

    Raises:
        ConfigError: if a split, a model or the baseline is unknown, fewer than 3 rows have an
            outcome, or all outcomes are the same.
    """
    known = _usable(table.with_outcome())
    _check(known, splits, baseline)
    made, default = _made(models, known)
    if baseline is not None:
        made[BASELINE] = partial(OneProxy, [baseline])
    run = _Validation(known, made, _compared_to(made), n_draws, seed)
    plan = run.plan(splits)
    run.fits = FoldRuns(known, made, n_jobs)
    run.fits.run(plan, progress)
    found = {name: run.split(name) for name in SPLITS if name in splits and run.can(name)}
    if holdout is not None:
        found[HOLDOUT] = run.holdout(holdout.with_outcome())
    return ValidationReport(
        splits=found,
        n_rows=len(known),
        n_groups=run.n_groups,
        noise_ceiling_r2=noise_ceiling_r2(known.y, known.y_error),
        default_model=default,
        baseline=run.baseline,
        baseline_column=baseline,
        clear=run.rule,
        notes=tuple([*known.notes, *run.notes(splits), *run.fits.warnings()]),
    )


def _usable(table: TrainingTable) -> TrainingTable:
    """The table without proxies that no row with an outcome has, and notes on those of one group.

    Raises:
        ConfigError: if no proxy is left.
    """
    notes, columns = [], []
    for column in table.columns:
        groups = np.unique(table.groups[np.isfinite(table.X[column.name])])
        if len(groups):
            columns.append(column)
        else:
            notes.append(f"{column.name} is left out: no row with an outcome has it")
        if len(groups) == 1 and len(np.unique(table.groups)) > 1:
            notes.append(
                f"{column.name} is known in group {groups[0]} alone: fits without it go without "
                "the column"
            )
    if not columns and len(table):
        raise ConfigError("no proxy has a number in a row with an outcome")
    return replace(table, columns=tuple(columns), notes=(*table.notes, *notes))


def _check(table: TrainingTable, splits: Sequence[str], baseline: str | None) -> None:
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise ConfigError(f"there is no split {unknown[0]!r}", fix=f"Known: {', '.join(SPLITS)}")
    if len(table) < MIN_ROWS:
        raise ConfigError(
            f"{len(table)} rows have an outcome; validation needs {MIN_ROWS}",
            fix="Record more outcomes (`rlready outcome`)",
        )
    if np.ptp(table.y) == 0:
        raise ConfigError(
            f"all {len(table)} outcomes are {table.shown(table.y)[0]:g}",
            why="there is no difference that a prediction could tell",
        )
    if baseline is not None and baseline not in table.X.columns:
        raise ConfigError(
            f"the table has no column {baseline!r} for the baseline",
            fix=f"Its columns: {', '.join(map(str, table.X.columns))}",
        )


def _made(
    models: Sequence[str] | Mapping[str, MakeModel], table: TrainingTable
) -> tuple[dict[str, MakeModel], str]:
    if isinstance(models, Mapping):
        own = dict(models)
        own.setdefault(CONSTANT, NamedModel(CONSTANT, table.columns))
        return own, next(iter(own))
    possible = model_names(table.columns)
    names = list(dict.fromkeys(DEFAULT_MODEL if m == "default" else m for m in models))
    if "all" in names:
        names = [DEFAULT_MODEL, *possible]
    names += [name for name in possible if name in BASELINES]
    for name in names:
        make_model(name, table.columns)  # refuses an unknown name
    return {name: NamedModel(name, table.columns) for name in names}, DEFAULT_MODEL


def _compared_to(made: Mapping[str, MakeModel]) -> str:
    """The practice that others have to beat: the named column, else pass@1, else one number."""
    return next(name for name in (BASELINE, PRACTICE, CONSTANT) if name in made)


class _Validation:
    """The state that the splits of one validation share."""

    def __init__(
        self,
        table: TrainingTable,
        made: dict[str, MakeModel],
        baseline: str,
        n_draws: int,
        seed: int,
    ) -> None:
        self.table, self.made, self.baseline, self.seed = table, made, baseline, seed
        self.fits: FoldRuns
        self.n_draws = n_draws
        self.rule = clear_rule(table.y, table.y_error)
        self.draws = resampling(table.groups, n_draws, seed)
        self.n_groups = self.draws.n_groups
        blocks = np.unique(self.draws.blocks)
        self.blocks = [np.flatnonzero(self.draws.blocks == b).astype(np.intp) for b in blocks]
        self.folds = {
            "loo": _leave_one_out(table, seed),
            "group": leave_group_out(table),
        }
        rng = np.random.default_rng(seed)
        half = len(table) // 2
        self.halves: list[Rows] = [
            np.sort(rng.permutation(len(table))[:half]).astype(np.intp)
            for _ in range(PARITY_REPEATS)
        ]

    def can(self, split: str) -> bool:
        """Whether the table allows the split."""
        if split == "group":
            return self.n_groups > 1
        return split != "parity" or len(self.table) >= 2 * MIN_ROWS

    def plan(self, splits: Sequence[str]) -> dict[str, list[Rows]]:
        """Which rows each model has to be fitted without."""
        sets: list[Rows] = []
        for name in splits:
            if self.can(name):
                sets += self.folds.get(name, self.halves)
        if "group" in splits and self.can("group") and len(self.blocks) > 2:
            sets += [_union(a, b) for a, b in combinations(self.blocks, 2)]
        return dict.fromkeys(self.made, sets)

    def notes(self, splits: Sequence[str]) -> list[str]:
        """What a reader has to know about the splits."""
        told = [units_note(self.draws)]
        if "group" in splits and not self.can("group"):
            told.append("one group: no group can be left out (--group COL names the groups)")
        if "parity" in splits and not self.can("parity"):
            told.append(f"parity needs {2 * MIN_ROWS} rows: {len(self.table)} have an outcome")
        if "loo" in splits and len(self.table) > MAX_LOO_FOLDS:
            told.append(f"loo: {MAX_LOO_FOLDS} random parts of {len(self.table)} rows")
        twins = len(self.table) - len(_distinct(self.table))
        if "loo" in splits and twins:
            told.append(f"{twins} rows repeat the proxies of another row: they share its fold")
        return [text for text in told if text]

    def split(self, name: str) -> SplitReport:
        """The scores of every model in one split."""
        if name == "parity":
            return self._parity()
        runs = {
            model: [self.fits.without(model, rows) for rows in self.folds[name]]
            for model in self.made
        }
        refits = {model: self._refits(model) if name == "group" else None for model in self.made}
        out_of_fold = {model: _assembled(self.folds[name], found) for model, found in runs.items()}
        no_order = {
            model: _NO_ORDER if all(run.is_constant for run in found) else ""
            for model, found in runs.items()
        }
        problems = {
            model: next((run.problem for run in found if run.problem), "")
            for model, found in runs.items()
        }
        if name == "group":
            chosen = self._selected(out_of_fold, refits, problems)
            if chosen is not None:
                out_of_fold[SELECTED], refits[SELECTED] = chosen, None
        boots = {
            model: Bootstrapped(
                self._scorer(self.table, predicted),
                self.draws,
                refits[model],
                no_order.get(model, ""),
            )
            for model, predicted in out_of_fold.items()
            if not problems.get(model)
        }
        return self._report(name, self.table, self.n_groups, boots, out_of_fold, problems)

    def holdout(self, other: TrainingTable) -> SplitReport:
        """The scores of every model, fitted to all rows, on another table."""
        if len(other) < MIN_ROWS:
            raise ConfigError(
                f"the holdout table has {len(other)} rows with an outcome; scores need {MIN_ROWS}"
            )
        draws = resampling(other.groups, self.n_draws, self.seed)
        predicted = {}
        for model, make in self.made.items():
            with warnings.catch_warnings():
                # The same fits warned in the folds, and notes tell of it.
                warnings.simplefilter("ignore")
                predicted[model] = np.asarray(fit_model(make, self.table).predict(other.X))
        boots = {
            model: Bootstrapped(self._scorer(other, values), draws)
            for model, values in predicted.items()
        }
        return self._report(HOLDOUT, other, draws.n_groups, boots, predicted, {})

    def _scorer(self, table: TrainingTable, predicted: FloatArray) -> Scorer:
        return Scorer(table.y, predicted, table.groups, table.y_error, rule=self.rule)

    def _report(
        self,
        name: str,
        table: TrainingTable,
        n_groups: int,
        boots: Mapping[str, Bootstrapped],
        predicted: Mapping[str, FloatArray],
        problems: Mapping[str, str],
    ) -> SplitReport:
        models = {}
        base = boots.get(self.baseline)
        for model in predicted:
            if problems.get(model):
                models[model] = _nothing(len(table), problems[model])
                continue
            own = boots[model]
            models[model] = ModelScores(
                scores={score: own.interval(score) for score in ALL},
                differences={}
                if base is None or own is base
                else {score: own.minus(base, score) for score in ALL},
                predicted=predicted[model],
            )
        return SplitReport(name=name, n_rows=len(table), n_groups=n_groups, models=models)

    def _refits(self, model: str) -> FloatArray | None:
        """(n_blocks, n) out-of-fold predictions in the table without each block, NaN for its rows.

        A model is fitted without each pair of blocks; it predicts either in the table without the
        other.
        """
        if len(self.blocks) < 3:
            return None
        found = np.full((len(self.blocks), len(self.table)), np.nan)
        for a, b in combinations(range(len(self.blocks)), 2):
            run = self.fits.without(model, _union(self.blocks[a], self.blocks[b]))
            if run.problem:
                return None
            found[a, self.blocks[b]] = run.predicted[self.blocks[b]]
            found[b, self.blocks[a]] = run.predicted[self.blocks[a]]
        return found

    def _selected(
        self,
        out_of_fold: Mapping[str, FloatArray],
        refits: Mapping[str, FloatArray | None],
        problems: Mapping[str, str],
    ) -> FloatArray | None:
        """(n,) of each row the prediction of the model that was best without the row's block."""
        able = [
            model
            for model, found in refits.items()
            if found is not None and not problems[model] and model not in (BASELINE, *BASELINES)
        ]
        if len(able) < 2:
            return None
        chosen = np.full(len(self.table), np.nan)
        for block, rows in enumerate(self.blocks):
            rest = self.draws.left_out[block] > 0
            best = max(able, key=lambda model: self._merit(refits[model], block, rest))
            chosen[rows] = out_of_fold[best][rows]
        return chosen

    def _merit(
        self, refit: FloatArray | None, block: int, rest: np.ndarray[Any, Any]
    ) -> tuple[float, float]:
        if refit is None:
            return (-np.inf, -np.inf)
        y, predicted = self.table.y[rest], refit[block, rest]
        decided = score_of("decision_accuracy", y, predicted)
        return (decided if decided is not None else 0.0, -float(np.mean((y - predicted) ** 2)))

    def _parity(self) -> SplitReport:
        """Every model, and a line through each proxy, on the other half of random halves."""
        models = {}
        for model in self.made:
            runs = [self.fits.without(model, rows) for rows in self.halves]
            problem = next((run.problem for run in runs if run.problem), "")
            models[model] = (
                _nothing(len(self.table), problem) if problem else self._over_halves(runs)
            )
        for column in self.table.columns:
            runs = [self._line(column.name, rows) for rows in self.halves]
            models[f"line({column.name})"] = self._over_halves(runs)
        return SplitReport(
            name="parity", n_rows=len(self.table), n_groups=self.n_groups, models=models
        )

    def _line(self, column: str, left_out: Rows) -> FoldRun:
        """A line through one proxy as it is, without the ceremony of an estimator.

        A row without the proxy counts as one in the middle, as for `OneProxy`.
        """
        x = self.table.X[column].to_numpy(dtype=np.float64)
        is_fitted = np.isfinite(x)
        is_fitted[left_out] = False
        middle = x[is_fitted].mean() if is_fitted.any() else 0.0
        gap = np.where(np.isfinite(x), x - middle, 0.0)
        y = self.table.y[is_fitted] if is_fitted.any() else np.delete(self.table.y, left_out)
        spread = float(gap[is_fitted] @ gap[is_fitted])
        is_flat = spread <= 1e-18 * (1.0 + middle**2) * len(y)
        slope = 0.0 if is_flat else float(gap[is_fitted] @ y) / spread
        return FoldRun(predicted=y.mean() + slope * gap)

    def _over_halves(self, runs: Sequence[FoldRun]) -> ModelScores:
        y, error = self.table.y, self.table.y_error
        found = [
            Scorer(y[rows], run.predicted[rows], y_error=error[rows], rule=self.rule).scores(SCORES)
            for rows, run in zip(self.halves, runs, strict=True)
        ]
        intervals, sds = {}, {}
        for name in SCORES:
            values = np.array([s[name].value for s in found if s[name].value is not None])
            if not len(values):
                intervals[name] = Interval(score=found[0][name])
                continue
            lo, hi = np.quantile(values, [0.025, 0.975])
            intervals[name] = Interval(
                score=Score(value=float(values.mean()), n=len(values)), lo=float(lo), hi=float(hi)
            )
            sds[name] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return ModelScores(scores=intervals, sd=sds)


def _leave_one_out(table: TrainingTable, seed: int) -> list[Rows]:
    """Each row alone, or with the rows whose proxies are exactly its own: they would tell it."""
    kind, leaders = _kinds(table), _distinct(table)
    folds = leave_one_out(table.rows(leaders), at_most=MAX_LOO_FOLDS, seed=seed)
    return [np.flatnonzero(np.isin(kind, kind[leaders[rows]])).astype(np.intp) for rows in folds]


def _kinds(table: TrainingTable) -> Rows:
    """(n,) a number that rows share whose group and proxies are the same."""
    proxies = table.X[[GROUP, *(column.name for column in table.columns)]]
    found = proxies.groupby(list(proxies.columns), dropna=False, sort=False).ngroup()
    return np.asarray(found, dtype=np.intp)


def _distinct(table: TrainingTable) -> Rows:
    """The first row of each kind."""
    return np.unique(_kinds(table), return_index=True)[1].astype(np.intp)


def _union(a: Rows, b: Rows) -> Rows:
    return np.union1d(a, b).astype(np.intp)


def _assembled(folds: Sequence[Rows], runs: Sequence[FoldRun]) -> FloatArray:
    """(n,) of each row what the model says that has not seen it."""
    found = np.full(sum(len(rows) for rows in folds), np.nan)
    for rows, run in zip(folds, runs, strict=True):
        found[rows] = run.predicted[rows]
    return found


def _nothing(n: int, problem: str) -> ModelScores:
    empty = Interval(score=Score(value=None, n=n, reason=problem))
    return ModelScores(scores=dict.fromkeys(ALL, empty), problem=problem)


def _split_dict(split: SplitReport) -> dict[str, Any]:
    return {
        model: {
            name: {
                **_interval_dict(interval),
                **({"sd": found.sd[name]} if name in found.sd else {}),
            }
            for name, interval in found.scores.items()
        }
        for model, found in split.models.items()
    }


def _interval_dict(interval: Interval) -> dict[str, Any]:
    score = interval.score
    found: dict[str, Any] = {"value": score.value, "lo": interval.lo, "hi": interval.hi}
    found["n"] = score.n
    if score.reason:
        found["reason"] = score.reason
    if interval.jackknife is not None:
        found["one_left_out"] = list(interval.jackknife)
    return found
