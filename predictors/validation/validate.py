"""Measure how good a predictor is on checkpoints that it has not seen, against current practice.

Each split answers a different question:

    loo      another checkpoint of groups with known outcomes (rows are left out one by one; over
             60 rows, in 60 random parts)
    group    a checkpoint of a group without any outcome (whole groups are left out)
    parity   as in the seed paper (Kang et al., arXiv 2510.01624): models are fitted to a random
             half of the rows and scored on the other half; mean and sd over repeats. A line
             through each proxy alone is added. Other halves are not other checkpoints: lo and hi
             are the middle 95 % of the repeats, not an interval of the score
    holdout  another table, predicted by models that are fitted to all rows of this one

All splits but parity pool the predictions of all rows and score them once, with intervals that
draw whole groups (`bootstrap`). `selected` chooses among the models inside each training part, by
their predictions for groups left out of that part, so that the choice of a model is scored too.

Pooling biases the order: if a group with a high level is left out, the mean of the training rows is
lower, and the other way round. Which of two checkpoints is better is therefore judged by `pairs`
(rows of different groups, by one fit without both groups), and inside groups by `within`. The split
by groups gives both, and `level`: how well the levels of new groups are predicted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from rlready.predictors.kinds import PRACTICE
from rlready.predictors.models.baselines import OneProxy
from rlready.predictors.models.catalogue import BASELINES, DEFAULT_MODEL, make_model, model_names
from rlready.predictors.training_table import FloatArray, TrainingTable
from rlready.predictors.validation.bootstrap import Bootstrapped, resampling, units_note
from rlready.predictors.validation.fold_runs import FoldRuns, Progress
from rlready.predictors.validation.folds import (
    MakeModel,
    NamedModel,
    Rows,
    assembled,
    fit_model,
    leave_group_out,
    leave_one_out,
    twins,
)
from rlready.predictors.validation.pairs import (
    MIN_GROUPS,
    PAIR_SCORES,
    PairScorer,
    pair_gaps,
    union,
    without_pairs,
)
from rlready.predictors.validation.parity import line_through, over_halves, random_halves
from rlready.predictors.validation.report import (
    PAIRS,
    ModelScores,
    SplitReport,
    ValidationReport,
    without_scores,
)
from rlready.predictors.validation.row_weights import error_notes
from rlready.predictors.validation.scores import (
    ALL,
    MIN_ROWS,
    PredictionScorer,
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

MAX_LOO_FOLDS = 60

_NO_ORDER = "it gives all rows of a fold one number, and the order between folds has no meaning"


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
    """Score models on rows that they have not seen.

    Args:
        table: rows without an outcome are ignored.
        models: names of `model_names`, "default" or "all"; or models by name, the first of which
            is the default. The baselines are always added.
        splits: names of splits, see `SPLITS`.
        holdout: another table with the same columns, to be predicted from all rows of this one.
        baseline: column of `X`; models are compared with the line through it. By default it is
            pass@1; without such a column, models are compared with one number for all rows.
        n_draws: number of bootstrap draws.
        seed: seed of the bootstrap, the halves of parity, and the parts of leave-one-out.
        progress: function that is called after each batch of fits.
        n_jobs: largest number of processes; by default one per core.

    Raises:
        ConfigError: if a split, a model or the baseline is unknown, if fewer than 3 rows have an
            outcome, or if all outcomes or all proxies are the same.

    Example:
        >>> report = validate(table, ("multilevel", "ridge"), ("loo",))  # doctest: +SKIP
        >>> report.splits["loo"].models["ridge"].scores["r2"].score.value  # doctest: +SKIP
    """
    table = _usable(table.with_outcome())
    _check(table, splits, baseline)
    makers, default = _makers(models, table)
    if baseline is not None:
        makers[BASELINE] = partial(OneProxy, [baseline])
    run = _Validation(table, makers, n_draws, seed, n_jobs)
    run.fits.run(run.held_out(splits), progress)
    reports = {name: run.split(name) for name in SPLITS if name in splits and run.can(name)}
    if holdout is not None:
        reports[HOLDOUT] = run.holdout(holdout.with_outcome())
    return ValidationReport(
        splits=reports,
        pairs=run.pairs() if "group" in splits else None,
        n_rows=len(table),
        n_groups=run.draws.n_groups,
        noise_ceiling_r2=noise_ceiling_r2(table.y, table.y_error),
        default_model=default,
        baseline=run.baseline,
        baseline_column=baseline,
        clear=run.rule,
        notes=(*table.notes, *error_notes(table), *run.notes(splits), *run.fits.warnings()),
    )


def _usable(table: TrainingTable) -> TrainingTable:
    """Return the table without empty proxies, with a note on each proxy of one group only.

    Raises:
        ConfigError: if no proxy remains.
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
                f"{column.name} was only measured in group {groups[0]}: fits without this group "
                "do not use it"
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
    table.check_differences()
    if baseline is not None and baseline not in table.X.columns:
        raise ConfigError(
            f"the table has no column {baseline!r} for the baseline",
            fix=f"Its columns: {', '.join(map(str, table.X.columns))}",
        )


def _makers(
    models: Sequence[str] | Mapping[str, MakeModel], table: TrainingTable
) -> tuple[dict[str, MakeModel], str]:
    """Return a function that makes each model, by name, and the name of the default model."""
    if isinstance(models, Mapping):
        makers = dict(models)
        makers.setdefault(CONSTANT, NamedModel(CONSTANT, table.columns))
        return makers, next(iter(makers))
    possible = model_names(table.columns)
    names = list(dict.fromkeys(DEFAULT_MODEL if m == "default" else m for m in models))
    if "all" in names:
        names = [DEFAULT_MODEL, *possible]
    names += [name for name in possible if name in BASELINES]
    for name in names:
        make_model(name, table.columns)  # refuses an unknown name
    return {name: NamedModel(name, table.columns, table.levels) for name in names}, DEFAULT_MODEL


class _Validation:
    """The state that the splits of one validation share."""

    def __init__(
        self,
        table: TrainingTable,
        makers: dict[str, MakeModel],
        n_draws: int,
        seed: int,
        n_jobs: int | None,
    ) -> None:
        self.table, self.makers, self.n_draws, self.seed = table, makers, n_draws, seed
        # Current practice: the named column, or pass@1, or one number for all rows.
        self.baseline = next(name for name in (BASELINE, PRACTICE, CONSTANT) if name in makers)
        self.fits = FoldRuns(table, makers, n_jobs)
        self.rule = clear_rule(table.y, table.y_error)
        self.draws = resampling(table.groups, n_draws, seed)
        blocks = np.unique(self.draws.blocks)
        self.blocks = [np.flatnonzero(self.draws.blocks == b).astype(np.intp) for b in blocks]
        self.folds = {
            "loo": leave_one_out(table, MAX_LOO_FOLDS, seed),
            "group": leave_group_out(table),
        }
        self.halves = random_halves(len(table), seed)

    def can(self, split: str) -> bool:
        """Return whether the table has enough groups and rows for the split."""
        if split == "group":
            return self.draws.n_groups > 1
        return split != "parity" or len(self.table) >= 2 * MIN_ROWS

    @property
    def no_pairs(self) -> str:
        """The reason why rows of different groups cannot be compared; empty if they can."""
        n = self.draws.n_groups
        if n >= MIN_GROUPS:
            return ""
        return (
            f"decisions between groups need {MIN_GROUPS} groups, two to compare and one to learn "
            f"from: this table has {n}"
        )

    def held_out(self, splits: Sequence[str]) -> list[Rows]:
        """Return the sets of rows that each model must be fitted without."""
        sets: list[Rows] = []
        for name in splits:
            if self.can(name):
                sets += self.folds.get(name, self.halves)
        if "group" in splits and not self.no_pairs:
            sets += without_pairs(self.blocks)
        return sets

    def notes(self, splits: Sequence[str]) -> list[str]:
        """Return notes on the splits for the reader."""
        n = len(self.table)
        n_twins = n - len(np.unique(twins(self.table)))
        notes = {
            units_note(self.draws): True,
            "one group: no group can be left out (--group COL names the groups)": "group" in splits
            and not self.can("group"),
            self.no_pairs: "group" in splits and self.can("group"),
            f"parity needs {2 * MIN_ROWS} rows: {n} have an outcome": "parity" in splits
            and not self.can("parity"),
            f"loo: {MAX_LOO_FOLDS} random parts of {n} rows": "loo" in splits and n > MAX_LOO_FOLDS,
            f"{n_twins} rows repeat the proxies of another row: they share its fold": "loo"
            in splits
            and n_twins > 0,
        }
        return [text for text, applies in notes.items() if text and applies]

    def split(self, name: str) -> SplitReport:
        """Return the scores of every model in one split."""
        if name == "parity":
            return self._parity()
        folds = self.folds[name]
        predicted, refits, no_order, problems = {}, {}, {}, {}
        for model in self.makers:
            runs = [self.fits.without(model, rows) for rows in folds]
            predicted[model] = assembled(
                len(self.table),
                folds,
                [run.predicted[rows] for rows, run in zip(folds, runs, strict=True)],
            )
            refits[model] = self._refits(model) if name == "group" else None
            no_order[model] = _NO_ORDER if all(run.is_constant for run in runs) else ""
            problems[model] = next((run.problem for run in runs if run.problem), "")
        if name == "group":
            selected = self._selected(predicted, refits, problems)
            if selected is not None:
                predicted[SELECTED], refits[SELECTED] = selected, None
        boots = {
            model: Bootstrapped(
                self._scorer(self.table, values),
                self.draws,
                refits[model],
                no_order.get(model, ""),
            )
            for model, values in predicted.items()
            if not problems.get(model)
        }
        return self._report(name, self.table, self.draws.n_groups, boots, predicted, problems)

    def pairs(self) -> SplitReport:
        """Return the scores of every model on pairs of rows of different groups."""
        sets = [] if self.no_pairs else without_pairs(self.blocks)
        boots, problems = {}, {}
        for model in self.makers:
            runs = [self.fits.without(model, rows) for rows in sets]
            problems[model] = self.no_pairs or next((r.problem for r in runs if r.problem), "")
            if not problems[model]:
                boots[model] = self._compared(model)
        borda = {model: boot.scorer.predicted for model, boot in boots.items()}
        return self._report(
            PAIRS, self.table, self.draws.n_groups, boots, borda, problems, PAIR_SCORES
        )

    def _compared(self, model: str) -> Bootstrapped:
        gaps = pair_gaps(
            len(self.table), self.blocks, lambda rows: self.fits.without(model, rows).predicted
        )
        scorer = PairScorer(
            self.table.y, gaps, self.table.groups, self.table.y_error, rule=self.rule
        )
        return Bootstrapped(scorer, self.draws, names=PAIR_SCORES)

    def holdout(self, other: TrainingTable) -> SplitReport:
        """Return the scores of every model, fitted to all rows, on another table."""
        if len(other) < MIN_ROWS:
            raise ConfigError(
                f"the holdout table has {len(other)} rows with an outcome; scores need {MIN_ROWS}"
            )
        draws = resampling(other.groups, self.n_draws, self.seed)
        predicted = {}
        for model, make in self.makers.items():
            with warnings.catch_warnings():
                # The same model already warned in the folds, and the notes report it.
                warnings.simplefilter("ignore")
                predicted[model] = np.asarray(fit_model(make, self.table).predict(other.X))
        boots = {
            model: Bootstrapped(self._scorer(other, values), draws)
            for model, values in predicted.items()
        }
        return self._report(HOLDOUT, other, draws.n_groups, boots, predicted, {})

    def _scorer(self, table: TrainingTable, predicted: FloatArray) -> PredictionScorer:
        return PredictionScorer(table.y, predicted, table.groups, table.y_error, rule=self.rule)

    def _report(
        self,
        name: str,
        table: TrainingTable,
        n_groups: int,
        boots: Mapping[str, Bootstrapped],
        predicted: Mapping[str, FloatArray],
        problems: Mapping[str, str],
        names: Sequence[str] = ALL,
    ) -> SplitReport:
        models = {}
        base = boots.get(self.baseline)
        for model in {**problems, **predicted}:
            if problems.get(model):
                models[model] = without_scores(len(table), problems[model], names)
                continue
            boot = boots[model]
            is_compared = base is not None and boot is not base
            models[model] = ModelScores(
                scores={score: boot.interval(score) for score in names},
                differences={score: boot.minus(base, score) for score in names}
                if base is not None and is_compared
                else {},
                predicted=predicted[model],
            )
        return SplitReport(name=name, n_rows=len(table), n_groups=n_groups, models=models)

    def _refits(self, model: str) -> FloatArray | None:
        """Return (n_blocks, n) out-of-fold predictions, each row for the table without one block.

        A model is fitted without each pair of blocks. It predicts each block of the pair for the
        table without the other one. The rows of the block itself are NaN.
        """
        if self.no_pairs:
            return None
        refits = np.full((len(self.blocks), len(self.table)), np.nan)
        for a, b in combinations(range(len(self.blocks)), 2):
            run = self.fits.without(model, union(self.blocks[a], self.blocks[b]))
            if run.problem:
                return None
            refits[a, self.blocks[b]] = run.predicted[self.blocks[b]]
            refits[b, self.blocks[a]] = run.predicted[self.blocks[a]]
        return refits

    def _selected(
        self,
        predicted: Mapping[str, FloatArray],
        refits: Mapping[str, FloatArray | None],
        problems: Mapping[str, str],
    ) -> FloatArray | None:
        """Return the (n,) predictions of the model that was best without each row's block."""
        able = {
            model: refit
            for model, refit in refits.items()
            if refit is not None and not problems[model] and model not in (BASELINE, *BASELINES)
        }
        if len(able) < 2:
            return None
        selected = np.full(len(self.table), np.nan)
        for block, rows in enumerate(self.blocks):
            rest = self.draws.left_out[block] > 0
            merits = {m: self._merit(refit[block, rest], rest) for m, refit in able.items()}
            selected[rows] = predicted[max(merits, key=merits.__getitem__)][rows]
        return selected

    def _merit(self, predicted: FloatArray, rest: np.ndarray[Any, Any]) -> tuple[float, float]:
        y = self.table.y[rest]
        decided = score_of("decision_accuracy", y, predicted)
        return decided or 0.0, -float(np.mean((y - predicted) ** 2))

    def _parity(self) -> SplitReport:
        """Score every model, and a line through each proxy, on the other half of random halves."""
        models = {}
        for model in self.makers:
            runs = [self.fits.without(model, rows) for rows in self.halves]
            problem = next((run.problem for run in runs if run.problem), "")
            models[model] = (
                without_scores(len(self.table), problem)
                if problem
                else over_halves(self.table, self.halves, runs, self.rule)
            )
        for column in self.table.columns:
            runs = [line_through(self.table, column.name, rows) for rows in self.halves]
            models[f"line({column.name})"] = over_halves(self.table, self.halves, runs, self.rule)
        return SplitReport(
            name="parity", n_rows=len(self.table), n_groups=self.draws.n_groups, models=models
        )
