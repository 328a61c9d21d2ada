"""Pictures of a testbed run: OUT/post_sft_post_rl.png and OUT/rl_curves.png."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlready.testbed.study.design import Design
from rlready.testbed.study.run import Made
from rlready.testbed.study.summary import POST_SFT_PASS_AT_1, Summary, proxy_values

STYLE_COLOURS = {
    "canonical": "#1b6ca8",
    "shuffled": "#2a9d5c",
    "terse": "#d98c1f",
    "answer": "#b03a5b",
}
_SHOWN_FLIPS = 8


def draw_figures(out: Path, design: Design, made: Sequence[Made], summary: Summary) -> list[Path]:
    """Draw both pictures and return their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    return [_draw_flips(out, design, made, summary), _draw_curves(out, design, made)]


def _draw_flips(out: Path, design: Design, made: Sequence[Made], summary: Summary) -> Path:
    from matplotlib import pyplot as plt

    end = design.profile.grpo.n_steps
    before = proxy_values(made)[POST_SFT_PASS_AT_1]
    after = [statistics.fmean(run.mean_at(end) for run in m.runs.values()) for m in made]
    places = {m.recipe.id: (x, y) for m, x, y in zip(made, before, after, strict=True)}
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    for first, second in summary.flips[:_SHOWN_FLIPS]:
        (x0, y0), (x1, y1) = places[first], places[second]
        axes.plot([x0, x1], [y0, y1], color="#999999", linewidth=0.9, zorder=1)
    for style, colour in STYLE_COLOURS.items():
        points = [places[m.recipe.id] for m in made if m.recipe.style == style]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            label=style,
            s=36,
            zorder=2,
        )
    limit = max(*before, *after) * 1.05
    axes.plot([0, limit], [0, limit], color="#cccccc", linestyle="--", linewidth=0.8, zorder=0)
    axes.set(
        xlabel="pass@1 after SFT (half before)",
        ylabel=f"pass@1 after {end} GRPO steps (half after)",
        title=f"{len(made)} checkpoints; {summary.facts['n_flips']} of "
        f"{summary.facts['n_pairs']} pairs flip by more than 2 standard errors",
    )
    axes.legend(title="style of the SFT data", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, out / "post_sft_post_rl.png")


def _draw_curves(out: Path, design: Design, made: Sequence[Made]) -> Path:
    from matplotlib import pyplot as plt

    budgets = design.profile.grpo.budgets
    styles = [s for s in STYLE_COLOURS if any(m.recipe.style == s for m in made)]
    figure, panels = plt.subplots(
        1,
        len(styles),
        figsize=(3.2 * len(styles), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, style in zip(panels[0], styles, strict=True):
        for m in made:
            if m.recipe.style != style:
                continue
            values = [statistics.fmean(r.mean_at(b) for r in m.runs.values()) for b in budgets]
            is_noisy = m.recipe.noise > 0
            axes.plot(
                budgets,
                values,
                color=STYLE_COLOURS[style],
                linestyle=":" if is_noisy else "-",
                linewidth=1.2,
                marker="o",
                markersize=2.5,
            )
        axes.set(title=style, xlabel="GRPO steps", xticks=list(budgets))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("pass@1 (half after)")
    figure.suptitle("RL curves by the style of the SFT data; dotted: with wrong steps in it")
    return _save(figure, out / "rl_curves.png")


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
