"""Rank and plan from the first day, by public outcomes and few or no outcomes of the user.

No predictor needs to be fitted. The order and its chances come from `predictors/public`; the level
of a group is unknown until an outcome is recorded in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.calibration.intervals import MIN_ROWS
from rlready.predictors.decisions.prior_ranking import (
    PriorRanking,
    places_by_paper,
    rank_by_prior,
)
from rlready.predictors.decisions.rl_plan import Incumbent, PlanRule, plan, true_scores
from rlready.predictors.public.order import order_checkpoints
from rlready.predictors.public.posterior import OrderPosterior
from rlready.predictors.training_table import FloatArray, Kind
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.predictors.store import DEFAULT_NAME, has_predictor
from rlready.workflow.predict.own_style import StyledTable, with_own_style
from rlready.workflow.predict.plan import TARGET_UNIT, PlanReport
from rlready.workflow.predict.registry_table import (
    RegistryTable,
    checked_groups,
    practice_column,
    registry_table,
)

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore

PUBLIC = "public outcomes"
"""Value that replaces the address of a predictor if none is fitted."""

_PAPER_POLICY = "paper's rule"
_LEVEL = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstDay:
    """The registry's rows, with their order by public and recorded outcomes.

    Args:
        styled: the rows, with the losses of their own style.
        order: order of the rows.
    """

    styled: StyledTable
    order: OrderPosterior

    @property
    def data(self) -> RegistryTable:
        """The registry's rows."""
        return self.styled.data

    @property
    def values(self) -> tuple[FloatArray, FloatArray]:
        """The (n,) expected outcomes and their standard deviations, in the outcome's unit.

        They are NaN in a group without a recorded outcome, whose level is unknown.
        """
        expected = self.order.predictive()
        groups = self.data.table.groups
        has_level = np.isin(groups, groups[np.isfinite(self.data.table.y)])
        mean = np.clip(expected.mean, *_ends(self))
        sd = np.hypot(expected.row_sd, expected.group_sd)
        return np.where(has_level, mean, np.nan), np.where(has_level, sd, np.nan)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader on the table, and on what to do next."""
        n, table = self.order.n_outcomes, self.data.table
        hint = (
            f"{n} outcomes are enough for a predictor of your own: rlready fit"
            if n >= MIN_ROWS
            else "record the outcomes of RL runs (`rlready outcome`): each one counts at once"
        )
        notes = [*self.data.notes, *filter(None, [self.styled.note]), hint]
        n_exact = int((np.isfinite(table.y) & ~np.isfinite(table.y_error)).sum())
        if n_exact:
            notes.append(f"{n_exact} outcomes have no standard error: they are taken as exact")
        return tuple(notes)


@dataclass(frozen=True, kw_only=True)
class PriorPlan:
    """A plan from public outcomes.

    Args:
        report: the plan.
        ranking: the ranking on which the plan is based.
        unit: unit of the regrets.
    """

    report: PlanReport
    ranking: PriorRanking
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as one JSON object, as `rlready plan --json` does, with its basis."""
        ranking = self.ranking.to_dict()
        shared = ("basis", "n_outcomes", "track_record", "most_certain", "warnings", "paper_rule")
        return {
            **self.report.to_dict(),
            "unit": self.unit,
            **{key: ranking[key] for key in shared},
        }


def is_first_day(store: MlflowStore, reference: str) -> bool:
    """Return whether the default predictor is named, and no such predictor is fitted yet."""
    return reference == DEFAULT_NAME and not has_predictor(store, reference)


def check_has_predictor(store: MlflowStore, reference: str) -> None:
    """Refuse a plan of RL steps before a predictor is fitted.

    Raises:
        ConfigError: if the default predictor is named, and no such predictor is fitted yet.
    """
    if is_first_day(store, reference):
        raise ConfigError(
            "no predictor is fitted yet, and RL steps are planned by one",
            why="public outcomes do not say how far the score of a half-finished run will change",
            fix="Plan whole runs with --rl-runs N, which needs no predictor; with "
            f"{MIN_ROWS} outcomes or more, run `rlready fit`",
        )


def first_day(
    store: MlflowStore,
    *,
    target: str | None = None,
    own_style: Sequence[str] = (),
    kinds: Sequence[str] = (),
    may_be_alone: bool = False,
) -> FirstDay:
    """Return the registry's checkpoints with their order by public and recorded outcomes.

    Args:
        store: the registry.
        target: column of the outcome; may be left out if there is at most one.
        own_style: held-out sets of the checkpoints' own style; by default from the recipes.
        kinds: `COL=KIND[:SIGN]`, see `training_table`.
        may_be_alone: whether one single checkpoint, which has no order, is accepted.

    Raises:
        ConfigError: if no two checkpoints of a group share a proxy, if three or more outcomes are
            all equal, or if a name is unknown.
    """
    data = registry_table(store, target=target, needs_outcome=False, kinds=kinds)
    styled = with_own_style(data, own_style)
    table = styled.data.table
    if not may_be_alone or len(table) > 1:
        _check_comparable(styled.data)
    order = order_checkpoints(table.X, table.columns, table.y, own_style=styled.columns)
    return FirstDay(styled=styled, order=order)


def _check_comparable(data: RegistryTable) -> None:
    """Refuse a registry in which no two checkpoints of a group share a proxy."""
    table = data.table
    sizes = dict(zip(*np.unique(table.groups, return_counts=True), strict=True))
    if max(sizes.values()) < 2:
        raise ConfigError(
            f"no group has two checkpoints: {', '.join(f'{g} has 1' for g in sizes)}",
            why="public outcomes tell the order inside a group and not its level",
            fix="Evaluate another SFT checkpoint of the same base model; or, with "
            f"{MIN_ROWS} outcomes or more, run `rlready fit`, which compares groups",
        )
    names = [column.name for column in table.columns]
    measured = np.isfinite(table.X[names].to_numpy(dtype=float))
    if not any((measured[table.groups == group].sum(axis=0) > 1).any() for group in sizes):
        raise ConfigError(
            "no two checkpoints of a group share a proxy",
            why=f"of {', '.join(names)}, each was measured on one checkpoint of a group at most",
            fix="Evaluate them on the same benchmarks with the same settings",
        )


def rank_first_day(day: FirstDay, *, groups: Sequence[str] = (), top_n: int = 3) -> PriorRanking:
    """Rank the registry's checkpoints inside their groups.

    Args:
        day: the checkpoints and their order.
        groups: rank only these groups; by default all.
        top_n: the N of P(top N).

    Raises:
        ConfigError: if there is no such group.
    """
    table = day.data.table
    checked_groups(table, groups)
    return rank_by_prior(
        day.order,
        day.data.names,
        groups=groups,
        by_paper=places_by_paper(table.X, table.columns, table.groups, day.styled.columns),
        top_n=top_n,
        level=_LEVEL,
        target=day.data.target,
        ends=_ends(day),
        errors=table.y_error,
        lower_is_better=table.lower_is_better,
    )


def _ends(day: FirstDay) -> tuple[float, float]:
    """Return the ends of the outcome's scale: 0..1 if outcomes and proxies are shares."""
    table = day.data.table
    y = table.y[np.isfinite(table.y)]
    has_shares = any(column.kind is Kind.PROBABILITY for column in table.columns)
    is_share = has_shares and not table.lower_is_better and len(y) > 0
    return (0.0, 1.0) if is_share and y.min() >= 0 and y.max() <= 1 else (-np.inf, np.inf)


def plan_first_day(
    day: FirstDay, n_runs: int, *, rl_noise: float | None = None, rule: PlanRule | None = None
) -> PriorPlan:
    """Return the checkpoints that get the next RL runs, and what each run is worth.

    Candidates are the checkpoints without an outcome. Regrets are in the outcome's unit, or in
    standard deviations inside a group if no outcome is recorded.

    Args:
        day: the checkpoints and their order.
        n_runs: number of RL runs that can be paid.
        rl_noise: standard deviation of one RL run's score; by default from the outcomes' errors.
        rule: policy, draws, seed.

    Raises:
        ConfigError: if every checkpoint has its outcome, or a number is invalid.
    """
    table, names = day.data.table, day.data.names
    rows = np.flatnonzero(~np.isfinite(table.y))
    if not len(rows):
        raise ConfigError(
            f"all {len(table)} checkpoints have an outcome",
            why="a plan is for checkpoints that had no RL run yet",
            fix="Evaluate further SFT checkpoints",
        )
    has_unit = day.order.n_outcomes > 0
    notes = list(day.notes)
    errors = table.y_error[np.isfinite(table.y_error)]
    noise = float(np.sqrt(np.mean(errors**2))) if len(errors) else 0.0
    if rl_noise is not None:
        noise = rl_noise
        if not has_unit and rl_noise > 0:
            noise = 0.0
            notes.append("the noise of RL is not used: without an outcome its unit is unknown")
    elif not len(errors):
        notes.append(
            "the noise of one RL run is unknown: it is part of the prediction error, and an RL "
            "run is taken as exact"
        )
    if len(np.unique(table.groups)) > 1:
        notes.append(
            "the level of a group without an outcome is unknown: it is taken to be that of the "
            "others, plus or minus one standard deviation inside a group"
        )
    predictive = true_scores(day.order.predictive().rows(rows), noise)
    ranking = rank_first_day(day)
    chosen = plan(
        predictive,
        [names[i] for i in rows],
        n_runs,
        rl_noise=noise,
        incumbent=_incumbent(day, noise),
        scores=_scores(day, rows),
        rule=rule,
    )
    report = PlanReport(
        plan=replace(chosen, notes=(*chosen.notes, *notes)),
        target=day.data.target,
        is_retrospective=False,
        realised_regret=None,
        address=PUBLIC,
        practice=practice_column(table),
    )
    unit = TARGET_UNIT if has_unit else "standard deviations of outcomes inside a group"
    return PriorPlan(report=report, ranking=ranking, unit=unit)


def _incumbent(day: FirstDay, noise: float) -> Incumbent | None:
    y = day.data.table.y
    if not np.isfinite(y).any():
        return None
    best = int(np.nanargmax(y))
    return Incumbent(id=day.data.names[best], value=float(y[best]), sd=noise)


def _scores(day: FirstDay, rows: Any) -> dict[str, FloatArray]:
    """Return the scores by which current practice would choose: pass@1 and the paper's rule."""
    table, scores = day.data.table, {}
    practice = practice_column(table)
    if practice is not None and np.isfinite(table.X[practice].to_numpy(dtype=float)[rows]).any():
        values = table.X[practice].to_numpy(dtype=float)[rows]
        scores[practice] = np.where(np.isfinite(values), values, np.nanmin(values))
    places = places_by_paper(table.X, table.columns, table.groups, day.styled.columns)
    if places is not None:
        scores[_PAPER_POLICY] = -np.where(places > 0, places, len(table) + 1)[rows].astype(float)
    return scores
