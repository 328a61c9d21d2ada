"""Claim: before any outcome, the prior orders most groups of a new source better than chance.

Replays the public rows that come with the package, with each source left out, inside one base: the
prior is learned from the other sources and meets the groups of this one. Beside it stand pass@1 and
each other proxy alone, and the default model fitted on the other sources. A group's figure is the
mean over its benchmarks; the summary is over groups of the sources that the prior may learn from.
rl_excursions is shown apart: its starts differ by pre-training tokens, so any proxy looks good.
The shipped slope of rl_probe has seen these rows, so each slope here is learned from the other
sources alone. `prior` gets pass@1, `prior_probe` also the first RL evaluations where they exist.
`prior_stated` has the slope of pass@1 that is shipped: it was measured once on 13 groups of 8
sources, these included, while the rows that are shipped support only 8 groups of 3.

Two judges follow, as one group each: RETU (16 checkpoints of one base) and the testbed (48, the
loss on each checkpoint's own style), with the shipped prior, after 0 to 12 random outcomes. The
slopes that are shipped were measured elsewhere and may have seen them.

    python bench/public_outcomes.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from rlready.predictors.models.catalogue import DEFAULT_MODEL, make_model
from rlready.predictors.public.facts import PROXIES, Cell, cells, public_rows, public_sources
from rlready.predictors.public.learn import KIND_OF_PROXY, STATED, learn
from rlready.predictors.public.order import order_checkpoints
from rlready.predictors.public.posterior import OrderPosterior
from rlready.predictors.public.prior import Prior, Slope
from rlready.predictors.public.standing import standardised
from rlready.predictors.training_table import GROUP, Column, FloatArray, Kind, training_table
from rlready.predictors.validation.folds import fit_model
from rlready.predictors.validation.scores import PredictionScorer

SCORE, PROBE = "pre_pass1", "probe"
SHOWN = ("spearman", "decision_accuracy", "regret_at_1", "regret_at_3")
N_OUTCOMES = (1, 2, 3, 5)
JUDGED_AFTER = (0, 1, 3, 5, 12)
LOSS = Column(name="own_style_loss", kind=Kind.LOSS, sign=-1)
ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
BINS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85001)
GOALS = {"better_than_chance": 0.8, "gain_over_pass_at_1": 0.05, "calibrated_within": 0.06}
PRIORS = ("prior", "prior_stated")

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 draws of outcomes instead of 20")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    result = replay(3 if arguments.quick else 20)
    if not arguments.json:
        _show(result)
    print(json.dumps(result))


def replay(n_draws: int) -> dict[str, Any]:
    """Figures of every method, the calibration of chances, and coverage by number of outcomes."""
    by_method: dict[str, dict[tuple[str, str], list[Figures]]] = defaultdict(
        lambda: defaultdict(list)
    )
    chances: dict[str, list[tuple[float, float]]] = {name: [] for name in PRIORS}
    updated: dict[str, list[Figures]] = defaultdict(list)
    covered_at_0: dict[str, list[float]] = {name: [] for name in PRIORS}
    rng = np.random.default_rng(0)
    for cell, priors, fitted in _left_out():
        group = (cell.source, cell.group)
        for name, predicted in _predictions(cell, priors["prior"], fitted).items():
            known = np.isfinite(predicted)
            if known.sum() >= 3 and np.ptp(predicted[known]) > 0 and np.ptp(cell.outcome[known]):
                by_method[name][group].append(_figures(cell.outcome[known], predicted[known]))
        if cell.source == "rl_excursions":
            continue
        for name, prior in priors.items():
            order = _order(cell, prior)
            chances[name] += _pairs(order, cell.outcome)
            covered_at_0[name].append(_covered_standardised(order, cell.outcome))
        for n in N_OUTCOMES:
            if len(cell.frame) >= n + 3:
                for name, prior in priors.items():
                    rows = [_after(cell, prior, n, rng) for _ in range(n_draws)]
                    updated[f"{name}, {n}"] += rows
    return {
        "bench": "public_outcomes",
        "n_draws": n_draws,
        "methods": {name: _summary(groups) for name, groups in by_method.items()},
        "groups": {
            " / ".join(group): {name: _mean(by_method[name][group]) for name in (SCORE, "default")}
            for group in by_method[SCORE]
        },
        "calibration": {name: _calibration(pairs) for name, pairs in chances.items()},
        "coverage_0": {name: _rounded(np.mean(found)) for name, found in covered_at_0.items()},
        "updated": {name: _mean(rows) for name, rows in updated.items()},
        "judges": {name: _judged(*parts, n_draws) for name, parts in _judges()},
        "goals": GOALS,
        "reached": _reached(by_method, chances["prior"]),
    }


def _left_out() -> Iterator[tuple[Cell, dict[str, Prior], Any]]:
    """Yield each cell with what was learned from the other sources."""
    rows, sources = public_rows(), public_sources()
    everything = list(cells(rows))
    wanted = {cell.source for cell in everything if not sources[cell.source].excluded}
    for source in sorted(wanted | {"rl_excursions"}):
        prior = learn(rows[rows["source"] != source], sources)
        others = [c for c in everything if c.source in wanted and c.source != source]
        stated = {slope.kind: slope for slope in STATED}
        priors = {
            "prior": replace(prior, slopes=_slopes_of_others(prior)),
            "prior_stated": replace(prior, slopes=(stated["pass_at_k"],)),
        }
        fitted = fit_model(
            partial(make_model, DEFAULT_MODEL, [PROXIES[SCORE]]), _default_table(others)
        )
        for cell in everything:
            if cell.source == source and np.isfinite(cell.proxy(SCORE)).all():
                yield cell, priors, fitted


def _slopes_of_others(prior: Prior) -> tuple[Slope, ...]:
    """Slopes of pass@1 and the probe on the other sources, however few they are."""
    return tuple(
        replace(slope, kind=KIND_OF_PROXY[slope.kind])
        for slope in prior.measured
        if slope.kind in KIND_OF_PROXY
    )


def _default_table(others: Sequence[Cell]) -> Any:
    """Rows of other sources, each cell a group, outcomes standardised in it."""
    frames = [
        cell.frame.assign(cell=f"{cell.source}/{cell.group}/{cell.benchmark}").assign(
            standing=standardised(cell.outcome)
        )
        for cell in others
    ]
    frame = pd.concat(frames, ignore_index=True)
    return training_table(frame, target="standing", features=[SCORE], groups=["cell"])


def _predictions(cell: Cell, prior: Prior, fitted: Any) -> dict[str, FloatArray]:
    X = pd.DataFrame({SCORE: cell.proxy(SCORE), GROUP: "left out"})
    found = {name: cell.proxy(name) for name in PROXIES}
    found["prior"] = _order(cell, prior).score
    if np.isfinite(cell.proxy(PROBE)).all():
        found["prior_probe"] = _order(cell, prior, proxies=(SCORE, PROBE)).score
    found["default"] = np.asarray(fitted.predict(X))
    return found


def _order(
    cell: Cell,
    prior: Prior,
    outcome: FloatArray | None = None,
    proxies: Sequence[str] = (SCORE,),
) -> OrderPosterior:
    X = pd.DataFrame({name: cell.proxy(name) for name in proxies})
    return order_checkpoints(X, [PROXIES[name] for name in proxies], outcome, prior=prior)


def _figures(outcome: FloatArray, predicted: FloatArray) -> Figures:
    scores = PredictionScorer(outcome, predicted).scores(SHOWN)
    values = {name: score.value for name, score in scores.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def _pairs(order: OrderPosterior, outcome: FloatArray) -> list[tuple[float, float]]:
    """Chance of the likelier one of each pair, and whether it had the better outcome."""
    chances = order.chances_better("all")
    i, j = np.triu_indices(len(outcome), 1)
    differ = outcome[i] != outcome[j]
    p, won = chances[i, j][differ], (outcome[i] > outcome[j])[differ]
    is_first = p >= 0.5
    decided = p != 0.5
    likelier, right = np.where(is_first, p, 1 - p), np.where(is_first, won, ~won)
    return list(zip(likelier[decided].tolist(), right[decided].astype(float).tolist(), strict=True))


def _covered_standardised(order: OrderPosterior, outcome: FloatArray) -> float:
    """Share of standardised outcomes in the 90 % interval around the predicted standing."""
    score, y = order.score, standardised(outcome)
    squares = sum(
        c.weight * _row_variance(order, c.covariance, c.residual) for c in order.components
    )
    return float(np.mean(np.abs(y - score) <= norm.ppf(0.95) * np.sqrt(squares)))


def _row_variance(order: OrderPosterior, covariance: FloatArray, residual: float) -> Any:
    slopes = order.rows.design[:, : order.rows.n_slopes]
    n = order.rows.n_slopes
    shared = np.einsum("ni,ij,nj->n", slopes, covariance[:n, :n], slopes)
    return shared + (residual * order.rows.residual) ** 2


def _after(cell: Cell, prior: Prior, n: int, rng: np.random.Generator) -> Figures:
    """Figures of the other rows after n random outcomes of the group."""
    recorded = rng.choice(len(cell.frame), n, replace=False)
    outcome = np.full(len(cell.frame), np.nan)
    outcome[recorded] = cell.outcome[recorded]
    if np.ptp(cell.outcome[recorded]) == 0 and n > 2:
        return {}
    order = _order(cell, prior, outcome)
    rest = np.isnan(outcome)
    truth, (low, high) = cell.outcome[rest], order.interval(0.9)
    inside = (truth >= low[rest]) & (truth <= high[rest])
    widths = {"coverage": float(inside.mean()), "width": float((high - low)[rest].mean())}
    if np.ptp(truth) == 0 or np.ptp(order.score[rest]) == 0:
        return widths
    prior_alone = _figures(truth, _order(cell, prior).score[rest])
    before = {f"{key}_prior": value for key, value in prior_alone.items()}
    return {**widths, **_figures(truth, order.score[rest]), **before}


def _judges() -> Iterator[tuple[str, tuple[pd.DataFrame, FloatArray]]]:
    """Yield name, scores and own-style losses, and outcomes of checkpoints of one base."""
    retu = pd.read_csv(DATA / "retu" / "checkpoints.csv")
    retu = retu[retu["post_overall_smooth5_peak"].notna() & (retu["sft_data"] != "base")]
    X = pd.DataFrame({SCORE: retu["pre_overall"] / 100.0, LOSS.name: retu["val_loss"]})
    yield "retu", (X, np.asarray(retu["post_overall_smooth5_peak"]) / 100.0)
    testbed = pd.read_csv(ROOT / "testbed" / "results" / "full.csv")
    own = [row[f"heldout_nll@heldout_{row['recipe.style']}"] for _, row in testbed.iterrows()]
    X = pd.DataFrame({SCORE: testbed["pass_at_1@world"], LOSS.name: own})
    yield "testbed", (X, np.asarray(testbed["value_at_budget/60steps@world_after"]))


def _judged(X: pd.DataFrame, y: FloatArray, n_draws: int) -> dict[str, Figures]:
    """Figures of pass@1 and of the prior with pass@1 and loss, after 0 to 12 outcomes."""
    columns = [PROXIES[SCORE], LOSS]
    rng = np.random.default_rng(0)
    found = {"pass_at_1": _mean([_figures(y, np.asarray(X[SCORE]))])}
    for n in JUDGED_AFTER:
        rows = []
        for _ in range(n_draws if n else 1):
            outcome = np.full(len(y), np.nan)
            recorded = rng.choice(len(y), n, replace=False)
            outcome[recorded] = y[recorded]
            rest = np.isnan(outcome)
            order = order_checkpoints(X, columns, outcome, own_style=[LOSS.name])
            low, high = order.interval(0.9)
            figures = _figures(y[rest], order.score[rest])
            if n:
                figures["coverage"] = float(np.mean((y >= low)[rest] & (y <= high)[rest]))
                figures["width"] = float(np.mean((high - low)[rest]))
            rows.append(figures)
        found[f"after {n}"] = _mean(rows)
    return found


def _summary(groups: Mapping[tuple[str, str], Sequence[Figures]]) -> dict[str, Any]:
    """Medians over groups, rl_excursions apart, with the sources that stand behind them."""
    used = {group: _mean(rows) for group, rows in groups.items() if group[0] != "rl_excursions"}
    apart = [_mean(rows) for group, rows in groups.items() if group[0] == "rl_excursions"]
    summary: dict[str, Any] = {"groups": len(used), "sources": len({g for g, _ in used})}
    for name in SHOWN:
        values = [row[name] for row in used.values() if name in row]
        summary[name] = _rounded(np.median(values)) if values else None
    summary["better_than_chance"] = sum(row["decision_accuracy"] > 0.5 for row in used.values())
    if apart:
        summary["rl_excursions_spearman"] = _rounded(np.median([row["spearman"] for row in apart]))
    return summary


def _mean(rows: Sequence[Figures]) -> Figures:
    keys = sorted({key for row in rows for key in row})
    return {key: _rounded(np.mean([row[key] for row in rows if key in row])) for key in keys}


def _calibration(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    p, right = np.array(pairs).T
    found = []
    for low, high in pairwise(BINS):
        inside = (p >= low) & (p < high)
        if inside.sum() >= 10:
            found.append([_rounded(p[inside].mean()), _rounded(right[inside].mean()), inside.sum()])
    total = sum(n for *_, n in found)
    gap = sum(n * abs(said - was) for said, was, n in found) / total
    return {"bins": [[s, w, int(n)] for s, w, n in found], "mean_gap": _rounded(gap)}


def _reached(by_method: Any, pairs: Sequence[tuple[float, float]]) -> dict[str, bool]:
    prior, practice = (_summary(by_method[name]) for name in ("prior", SCORE))
    return {
        "better_than_chance": prior["better_than_chance"] >= 0.8 * prior["groups"],
        "gain_over_pass_at_1": prior["spearman"] >= practice["spearman"] + 0.05,
        "calibrated_within": _calibration(pairs)["mean_gap"] <= GOALS["calibrated_within"],
    }


def _rounded(value: Any) -> float:
    return round(float(value), 3)


def _show(result: Mapping[str, Any]) -> None:
    print("each source left out, medians over groups of one base")
    titles = ("groups", "sources", *SHOWN, "better_than_chance")
    print(f"{'':18s}" + "".join(f"{title[:18]:>19s}" for title in titles))
    for name, row in result["methods"].items():
        print(f"{name:18s}" + "".join(f"{row[title]!s:>19s}" for title in titles))
    print("\nchance of the likelier of two (claimed, realised, pairs)")
    for name, found in result["calibration"].items():
        print(f"  {name:14s} {found['bins']}; mean gap {found['mean_gap']}")
    print(f"\ncoverage of 90 % intervals, standardised, no outcome: {result['coverage_0']}")
    print("after n outcomes of the group, the other rows:")
    for n, row in result["updated"].items():
        print(f"  {n}: {row}")
    for judge, rows in result["judges"].items():
        print(f"\n{judge}")
        for name, row in rows.items():
            print(f"  {name:10s} {row}")
    print(f"\ngoals: {result['goals']}\nreached: {result['reached']}")


if __name__ == "__main__":
    main()
