"""Claim: probing more checkpoints for some RL steps loses less than finishing few, at equal cost.

Replays the 24 published RL curves of OctoThinker (arXiv 2506.20512, four benchmarks) and those of
RETU. From 8 random runs of one base model a number of RL steps is spent in two ways: `now`
finishes the N best by the score before RL, and `split` does what `plan_steps` proposes, judged by
the scores at the probed step. Both keep the best observed final score; the regret is against the
mean of the last five evaluations. `random` finishes N random runs. Before RL all that is known is
the score at step 0, with the prior's slope inside a group.

Written down before the first run: horizons of 80, 196 and 300 steps (those that at least 9 runs
reach), 3 finished runs' worth of steps, 40 draws of 8 runs, seed 0, 3B bases only. The reliability
of early scores is learned from the same OctoThinker curves, so RETU is the judge that it has not
seen; for the others each half of the runs is judged by the table of the other half.

    python bench/rl_steps.py [--quick] [--json] [--curves FILE] [--learn]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlready.predictors.decisions.rl_plan import PlanRule
from rlready.predictors.decisions.step_plan import Probe, conditioned, plan_steps
from rlready.predictors.predictive import Predictive
from rlready.predictors.public.early_rl import HEADER, EarlyReliability, early_reliability
from rlready.predictors.public.prior import shipped_prior
from rlready.predictors.training_table import FloatArray

ROOT = Path(__file__).parents[1]
CURVES = ROOT.parent / "shared" / "data" / "outcomes" / "octothinker_curves.csv"
RETU = ROOT / "tests" / "data" / "retu" / "rl_curves.csv"
SOURCE = "OctoThinker, arXiv 2506.20512"
STEPS = (0, 4, 8, 12, 20, 28, 40, 60, 80, 100, 140, 196, 300)
HORIZONS = (80, 196, 300)
RETU_HORIZON = 40.0
N_CANDIDATES, N_FINISHED, N_DRAWS = 8, 3, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 draws of runs instead of 40")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--curves", type=Path, default=CURVES, help="OctoThinker's RL curves")
    parser.add_argument("--learn", action="store_true", help="write early_rl.toml")
    args = parser.parse_args()
    if not args.curves.is_file():
        print(f"error: there is no file {args.curves}; give --curves FILE", file=sys.stderr)
        sys.exit(2)
    wide = curves_by_benchmark(args.curves)
    if args.learn:
        text = as_toml(learned(wide))
        (ROOT / "predictors" / "public" / "early_rl.toml").write_text(text, encoding="utf-8")
        print(text)
        return
    n_draws = 5 if args.quick else N_DRAWS
    figures = {name: summary(rows) for name, rows in replays(wide, n_draws)}
    for name, row in figures.items():
        shown = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
        print(f"{name}: {shown}")
    if args.json:
        print(json.dumps(figures))


def curves_by_benchmark(path: Path) -> dict[str, pd.DataFrame]:
    """Return checkpoints x steps, for each benchmark; runs from 3B bases alone."""
    curves = pd.read_csv(path)
    curves = curves[curves.checkpoint.str.contains("3b")]
    return {
        str(name): part.pivot_table(index="checkpoint", columns="step", values="value")
        for name, part in curves.groupby("benchmark")
    }


def final_scores(wide: pd.DataFrame, horizon: float) -> pd.Series:
    """Return the mean of the last five evaluations up to a horizon, of the runs that reach it."""
    reached = wide[wide.loc[:, wide.columns >= horizon].notna().any(axis=1)]
    return reached[[step for step in reached if step <= horizon][-5:]].mean(axis=1)


def learned(wide: dict[str, pd.DataFrame]) -> EarlyReliability:
    """Return the lowest correlation among horizons at each step, made to rise with the step."""
    lowest = np.ones(len(STEPS))
    for horizon in HORIZONS:
        rows = []
        for table in wide.values():
            final = final_scores(table, horizon)
            early = [table.loc[final.index, step] for step in STEPS if step < horizon]
            rows.append([value.corr(final) for value in early])
        means = np.mean(rows, axis=0)
        lowest[: len(means)] = np.minimum(lowest[: len(means)], means)
    known = sum(step < HORIZONS[-1] for step in STEPS)
    rising = np.maximum.accumulate(np.clip(lowest[:known], 0.0, 0.99))
    return EarlyReliability(
        steps=tuple(map(float, STEPS[:known])),
        correlations=tuple(round(float(value), 3) for value in rising),
        n_runs=len(next(iter(wide.values()))),
        source=SOURCE,
    )


def as_toml(table: EarlyReliability) -> str:
    lines = [f'\nsource = "{table.source}"', f"n_runs = {table.n_runs}"]
    for step, correlation in zip(table.steps, table.correlations, strict=True):
        lines += ["\n[[knots]]", f"step = {step:g}", f"correlation = {correlation:.3f}"]
    return HEADER + "\n".join(lines) + "\n"


def replays(wide: dict[str, pd.DataFrame], n_draws: int) -> Iterator[tuple[str, list[Any]]]:
    for horizon in HORIZONS:
        rows = []
        for table in wide.values():
            names = np.array(sorted(table.index))
            for half in (0, 1):
                other = {name: t.loc[names[1 - half :: 2]] for name, t in wide.items()}
                reliability = learned(other)
                reached = final_scores(table, horizon).index
                judged = table.loc[[name for name in reached if name in set(names[half::2])]]
                if len(judged) >= 4:
                    rows += replayed(judged, float(horizon), reliability, n_draws)
        yield f"OctoThinker, {horizon} steps", rows
    retu = pd.read_csv(RETU)
    retu["run"] = retu.sft_data + "-" + retu.sft_step.astype(str)
    retu = retu.assign(overall=retu.overall / 100.0)
    table = retu.pivot_table(index="run", columns="rl_exaflops", values="overall")
    table = table.interpolate(axis=1, limit_area="inside")
    yield (
        f"RETU, {RETU_HORIZON:g} exaflop",
        replayed(table, RETU_HORIZON, early_reliability(), n_draws, in_steps=False),
    )


def replayed(
    wide: pd.DataFrame,
    horizon: float,
    reliability: EarlyReliability,
    n_draws: int,
    in_steps: bool = True,
) -> list[tuple[float, ...]]:
    """Return (regret of split, now and random; expected of split and now; probed) of each draw."""
    rng = np.random.default_rng(0)
    final = final_scores(wide, horizon)
    table = wide.loc[final.index]
    start = at_step(table, 0.0)
    slope = next(s.slope for s in shipped_prior().slopes if s.kind == "pass_at_k")
    rows = []
    for draw in range(n_draws):
        runs = rng.permutation(len(final))[:N_CANDIDATES]
        truth = final.to_numpy()[runs]
        spread = float(np.std(truth, ddof=1))
        seen = at_step(table, horizon)[runs]
        order = standardised(start[runs]) if np.isfinite(start).all() else np.zeros(len(runs))
        predictive = Predictive(
            mean=slope * spread * order,
            row_sd=np.full(len(runs), spread * np.sqrt(1.0 - slope**2)),
            group_sd=np.zeros(len(runs)),
            groups=np.array(["one"] * len(runs)),
        )
        ids = [str(i) for i in range(len(runs))]
        plan = plan_steps(
            predictive,
            ids,
            N_FINISHED * horizon,
            budget=horizon,
            spread=spread,
            rl_noise=0.1 * spread,
            reliability=reliability,
            in_steps=in_steps,
            rule=PlanRule(n_draws=1000, seed=draw),
        )
        best, now = plan.best, plan.finish_now
        assert now is not None
        started = np.array([int(name) for name in plan.chosen])
        early = at_step(table, best.step)[runs]
        probes = [Probe(step=best.step, value=float(v)) for v in early]
        known = conditioned(
            predictive.rows(started),
            [probes[i] for i in started],
            budget=horizon,
            spread=spread,
            reliability=reliability,
            in_steps=in_steps,
        )
        finished = started[np.argsort(-known.mean)][: best.n_finished]
        by_now = np.argsort(-predictive.mean, kind="stable")[: now.n_finished]
        any_run = rng.permutation(len(runs))[: now.n_finished]
        regrets = [
            float(truth.max() - truth[rows_[np.argmax(seen[rows_])]])
            for rows_ in (finished, by_now, any_run)
        ]
        rows.append((*regrets, best.regret, now.regret, best.n_probed))
    return rows


def at_step(table: pd.DataFrame, step: float) -> FloatArray:
    """(n,) the evaluation at a step, or the last one before it; NaN where there is none."""
    until = table.loc[:, table.columns <= step]
    if until.empty:
        return np.full(len(table), np.nan)
    values: FloatArray = until.ffill(axis=1).iloc[:, -1].to_numpy(dtype=np.float64)
    return values


def standardised(values: FloatArray) -> FloatArray:
    gap: FloatArray = (values - values.mean()) / (np.std(values, ddof=1) or 1.0)
    return gap


def summary(rows: list[tuple[float, ...]]) -> dict[str, float]:
    names = ("split", "now", "random", "split_expected", "now_expected", "n_probed")
    means = np.mean(rows, axis=0)
    return {name: float(value) for name, value in zip(names, means, strict=True)}


if __name__ == "__main__":
    main()
