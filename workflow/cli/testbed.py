"""The sub-command `testbed`: real SFT, evaluation and GRPO with tiny models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import CommonFlags, Flag, Seed, command
from rlready.workflow.terminal import echo, echo_json, open_page, table

if TYPE_CHECKING:
    from rich.table import Table

    from rlready.testbed.study.summary import Ranked, Summary

_MOST_FLIPS = 5
_DEMO = "demo"


@command
def run_testbed(
    *,
    profile: str = "small",
    jobs: Annotated[int, click.IntRange(min=1)] = 2,
    seed: Seed = 0,
    out: Annotated[Path | None, Flag(metavar="DIR")] = None,
    common: CommonFlags,
) -> None:
    """Run the testbed: train SFT recipes, run GRPO, and compare the proxies with the outcomes.

    Nothing is simulated, but the models are tiny: each recipe is trained, measured and put through
    GRPO, and the registry gets the checkpoints with their lineage and outcomes. A killed or
    repeated call continues where the last one stopped.

    --profile demo needs no GRPO: it hides 12 of the 48 scores that a full run gave, plans three RL
    runs, and shows what the plan and choosing by pass@1 reached.

    Args:
        profile: demo (under two minutes), smoke (3 checkpoints, seconds), small (12, minutes),
            full (48 x 2 RL seeds, an hour), long (24, 240 GRPO steps), or headroom (48 x 2 in a
            world whose base lacks four skills, over an hour).
        jobs: Number of processes; each needs one core and 0.7 GB. The demo has one.
        seed: Seed of the choice of recipes. The demo has its own.
        out: Folder for checkpoints, curves, table and figures; the demo's registry is there too.
            [default: testbed-PROFILE]
        common: The registry and the form of the output.
    """
    out = out or Path(f"testbed-{profile}")
    if profile == _DEMO:
        _run_demo(out, common)
        return
    # Their libraries are heavy.
    from rlready.registry.table import checkpoint_table, write_table
    from rlready.testbed.study.design import PROFILES, make_design
    from rlready.testbed.study.figures import draw_figures
    from rlready.testbed.study.run import base_checkpoint, collect, make, register
    from rlready.testbed.study.summary import summarize

    if profile not in PROFILES:
        raise ConfigError(
            f"unknown profile {profile!r}", fix=f"Known profiles: {', '.join((*PROFILES, _DEMO))}"
        )
    design = make_design(profile, seed, jobs)
    clock, store = common.clock(), common.open_store()
    store.check(base_checkpoint())
    make(out, design, clock)
    made = collect(out, design)
    register(out, design, made, store, clock)
    ids = {entry.checkpoint.id for entry in made}
    checkpoints = checkpoint_table([s for s in store.checkpoints() if s.checkpoint.id in ids])
    write_table(checkpoints, out / "table.csv", "csv")
    for note in checkpoints.notes:
        clock.say(note)
    summary = summarize(out, design, made)
    text = json.dumps(summary.to_dict(), indent=1)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    files = [out / "table.csv", out / "summary.json", *draw_figures(out, design, made, summary)]
    paths = [str(path) for path in files]
    common.show({**summary.to_dict(), "files": paths}, lambda: _summary_view(summary))
    if not common.as_json:
        for line in (*paths, store.ui_hint()):
            echo(line)


def _run_demo(out: Path, common: CommonFlags) -> None:
    from rlready.workflow.testbed.demo import tell

    story = tell(
        out,
        (lambda line: None) if common.as_json else echo,
        tracking_uri=common.tracking_uri,
        experiment=common.experiment,
    )
    if common.as_json:
        echo_json(story.to_dict())
    else:
        open_page(out / "report.html")


def _summary_view(summary: Summary) -> list[Any]:
    """Return the proxies against the outcome, facts of the run, and the pairs that flip."""
    tables = [_ranking(summary.ranked, "all checkpoints")] if summary.ranked else []
    if summary.facts["n_collapsed"] and summary.ranked_without_collapsed:
        tables.append(_ranking(summary.ranked_without_collapsed, "without the collapsed ones"))
    flips = [
        f"  {first}  is ahead after SFT, behind  {second}  after RL"
        for first, second in summary.flips[:_MOST_FLIPS]
    ]
    return [*tables, *_facts(summary.facts), *flips]


def _ranking(ranked: Sequence[Ranked], which: str) -> Table:
    from rlready.predictors.kinds import PRACTICE

    rows = [
        [
            f"{row.proxy} *" if row.proxy == PRACTICE else row.proxy,
            f"{row.spearman:.3f}",
            _interval(row.interval),
            f"{row.difference:+.3f}",
            _interval(row.difference_interval),
            f"{row.pairs_right:.3f}",
        ]
        for row in ranked
    ]
    headings = ("proxy", "Spearman", "95 % interval", "minus pass@1's", "95 %", "pairs right")
    return table(
        f"Spearman with pass@1 after RL, {which}",
        headings,
        rows,
        caption="minus sign: lower is better; *: the current practice",
        words=("proxy",),
        unbroken=headings,
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return "too few" if interval is None else f"{interval[0]:.2f} .. {interval[1]:.2f}"


def _facts(facts: Mapping[str, Any]) -> list[str]:
    low, high = facts["post_rl_range"]
    lines = [
        f"{facts['n_checkpoints']} checkpoints, {facts['rl_steps']} GRPO steps, "
        f"{facts['n_rl_seeds']} RL seeds; base pass@1 {facts['base_pass_at_1']:.3f}",
        f"after RL: {low:.3f} to {high:.3f}, sd between checkpoints "
        f"{facts['sd_between_checkpoints']:.4f}; {facts['n_collapsed']} had collapsed before it",
    ]
    if facts["share_raised_by_rl"] is not None:
        lines.append(f"GRPO raised {facts['share_raised_by_rl']:.0%} of the others")
    if facts["rl_seed_sd"] is not None:
        lines.append(
            f"ceiling from RL seeds: sd {facts['rl_seed_sd']:.4f}, Spearman between seeds "
            f"{facts['rl_seed_spearman']:.3f}"
        )
    lines.append(
        f"pairs that flip between SFT and RL by more than 2 standard errors: "
        f"{facts['n_flips']} of {facts['n_pairs']}"
    )
    return lines
