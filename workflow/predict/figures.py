"""Draw figures of a predictor: predicted against true outcomes, and regret against RL runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.decisions.plan_replay import Replay
from rlready.predictors.decisions.rl_plan import RANDOM
from rlready.predictors.training_table import TrainingTable
from rlready.registry.errors import ConfigError
from rlready.workflow.predict.plan import TARGET_UNIT, PlanReport
from rlready.workflow.predict.steps import StepReport

_DPI = 130
_PAGE_DPI = 96  # MLflow's pages are 650 pixels wide, and do not shrink a picture
_COLOURS = ("#1b6ca8", "#2a9d5c", "#d98c1f", "#b03a5b", "#6b4fa0", "#5f6b6d")
_POLICY_STYLE = {
    "expected": "#1b6ca8",
    "predicted": "#2a9d5c",
    "anchor": "#6b4fa0",
    "random": "#999999",
    "paper's rule": "#d98c1f",
}
_PRACTICE_COLOUR = "#b03a5b"
_POLICY_WORDS = {
    "expected": "most expected best",
    "predicted": "best predictions",
    "anchor": "best predictions, one anchor",
    "random": "at random",
}


def draw_predictions(path: Path, predictor: CalibratedPredictor, table: TrainingTable) -> Path:
    """Draw each outcome against the prediction of a model that has not seen it. Return the path.

    Args:
        path: of the PNG file.
        predictor: fitted on the table.
        table: rows with outcomes.
    """
    plt = _pyplot()
    predicted = table.shown(predictor.out_of_fold_)
    true = table.shown(table.y)
    error = np.where(np.isfinite(table.y_error), table.y_error, 0.0)
    calibration = predictor.calibration_
    both = calibration.law.student_ends(
        predictor.out_of_fold_, calibration.anchors, predictor.level
    )
    low, high = np.sort([table.shown(end) for end in both], axis=0)
    # Under a ceiling, intervals end with the scale; the fit of a fold may predict beyond it.
    low, high = np.fmin(low, predicted), np.fmax(high, predicted)
    figure, axes = plt.subplots(figsize=(6.4, 6), layout="constrained")
    ends = [
        np.nanmin([low, true - error]),
        np.nanmax([high, true + error]),
    ]
    axes.plot(ends, ends, color="#cccccc", linestyle="--", linewidth=0.9, zorder=0)
    names = np.unique(table.groups)
    for i, name in enumerate(names):
        rows = table.groups == name
        axes.errorbar(
            predicted[rows],
            true[rows],
            xerr=[(predicted - low)[rows], (high - predicted)[rows]],
            yerr=error[rows],
            fmt="o",
            color=_COLOURS[i % len(_COLOURS)],
            ecolor="#d5dbe0",
            elinewidth=0.9,
            markersize=4.5,
            label=str(name) if len(names) > 1 else None,
        )
    is_held_out = np.isfinite(predicted)
    rank = spearmanr(predicted[is_held_out], true[is_held_out]).statistic
    axes.set(
        xlabel=f"predicted without having seen it, with {predictor.level:.0%} interval",
        ylabel=f"{table.target}, true",
        title=f"{int(is_held_out.sum())} checkpoints held out: Spearman {rank:.2f}",
    )
    if 1 < len(names) <= len(_COLOURS):
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path, dpi=_PAGE_DPI)


def draw_regret(
    path: Path, report: PlanReport, *, unit: str = TARGET_UNIT, stacked: bool = False
) -> Path:
    """Draw the regret of each policy against the number of RL runs. Return the path.

    The left panel shows the realised and the expected regret of plans on recorded outcomes that
    were left out. The right panel shows the expected regret of this plan.

    Args:
        path: of the PNG file.
        report: the plan and its replay.
        unit: unit of the regrets, in words.
        stacked: put the left panel above the right one, for a narrow page.
    """
    plt = _pyplot()
    replay, plan = report.replay, report.plan
    n_panels = 1 if replay is None else 2
    n_rows, n_columns = (n_panels, 1) if stacked else (1, n_panels)
    figure, panels = plt.subplots(
        n_rows,
        n_columns,
        figsize=(1.2 + 5.2 * n_columns, 0.6 + 4.0 * n_rows),
        layout="constrained",
        squeeze=False,
        sharey=not stacked,
    )
    for panel in panels[:, 0]:
        panel.set_ylabel(f"regret, in {unit}")
    if replay is not None:
        _draw_replay(panels[0][0], replay, plan.policy, report.practice)
    axes = panels[-1][-1]
    for name, values in plan.policies.items():
        axes.plot(
            [value.n_runs for value in values],
            [value.regret for value in values],
            marker="o",
            markersize=3.5,
            linewidth=2.0 if name == plan.policy else 1.2,
            linestyle="-" if name == plan.policy else "--",
            color=_POLICY_STYLE.get(name, _PRACTICE_COLOUR),
            label=_policy_words(name, plan.policy),
        )
    realised = (
        (plan.policy, report.realised_regret),
        (report.practice or "", report.practice_regret),
    )
    for policy, regret in realised:
        if regret is not None:
            colour = _POLICY_STYLE.get(policy, _PRACTICE_COLOUR)
            label = f"{_policy_words(policy, plan.policy)}: realised"
            axes.plot(len(plan.chosen), regret, "*", markersize=11, color=colour, label=label)
    n_max = max(len(values) for values in plan.policies.values())
    n = len(plan.p_best)
    state = ", and realised (stars)" if report.is_retrospective else ", not known"
    axes.set(
        xlabel="RL runs",
        title=f"Expected{state}: this plan, {n} candidates",
        xticks=range(1, n_max + 1),
    )
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(0, None)  # after the lines, which determine the upper end
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"What each RL run is worth: {report.target}", fontsize=11)
    return _save(figure, path, dpi=_PAGE_DPI if stacked else _DPI)


def draw_steps(path: Path, report: StepReport) -> Path:
    """Draw the expected regret of ways to spend RL steps. Return the path.

    Args:
        path: of the PNG file.
        report: the plan.
    """
    plt = _pyplot()
    plan = report.plan
    figure, axes = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    probed = [split for split in plan.splits if split.n_finished < split.n_probed]
    for i, step in enumerate(sorted({split.step for split in probed})):
        ways = sorted(
            (split for split in probed if split.step == step), key=lambda split: split.n_probed
        )
        axes.plot(
            [split.n_probed for split in ways],
            [split.regret for split in ways],
            marker="o",
            markersize=3.5,
            color=_COLOURS[i % len(_COLOURS)],
            label=f"probe to {step:g} {report.unit}, finish as many as can be paid",
        )
    now = plan.finish_now
    axes.axhline(now.regret, color="#999999", linestyle="--", linewidth=1.2, label=str(now))
    axes.plot(
        plan.best.n_probed, plan.best.regret, "*", markersize=13, color="#222222", label="proposed"
    )
    axes.set(
        xlabel="checkpoints that are started",
        ylabel="expected regret, in the target's unit",
        title=f"{report.total:g} RL {report.unit}: {report.target}",
        ylim=(0, None),
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def _draw_replay(axes: Any, replay: Replay, policy: str, practice: str | None) -> None:
    """Draw realised regret as lines with errors, expected regret as thin dashes."""
    for name in replay.compared(policy, practice):
        values = replay.policies[name]
        runs, colour = [value.n_runs for value in values], _POLICY_STYLE.get(name, _PRACTICE_COLOUR)
        words = _policy_words(name, policy)
        axes.errorbar(
            runs,
            [value.realised for value in values],
            yerr=[value.realised_se for value in values],
            marker="o",
            markersize=3.5,
            linewidth=2.0 if name == policy else 1.4,
            elinewidth=0.8,
            color=colour,
            label=f"{words}: realised",
        )
        if name != RANDOM:
            axes.plot(
                runs,
                [value.expected for value in values],
                linewidth=1.0,
                linestyle=":",
                color=colour,
                label=f"{words}: had expected",
            )
    axes.set(
        xlabel="RL runs",
        title=f"Known: plans on {replay.n_rows} outcomes left out",
        xticks=range(1, len(replay.policies[policy]) + 1),
    )
    axes.legend(frameon=False, fontsize=8)


def _policy_words(name: str, chosen: str) -> str:
    words = _POLICY_WORDS.get(name, f"by {name}")
    return f"{words} (plan)" if name == chosen else words


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _save(figure: Any, path: Path, dpi: int = _DPI) -> Path:
    try:
        # For a name without an ending, matplotlib would write to another file, NAME.png.
        figure.savefig(path, dpi=dpi, format=None if path.suffix else "png")
    except ValueError as error:
        why = str(error)
        raise ConfigError(f"{path} cannot be drawn", why=why, fix="Name it .png or .pdf") from error
    finally:
        _pyplot().close(figure)
    return path
