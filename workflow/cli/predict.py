"""The sub-commands that predict: `fit`, `rank` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from rlready.workflow.flags import CommonFlags, Flag, Seed, command, now_ms
from rlready.workflow.terminal import text_width

PREDICTOR = "grpo-predictor"


@command
def fit(
    *,
    target: Annotated[str | None, Flag(metavar="KEY")] = None,
    model: str = "default",
    features: Annotated[tuple[str, ...], Flag(metavar="A,B,...")] = (),
    groups: Annotated[tuple[str, ...], Flag("--group", metavar="COL")] = (),
    name: str = PREDICTOR,
    level: Annotated[float, click.FloatRange(0.5, 0.99)] = 0.9,
    seed: Seed = 0,
    common: CommonFlags,
) -> None:
    """Fit a predictor of the score after RL on the registry.

    Learns from the checkpoints that have an outcome, validates on rows and groups that the model
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
    no_freeze: bool = False,
    common: CommonFlags,
) -> None:
    """Rank checkpoints by what is known of their score after RL.

    A recorded outcome counts for its checkpoint; the others stand by their prediction. Checkpoints
    out of the predictor's domain have no rank, and without a signal in the proxies nothing has.
    What is predicted is written down once, so that `rlready audit` can judge it later.

    Args:
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        groups: Rank only the checkpoints of this group (repeatable).
        top: N of P(top N).
        no_freeze: Do not write the predictions down for `rlready audit`.
        common: The registry and the form of the output.
    """
    from rlready.workflow.cli.predict_view import ranking_view
    from rlready.workflow.predict.audit import freeze
    from rlready.workflow.predict.rank import rank_registry

    store = common.open_store()
    ranking, applied = rank_registry(store, predictor, groups=groups, top_n=top)
    values = {**ranking.to_dict(), "predictor": applied.meta.uri, "frozen": None}
    notes = []
    if not no_freeze:
        names = {row.id for row in ranking.rows}
        best = [row.id for row in ranking.rows if row.rank and row.recorded is None][:top]
        frozen = freeze(store, applied, "rank", best, at_ms=now_ms(), names=names)
        values["frozen"], notes = vars(frozen), [f"note: {frozen.note}"]
    common.show(values, lambda: [*ranking_view(ranking, applied), *notes])


@command
def plan(
    *,
    rl_runs: Annotated[int, click.IntRange(min=1), Flag(metavar="N")],
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    policy: str = "expected",
    rl_noise: float | None = None,
    figure: Annotated[Path | None, Flag(metavar="FILE.png")] = None,
    no_freeze: bool = False,
    common: CommonFlags,
) -> None:
    """Choose the checkpoints that get the next N RL runs, and say what each run is worth.

    Args:
        rl_runs: RL runs that can be paid for.
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        policy: expected (most expected best), predicted (best predictions), or anchor (as
            predicted, but one run goes to the group whose level is known least).
        rl_noise: Standard deviation of one RL run's score.  [default: from the outcomes' errors]
        figure: Draw regret against runs: what plans lost before, and what this one expects.
        no_freeze: Do not write the predictions down for `rlready audit`.
        common: The registry and the form of the output.
    """
    from rlready.predictors.decisions.rl_plan import PlanRule
    from rlready.workflow.cli.decision_view import plan_view
    from rlready.workflow.predict.audit import freeze
    from rlready.workflow.predict.figures import draw_regret
    from rlready.workflow.predict.plan import plan_registry

    store, rule = common.open_store(), PlanRule(policy=policy)
    report = plan_registry(store, predictor, rl_runs, rl_noise=rl_noise, rule=rule)
    if figure is not None:
        draw_regret(figure, report)
    values, notes = {**report.to_dict(), "frozen": None}, []
    if not no_freeze:
        frozen = freeze(store, report.applied, "plan", report.plan.chosen, at_ms=now_ms())
        values["frozen"], notes = vars(frozen), [f"note: {frozen.note}"]
    common.show(values, lambda: [*plan_view(report), *notes])
