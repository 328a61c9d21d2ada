"""The sub-commands that predict: `fit`, `rank` and `plan`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rlready.workflow.cli.options import (
    FILE,
    SEED,
    TEXT,
    Optional,
    console,
    open_store,
    print_view,
    registry_options,
    several,
    width,
)
from rlready.workflow.terminal import echo

PREDICTOR = "grpo-predictor"


@click.command()
@click.option(
    "--target",
    type=TEXT,
    default="",
    metavar="KEY",
    help="Outcome to predict, for example value_at_budget/60steps@gsm8k, as `rlready table` names "
    "it.  [default: the only one]",
)
@click.option(
    "--model",
    default="default",
    show_default=True,
    help="Name of a model: `rlready validate --model all` compares them.",
)
@click.option(
    "--features",
    multiple=True,
    callback=several,
    metavar="A,B,...",
    help="Proxies, as `rlready table` names them.  [default: every pass@k, signal_share_8 and "
    "token_entropy on the target's benchmark or the suite's mean, and every heldout_nll]",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=several,
    metavar="COL",
    help="Column that names the group of a checkpoint (repeatable): base model, SFT source, RL "
    "recipe.  [default: recipe.base_model, if there are several]",
)
@click.option(
    "--name",
    default=PREDICTOR,
    show_default=True,
    help="Registered model that the predictor is a version of.",
)
@click.option(
    "--level",
    type=click.FloatRange(0.5, 0.99),
    default=0.9,
    show_default=True,
    help="Share of outcomes that intervals are to hold.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Of folds and permutations.",
)
@registry_options
def fit(
    target: str | None,
    model: str,
    features: tuple[str, ...],
    groups: tuple[str, ...],
    name: str,
    level: float,
    seed: int,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Fit a predictor of the score after RL on the registry.

    Learns from the checkpoints that have an outcome, validates on rows and groups that the model
    has not seen, and stores the predictor with its training table and report as an MLflow model,
    with the alias `champion`.
    """
    from rlready.workflow.cli.predict_view import fit_view
    from rlready.workflow.predict.fit import fit as fit_predictor
    from rlready.workflow.progress import Clock

    clock = Clock(None if as_json else console())
    report = fit_predictor(
        open_store(tracking_uri, experiment),
        target=target,
        model=model,
        features=features,
        groups=groups,
        name=name,
        level=level,
        seed=seed,
        say=clock.say,
    )
    if as_json:
        echo(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        print_view(fit_view(report, width()))


@click.command()
@click.option(
    "--predictor",
    default=PREDICTOR,
    show_default=True,
    metavar="NAME",
    help="NAME, models:/NAME@ALIAS or models:/NAME/3.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    callback=several,
    metavar="NAME",
    help="Rank only the checkpoints of this group (repeatable).",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="N of P(top N)."
)
@registry_options
def rank(
    predictor: str,
    groups: tuple[str, ...],
    top: int,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Rank checkpoints by what is known of their score after RL.

    A recorded outcome counts for its checkpoint; the others stand by their prediction. Checkpoints
    out of the predictor's domain have no rank, and without a signal in the proxies nothing has.
    """
    from rlready.workflow.cli.predict_view import ranking_view
    from rlready.workflow.predict.rank import rank_registry

    ranking, loaded = rank_registry(
        open_store(tracking_uri, experiment), predictor, groups=groups, top_n=top
    )
    if as_json:
        echo(json.dumps({**ranking.to_dict(), "predictor": loaded.meta.uri}))
    else:
        print_view(ranking_view(ranking, loaded))


@click.command()
@click.option(
    "--rl-runs",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="RL runs that can be paid.",
)
@click.option(
    "--predictor",
    default=PREDICTOR,
    show_default=True,
    metavar="NAME",
    help="NAME, models:/NAME@ALIAS or models:/NAME/3.",
)
@click.option(
    "--policy",
    default="expected",
    show_default=True,
    help="expected (most expected best), predicted (best predictions), or anchor (as predicted, "
    "one run goes to the group whose level is known least).",
)
@click.option(
    "--rl-noise",
    type=Optional(float),
    default="",
    help="Standard deviation of one RL run's score.  [default: from the outcomes' errors]",
)
@click.option(
    "--figure", type=FILE, default="", metavar="FILE.png", help="Draw regret against runs."
)
@registry_options
def plan(
    rl_runs: int,
    predictor: str,
    policy: str,
    rl_noise: float | None,
    figure: Path | None,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Choose the checkpoints that get the next N RL runs, and say what each run is worth."""
    from rlready.predictors.decisions.rl_plan import PlanRule
    from rlready.workflow.cli.predict_view import plan_view
    from rlready.workflow.predict.figures import draw_regret
    from rlready.workflow.predict.plan import plan_registry

    report = plan_registry(
        open_store(tracking_uri, experiment),
        predictor,
        rl_runs,
        rl_noise=rl_noise,
        rule=PlanRule(policy=policy),
    )
    if figure is not None:
        draw_regret(figure, report.plan, report.target)
    if as_json:
        echo(json.dumps(report.to_dict()))
    else:
        print_view(plan_view(report))
