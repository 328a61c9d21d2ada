"""The sub-commands that predict: `fit`, `rank` and `plan`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import KIND, CommonFlags, Flag, Levels, Seed, command, split_kinds
from rlready.workflow.terminal import text_width

PREDICTOR = "grpo-predictor"


@dataclass(frozen=True, kw_only=True)
class EarlyFlags:
    """Flags for what public outcomes are applied to.

    Args:
        target: Outcome, as `rlready table` names it, while no predictor is fitted.
            [default: the only one]
        own_style: Held-out set of the checkpoints' own style, whose loss says most beside pass@1
            while outcomes are few (repeatable).  [default: the set that is named like
            recipe.style or the largest of recipe.sources]
        kinds: Kind of a proxy whose name does not tell it, as for `rlready fit`, while no predictor
            is fitted (repeatable).
    """

    target: Annotated[str | None, Flag(metavar="KEY")] = None
    own_style: Annotated[tuple[str, ...], Flag(metavar="SET")] = ()
    kinds: Annotated[tuple[str, ...], Flag("--kind", metavar=KIND, split=split_kinds)] = ()

    def check_fitted(self, predictor: str) -> None:
        """Refuse kinds beside a fitted predictor, which has those of its fit."""
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

    Learns from the checkpoints that have an outcome, 5 or more (`rank` and `plan` answer with
    fewer), validates on rows and groups that the model
    has not seen, and stores the predictor with its training table and report as an MLflow model,
    with the alias `champion`.

    Args:
        target: Outcome to predict, for example value_at_budget/60steps@gsm8k, as `rlready table`
            names it.  [default: the only one]
        model: Name of a model: `rlready validate --model all` compares them.
        features: Proxies, as `rlready table` names them.  [default: every pass@k, signal_share_8
            and token_entropy on the target's benchmark or the suite's mean, and every heldout_nll]
        groups: Column that names the group of a checkpoint (repeatable): base model, SFT source,
            RL recipe.  [default: recipe.base_model, if there are several]
        levels: Whether the level of a proxy means the same in all groups: comparable, unknown, or
            auto (comparable where the registry measured all groups in the same way).
        kinds: Kind of a proxy whose name does not tell it: loss, accuracy (0 to 1), percent, count
            or plain; then + if larger is better, - if smaller, 0 if unknown (repeatable).
        name: Registered model that the predictor is a version of.
        level: Share of outcomes that intervals should contain.
        seed: Seed of folds and permutations.
        common: The registry and the form of the output.
    """
    from rlready.workflow.cli.predict_view import fit_view
    from rlready.workflow.predict.fit import fit as fit_predictor

    report = fit_predictor(
        common.open_store(),
        target=target,
        model=model,
        features=features,
        groups=groups,
        levels=levels,
        kinds=kinds,
        name=name,
        level=level,
        seed=seed,
        say=common.clock().say,
    )
    common.show(report.to_dict(), lambda: fit_view(report, text_width()))


@command
def rank(
    *,
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    groups: Annotated[tuple[str, ...], Flag("--group", metavar="NAME")] = (),
    top: Annotated[int, click.IntRange(min=1)] = 3,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    """Rank checkpoints by what is known of their score after RL.

    A recorded outcome counts for its checkpoint; the others stand by their prediction. Checkpoints
    out of the predictor's domain have no rank, and without a signal in the proxies nothing has.
    Before a predictor is fitted, the order inside each group comes from public outcomes and from
    those that are recorded; with a predictor of fewer than 12 outcomes they still count.

    Args:
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        groups: Rank only the checkpoints of this group (repeatable).
        top: N of P(top N).
        early: What public outcomes are applied to.
        common: The registry and the form of the output.
    """
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.predict_view import prior_ranking_view, ranking_view
    from rlready.workflow.cli.validate_view import kinds_view
    from rlready.workflow.predict.first_day import PUBLIC, first_day, is_first_day, rank_first_day
    from rlready.workflow.predict.rank import rank_registry

    store, own_style = common.open_store(), early.own_style
    if is_first_day(store, predictor):
        day = first_day(store, target=early.target, own_style=own_style, kinds=early.kinds)
        columns = day.data.table.columns
        by_prior = rank_first_day(day, groups=groups, top_n=top)
        values = {
            **by_prior.to_dict(),
            "predictor": PUBLIC,
            "kinds": kinds_dict(columns),
            "notes": list(day.notes),
        }
        common.show(
            values, lambda: [*prior_ranking_view(by_prior, day.notes), *kinds_view(columns)]
        )
        return
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
    common.show(values, lambda: ranking_view(ranking, applied))


@command
def plan(
    *,
    rl_runs: Annotated[int, click.IntRange(min=1), Flag(metavar="N")],
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    policy: str = "expected",
    rl_noise: float | None = None,
    figure: Annotated[Path | None, Flag(metavar="FILE.png")] = None,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    """Choose the checkpoints that get the next N RL runs, and say what each run is worth.

    Before a predictor is fitted, the plan rests on public outcomes and on those that are recorded.

    Args:
        rl_runs: RL runs that can be paid for.
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        policy: expected (most expected best), predicted (best predictions), or anchor (as
            predicted, but one run goes to the group whose level is known least).
        rl_noise: Standard deviation of one RL run's score.  [default: from the outcomes' errors]
        figure: Draw regret against runs.
        early: What public outcomes are applied to.
        common: The registry and the form of the output.
    """
    from rlready.predictors.decisions.rl_plan import PlanRule
    from rlready.predictors.training_table import kinds_dict
    from rlready.workflow.cli.predict_view import plan_view, prior_plan_view
    from rlready.workflow.cli.validate_view import kinds_view
    from rlready.workflow.predict.figures import draw_regret
    from rlready.workflow.predict.first_day import first_day, is_first_day, plan_first_day
    from rlready.workflow.predict.plan import plan_registry

    rule, store = PlanRule(policy=policy), common.open_store()
    if is_first_day(store, predictor):
        day = first_day(store, target=early.target, own_style=early.own_style, kinds=early.kinds)
        columns = day.data.table.columns
        by_prior = plan_first_day(day, rl_runs, rl_noise=rl_noise, rule=rule)
        if figure is not None:
            draw_regret(figure, by_prior.report.plan, by_prior.report.target)
        values = {**by_prior.to_dict(), "kinds": kinds_dict(columns)}
        common.show(values, lambda: [*prior_plan_view(by_prior), *kinds_view(columns)])
        return
    early.check_fitted(predictor)
    report = plan_registry(
        store, predictor, rl_runs, rl_noise=rl_noise, rule=rule, own_style=early.own_style
    )
    if figure is not None:
        draw_regret(figure, report.plan, report.target)
    common.show(report.to_dict(), lambda: plan_view(report))
