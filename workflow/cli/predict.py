"""The sub-commands that predict: `fit`, `rank` and `plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import (
    KIND,
    CommonFlags,
    Flag,
    Levels,
    Seed,
    command,
    now_ms,
    split_kinds,
)
from rlready.workflow.terminal import text_width

if TYPE_CHECKING:
    from rlready.predictors.decisions.rl_plan import PlanRule
    from rlready.registry.frozen_prediction import FrozenPrediction
    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.workflow.predict.plan import PlanReport
    from rlready.workflow.predict.steps import StepReport

PREDICTOR = "grpo-predictor"


@dataclass(frozen=True, kw_only=True)
class EarlyFlags:
    """Flags of rankings and plans that use public outcomes.

    Args:
        target: Outcome, as `rlready table` names it, while no predictor is fitted.
            [default: the only one]
        own_style: Held-out set of the checkpoints' own style (repeatable). With few outcomes its
            loss is the best proxy after pass@1.  [default: the set with the name of recipe.style
            or of the largest of recipe.sources]
        kinds: Kind of a proxy whose name does not tell it, as for `rlready fit`, while no predictor
            is fitted (repeatable).
    """

    target: Annotated[str | None, Flag(metavar="KEY")] = None
    own_style: Annotated[tuple[str, ...], Flag(metavar="SET")] = ()
    kinds: Annotated[tuple[str, ...], Flag("--kind", metavar=KIND, split=split_kinds)] = ()

    def check_fitted(self, predictor: str) -> None:
        """Refuse --kind with a fitted predictor, which has the kinds of its fit."""
        if self.kinds:
            raise ConfigError(
                f"--kind is given, and the predictor {predictor} has the kinds of its fit",
                fix="Fit again with --kind, or leave it out",
            )


@command
def fit(
    *,
    target: Annotated[str | None, Flag(metavar="KEY")] = None,
    model: str = "default",
    features: Annotated[tuple[str, ...], Flag(metavar="A,B,...")] = (),
    groups: Annotated[tuple[str, ...], Flag("--group", metavar="COL")] = (),
    levels: Levels = "auto",
    kinds: Annotated[tuple[str, ...], Flag("--kind", metavar=KIND, split=split_kinds)] = (),
    name: str = PREDICTOR,
    level: Annotated[float, click.FloatRange(0.5, 0.99)] = 0.9,
    seed: Seed = 0,
    common: CommonFlags,
) -> None:
    """Fit a predictor of the score after RL on the registry.

    It learns from the checkpoints that have an outcome, 5 or more (`rank` and `plan` also work with
    fewer). It validates the model on rows and groups that it has not seen. The predictor is stored
    with its training table and report as an MLflow model, with the alias `champion`.

    Args:
        target: Outcome to predict, for example value_at_budget/60steps@gsm8k, as `rlready table`
            names it.  [default: the only one]
        model: Name of a model; `rlready validate --model all` compares the models.
        features: Proxies, as `rlready table` names them.  [default: every pass@k, signal_share_8
            and token_entropy on the target's benchmark or the suite's mean, and every heldout_nll]
        groups: Column that names the group of a checkpoint (repeatable): base model, SFT source,
            RL recipe.  [default: recipe.base_model, if there are several]
        levels: Whether the level of a proxy means the same in all groups: comparable, unknown, or
            auto (comparable if the registry measured all groups in the same way).
        kinds: Kind of a proxy whose name does not tell it: loss, accuracy (0 to 1), percent, count
            or plain; then + if larger is better, - if smaller, 0 if unknown (repeatable).
        name: Registered model that the predictor is a version of.
        level: Share of outcomes that intervals should contain.
        seed: Seed of folds and permutations.
        common: The registry and the form of the output.
    """
    from rlready.workflow.cli.views.predict import fit_view
    from rlready.workflow.predict.fit import fit as fit_predictor
    from rlready.workflow.report.log import report_on

    store, clock = common.open_store(), common.clock()
    report = fit_predictor(
        store,
        target=target,
        model=model,
        features=features,
        groups=groups,
        levels=levels,
        kinds=kinds,
        name=name,
        level=level,
        seed=seed,
        say=clock.say,
    )
    clock.say("Writing the report onto the fit's page in MLflow")
    address, note = report_on(store, report.stored.meta.uri)
    values = {**report.to_dict(), "report": address}
    common.show(values, lambda: [*fit_view(report, text_width()), f"note: {note}"])


@command
def rank(
    *,
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    groups: Annotated[tuple[str, ...], Flag("--group", metavar="NAME")] = (),
    top: Annotated[int, click.IntRange(min=1)] = 3,
    no_freeze: bool = False,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    """Rank checkpoints by their expected score after RL.

    For a checkpoint with a recorded outcome, the outcome is used together with the prediction.
    Checkpoints out of the predictor's domain have no rank. If the proxies have no signal, nothing
    is ranked. Before a predictor is fitted, the order inside each group comes from public outcomes
    and the recorded ones; public outcomes are also used with a predictor of fewer than 12 outcomes.
    Predictions are stored once, so that `rlready audit` can judge them later. Pages of checkpoints
    in MLflow show the verdict, unless only some groups are ranked.

    Args:
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        groups: Rank only the checkpoints of this group (repeatable).
        top: N of P(top N).
        no_freeze: Write nothing to the registry: neither predictions for `rlready audit` nor
            pages.
        early: Flags for the use of public outcomes.
        common: The registry and the form of the output.
    """
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.views.predict import prior_ranking_view, ranking_view
    from rlready.workflow.cli.views.validate import kinds_view
    from rlready.workflow.predict.audit import first_day_prediction, frozen_prediction
    from rlready.workflow.predict.first_day import PUBLIC, first_day, is_first_day, rank_first_day
    from rlready.workflow.predict.rank import rank_registry
    from rlready.workflow.predict.tag import tags_of_first_day, tags_of_ranking, write_pages

    made_at = datetime.now(UTC)
    store, own_style = common.open_store(), early.own_style
    made: Callable[..., FrozenPrediction | None]
    if is_first_day(store, predictor):
        day = first_day(store, target=early.target, own_style=own_style, kinds=early.kinds)
        by_prior = rank_first_day(day, groups=groups, top_n=top)
        values = {**by_prior.to_dict(), "predictor": PUBLIC, "notes": list(day.notes)}
        columns, lines = day.data.table.columns, partial(prior_ranking_view, by_prior, day.notes)
        best = [row.id for row in by_prior.rows if row.rank and row.recorded is None][:top]
        made = partial(first_day_prediction, day, by_prior, "rank", best)
        tags = partial(tags_of_first_day, by_prior, day, made_at=made_at)
    else:
        early.check_fitted(predictor)
        ranking, applied = rank_registry(
            store, predictor, groups=groups, top_n=top, own_style=own_style
        )
        values = {
            **ranking.to_dict(),
            "predictor": applied.meta.uri,
            "prior_weight": applied.prior_weight,
            "notes": [applied.remark] if applied.remark else [],
        }
        columns, lines = applied.data.table.columns, partial(ranking_view, ranking, applied)
        best = [row.id for row in ranking.rows if row.rank and row.recorded is None][:top]
        names = {row.id for row in ranking.rows}
        made = partial(frozen_prediction, applied, "rank", best, names=names)
        tags = partial(tags_of_ranking, ranking, applied, made_at=made_at)
    # A place among some groups is not the place among all, which the pages show.
    pages = None if no_freeze or groups else write_pages(store, tags())
    values |= {"kinds": kinds_dict(columns), "pages": pages}
    values["frozen"], notes = _frozen(store, made, no_freeze)
    notes = [*([f"note: {pages}"] if pages else []), *notes]
    common.show(values, lambda: [*lines(), *kinds_view(columns), *notes])


def _frozen(
    store: MlflowStore, made: Callable[..., FrozenPrediction | None], no_freeze: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """Freeze a prediction, which `made` returns; return the JSON values and notes of the result."""
    from rlready.workflow.predict.audit import freeze

    if no_freeze:
        return None, []
    frozen = freeze(store, made(at_ms=now_ms()))
    return vars(frozen), [f"note: {frozen.note}"]


@command
def plan(
    *,
    rl_runs: Annotated[int | None, click.IntRange(min=1), Flag(metavar="N")] = None,
    rl_steps: Annotated[float | None, Flag(metavar="TOTAL")] = None,
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    policy: str = "expected",
    rl_noise: float | None = None,
    figure: Annotated[Path | None, Flag(metavar="FILE.png")] = None,
    no_freeze: bool = False,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    """Choose the checkpoints that get the next N RL runs, and estimate the value of each run.

    With --rl-steps it compares ways to spend a number of RL steps: finish a few runs now, or probe
    more checkpoints first and finish the best of them. No run is dropped before step 40 or a third
    of the budget. Runs that were started are used through their outcomes at smaller budgets.
    Before a predictor is fitted, --rl-runs uses public outcomes and the recorded ones.

    Args:
        rl_runs: RL runs that can be paid for.
        rl_steps: RL steps that can be paid for, instead of --rl-runs; in the unit of the target's
            budget.
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        policy: expected (most expected best), predicted (best predictions), or anchor (as
            predicted, but one run goes to the group whose level is known least).
        rl_noise: Standard deviation of one RL run's score.  [default: from the outcomes' errors]
        figure: Draw regret against runs: realised by earlier plans, and expected of this plan.
        no_freeze: Do not store the predictions for `rlready audit`.
        early: Flags for the use of public outcomes.
        common: The registry and the form of the output.
    """
    from rlready.predictors.decisions.rl_plan import EXPECTED, PlanRule
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.views.predict import plan_view, steps_view
    from rlready.workflow.cli.views.validate import kinds_view
    from rlready.workflow.predict.audit import frozen_prediction
    from rlready.workflow.predict.figures import draw_regret, draw_steps
    from rlready.workflow.predict.first_day import check_has_predictor, is_first_day
    from rlready.workflow.predict.load import load
    from rlready.workflow.predict.plan import plan_applied
    from rlready.workflow.predict.steps import plan_applied_steps

    if (rl_runs is None) == (rl_steps is None):
        raise ConfigError(
            "a plan is for a number of RL runs or for a number of RL steps",
            fix="Give --rl-runs N, or --rl-steps TOTAL",
        )
    rule, own_style = PlanRule(policy=policy), early.own_style
    if rl_steps is not None and policy != EXPECTED:
        raise ConfigError(
            f"--policy {policy} is given with --rl-steps",
            why="RL steps are always planned by the most expected best",
            fix="Leave --policy out, or give --rl-runs N",
        )
    store = common.open_store()
    if rl_runs is not None and is_first_day(store, predictor):
        _plan_first_day(store, rl_runs, rl_noise, rule, figure, no_freeze, early, common)
        return
    check_has_predictor(store, predictor)
    applied = load(store, predictor, own_style=own_style)
    early.check_fitted(predictor)
    report: PlanReport | StepReport
    if rl_steps is not None:
        report = plan_applied_steps(applied, rl_steps, rl_noise=rl_noise)
        view, draw = partial(steps_view, report), partial(draw_steps, report=report)
    elif rl_runs is not None:
        report = plan_applied(applied, rl_runs, rl_noise=rl_noise, rule=rule)
        view, draw = partial(plan_view, report), partial(draw_regret, report=report)
    if figure is not None:
        draw(figure)
    columns = applied.data.table.columns
    values = {**report.to_dict(), "kinds": kinds_dict(columns)}
    made = partial(frozen_prediction, applied, "plan", report.plan.chosen)
    values["frozen"], notes = _frozen(store, made, no_freeze)
    common.show(values, lambda: [*view(), *kinds_view(columns), *notes])


def _plan_first_day(
    store: MlflowStore,
    rl_runs: int,
    rl_noise: float | None,
    rule: PlanRule,
    figure: Path | None,
    no_freeze: bool,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.views.predict import prior_plan_view
    from rlready.workflow.cli.views.validate import kinds_view
    from rlready.workflow.predict.audit import first_day_prediction
    from rlready.workflow.predict.figures import draw_regret
    from rlready.workflow.predict.first_day import first_day, plan_first_day

    day = first_day(store, target=early.target, own_style=early.own_style, kinds=early.kinds)
    columns = day.data.table.columns
    report = plan_first_day(day, rl_runs, rl_noise=rl_noise, rule=rule)
    if figure is not None:
        draw_regret(figure, report.report, unit=report.unit)
    values = {**report.to_dict(), "kinds": kinds_dict(columns)}
    made = partial(first_day_prediction, day, report.ranking, "plan", report.report.plan.chosen)
    values["frozen"], notes = _frozen(store, made, no_freeze)
    common.show(values, lambda: [*prior_plan_view(report), *kinds_view(columns), *notes])
