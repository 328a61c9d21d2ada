"""What the proxies say of the score after RL in the testbed's two worlds, from the shipped tables.

Each proxy is compared with pass@1 after SFT on the same 48 checkpoints, as the summary of a testbed
run does it: Spearman's rank correlation with the score after 60 steps of GRPO (mean of two seeds),
95 % percentile intervals over 2,000 resamplings of the checkpoints. "healthy": without those whose
pass@1 is under a quarter of the base's. Beside it: what choosing by each proxy loses against the
best checkpoint (regret@1, regret@3), in units of the score. No goal: the worlds were not chosen by
these figures.

    python bench/two_worlds.py [--quick] [--json] [--figure FILE.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlready.testbed.study.figures import STYLE_COLOURS
from rlready.testbed.study.shipped import shipped_rows
from rlready.testbed.study.summary import COLLAPSED_SHARE, rank_proxies

AFTER = "value_at_budget/60steps@world_after"
PROXIES = (
    *(f"pass_at_{k}@world" for k in (1, 4, 16, 64)),
    *("signal_share_8@world", "token_entropy@world"),
    *(f"heldout_nll@heldout_{style}" for style in ("canonical", "shuffled", "terse", "answer")),
)
TITLES = {
    "full": "first world: the base knows all six skills",
    "headroom": "headroom: the base knows two of six skills",
}
BASE_PASS_AT_1 = {"full": 0.407, "headroom": 0.182}
"""Of the base in each world, from the summaries of the runs (docs/testbed.md)."""
LOSSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Ticks of the figure's losses."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A shipped table: proxies and outcome of each checkpoint, and whether it is healthy."""

    name: str
    title: str
    styles: tuple[str, ...]
    proxies: Mapping[str, Any]
    after: Any
    is_healthy: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--figure", type=Path, help="draw both worlds side by side")
    arguments = parser.parse_args()
    worlds = [read(name) for name in TITLES]
    result = {"bench": "two_worlds", "worlds": {world.name: findings(world) for world in worlds}}
    if arguments.figure:
        draw(worlds, arguments.figure)
    if not arguments.json:
        show(result)
    print(json.dumps(result))


def read(name: str) -> World:
    rows = list(shipped_rows(name).values())
    proxies = {
        proxy: np.array([float(row[proxy]) for row in rows])
        for proxy in PROXIES
        if all(row.get(proxy) for row in rows)
    }
    return World(
        name=name,
        title=TITLES[name],
        styles=tuple(row["recipe.style"] for row in rows),
        proxies=proxies,
        after=np.array([float(row[AFTER]) for row in rows]),
        is_healthy=proxies["pass_at_1@world"] >= COLLAPSED_SHARE * BASE_PASS_AT_1[name],
    )


def findings(world: World) -> dict[str, Any]:
    healthy = world.is_healthy
    return {
        "n": len(world.after),
        "n_healthy": int(healthy.sum()),
        "after_lowest_median_highest": np.round(np.quantile(world.after, (0, 0.5, 1)), 3).tolist(),
        "sd": round(float(world.after.std(ddof=1)), 4),
        "sd_healthy": round(float(world.after[healthy].std(ddof=1)), 4),
        "all": compared(world.proxies, world.after),
        "healthy": compared(
            {k: v[healthy] for k, v in world.proxies.items()}, world.after[healthy]
        ),
    }


def compared(proxies: Mapping[str, Any], after: Any) -> list[dict[str, Any]]:
    rows = []
    for ranked in rank_proxies({"pass_at_1@world": proxies["pass_at_1@world"], **proxies}, after):
        name = ranked.proxy.removeprefix("-")
        order = np.argsort(-proxies[name] if name == ranked.proxy else proxies[name], kind="stable")
        rows.append(
            {
                "proxy": ranked.proxy,
                "spearman": round(ranked.spearman, 3),
                "interval": _rounded(ranked.interval),
                "minus_pass_at_1": round(ranked.difference, 3),
                "minus_pass_at_1_interval": _rounded(ranked.difference_interval),
                "pairs_right": round(ranked.pairs_right, 3),
                "regret_at_1": round(float(after.max() - after[order[0]]), 4),
                "regret_at_3": round(float(after.max() - after[order[:3]].max()), 4),
            }
        )
    return rows


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, 2) for end in interval]


def draw(worlds: list[World], path: Path) -> None:
    """Scores after RL by pass@1 and by the loss before it, one column for each world."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, grid = plt.subplots(2, 2, figsize=(10, 8.4), sharey="col", layout="constrained")
    rows = (
        ("pass_at_1@world", "pass@1 after SFT"),
        ("heldout_nll@heldout_canonical", "held-out loss after SFT, canonical style (nats/token)"),
    )
    for column, world in enumerate(worlds):
        for axes, (proxy, label) in zip(grid[:, column], rows, strict=True):
            x = world.proxies[proxy]
            for style, colour in STYLE_COLOURS.items():
                of_style = np.array([each == style for each in world.styles])
                axes.scatter(x[of_style], world.after[of_style], s=30, color=colour, label=style)
            if proxy == "pass_at_1@world":
                limit = float(max(x.max(), world.after.max())) * 1.05
                axes.plot([0, limit], [0, limit], "--", color="#bbbbbb", linewidth=0.8, zorder=0)
            else:
                axes.set_xscale("log")
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set_xticks(LOSSES, labels=[f"{loss:g}" for loss in LOSSES])
            axes.set(xlabel=label, ylabel="pass@1 after 60 GRPO steps")
            axes.spines[["top", "right"]].set_visible(False)
        grid[0, column].set_title(world.title, fontsize=11)
    grid[0, 0].legend(title="style of the SFT data", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def show(result: Mapping[str, Any]) -> None:
    for name, world in result["worlds"].items():
        low, middle, high = world["after_lowest_median_highest"]
        print(
            f"{name}: {world['n']} checkpoints, {world['n_healthy']} healthy; after RL "
            f"{low:.3f} to {high:.3f}, median {middle:.3f}, sd {world['sd']:.3f}"
        )
        for part in ("all", "healthy"):
            print(f"  {part}")
            for row in world[part]:
                print(
                    f"    {row['proxy']:<34} {row['spearman']:>6.3f} {row['interval']}  minus "
                    f"pass@1 {row['minus_pass_at_1']:+.3f} {row['minus_pass_at_1_interval']}  "
                    f"regret@1 {row['regret_at_1']:.4f}, @3 {row['regret_at_3']:.4f}"
                )


if __name__ == "__main__":
    main()
