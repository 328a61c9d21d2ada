"""Draw figures of a predictor: predicted against true outcomes, and regret against RL runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.decisions.rl_plan import RlPlan
from rlready.predictors.training_table import TrainingTable
from rlready.registry.errors import ConfigError

_COLOURS = ("#1b6ca8", "#2a9d5c", "#d98c1f", "#b03a5b", "#6b4fa0", "#5f6b6d")
_POLICY_STYLE = {
    "expected": "#1b6ca8",
    "predicted": "#2a9d5c",
    "anchor": "#6b4fa0",
    "random": "#999999",
}

_POLICY_WORDS = {
    "expected": "most expected best (plan)",
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
    return _save(figure, path)


def draw_regret(path: Path, plan: RlPlan, target: str) -> Path:
    """Draw the expected regret of each policy against the number of RL runs. Return the path."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.8, 4.6), layout="constrained")
    for name, values in plan.policies.items():
        colour = _POLICY_STYLE.get(name, "#b03a5b")
        axes.plot(
            [value.n_runs for value in values],
            [value.regret for value in values],
            marker="o",
            markersize=3.5,
            linewidth=2.0 if name == plan.policy else 1.2,
            linestyle="-" if name in ("expected", "predicted") else "--",
            color=colour,
            label=_POLICY_WORDS.get(name, f"by {name}"),
        )
    n_max = max(len(values) for values in plan.policies.values())
    axes.set(
        xlabel="RL runs",
        ylabel="expected regret, in the target's unit",
        title=f"What each RL run is worth: {target}",
        xticks=range(1, n_max + 1),
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=130)
    except ValueError as error:
        why = str(error)
        raise ConfigError(f"{path} cannot be drawn", why=why, fix="Name it .png or .pdf") from error
    finally:
        _pyplot().close(figure)
    return path
