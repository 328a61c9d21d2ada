"""Claim: 90 % intervals hold 87-93 % of outcomes, where the group is known and where it is not.

Simulated registries (`predictors/simulation.py`): 6-12 groups of 12 checkpoints with outcomes, two
more groups with 3 anchors each, and three groups without any; group sd 6, sd inside groups 3, RL
noise 0.8, eight proxies with measured noise. Judged are rows that no fit has seen:

- known: further rows of the groups with 12 outcomes: cover 0.87..0.93, width <= 1.25 x oracle;
- 3 anchors: further rows of the groups with 3 outcomes: the same goal;
- new: rows of groups without outcomes; below 9 groups nothing may be labelled distribution-free;
- row-wise: what plain row-wise conformal, the usual practice, covers on the same new groups.

The oracle knows the law and all its variances: the best linear predictor of the row's outcome from
its own proxies and the group's anchors (their proxies and outcomes), with its exact predictive sd.
`predictive` is the joint law that rankings and plans draw from: coverage of one run's outcome and
of the true score, chance to be the best against how often it is, expected regret against realised.

    python bench/coverage.py [--quick] [--json] [--model NAME] [--registries 120] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student
from simulation import PROXIES, Simulated, World, simulate

from rlready.predictors.calibration.intervals import Regime
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.training_table import FloatArray, Kind, TrainingTable

LEVEL = 0.9
COVER = (0.87, 0.93)
WIDTH = 1.25
SIZES = (6, 7, 8, 9, 10, 12)
N_ROWS, N_MORE, N_ANCHORS, N_ANCHORED, N_NEW = 12, 16, 3, 2, 3
N_DRAWS = 2_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """A world, and what is added to its outcomes: `tail` times a t variate of 3 degrees."""

    name: str
    world: World
    tail: float = 0.0


NOISY = tuple(replace(proxy, noise=3.0 * proxy.noise) for proxy in PROXIES)
CASES = (
    Case(name="as claimed", world=World()),
    Case(name="group sd 2", world=World(group_sd=2.0)),
    Case(name="proxies' noise x 3", world=World(proxies=NOISY)),
    Case(name="heavy tails (t3)", world=World(), tail=1.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12 registries of one world")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--model", default="default")
    parser.add_argument("--registries", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = []
    for index, case in enumerate(CASES[:1] if arguments.quick else CASES):
        n = 12 if arguments.quick else arguments.registries // (1 if index == 0 else 3)
        results.append(_measure(case, n, arguments.model, arguments.seed))
        if not arguments.json:
            _show(results[-1])
    first = results[0]
    print(
        json.dumps(
            {
                "bench": "coverage",
                "model": arguments.model,
                "cases": results,
                "reached": _reached(first),
            }
        )
    )


def _reached(result: dict[str, Any]) -> bool:
    return not result["n_wrongly_labelled"] and all(
        COVER[0] <= result[name]["cover"] <= COVER[1] and result[name]["over_oracle"] <= WIDTH
        for name in ("known", "3 anchors")
    )


def _measure(case: Case, n_registries: int, model: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    wrongly = 0
    began = time.process_time()
    for index in range(n_registries):
        n_groups = SIZES[index % len(SIZES)]
        made = _registry(case, n_groups, rng)
        table, group_of = made.table, _group_of(made.table)
        at = np.tile(np.arange(N_ROWS + N_MORE), n_groups + N_ANCHORED + N_NEW)
        is_full, is_new = group_of < n_groups, group_of >= n_groups + N_ANCHORED
        train = (is_full & (at < N_ROWS)) | (~is_full & ~is_new & (at < N_ANCHORS))
        predictor = CalibratedPredictor(model, level=LEVEL).fit(table.rows(train))
        parts = {
            "known": is_full & ~train,
            "3 anchors": ~is_full & ~is_new & ~train,
            "new, G < 9" if n_groups + N_ANCHORED < 9 else "new, G >= 9": is_new,
        }
        for name, rows in parts.items():
            anchors = {"known": N_ROWS, "3 anchors": N_ANCHORS}.get(name, 0)
            figures, regimes = _judge(predictor, made, train, rows, anchors, case, rng)
            found[name].append(figures)
            if n_groups + N_ANCHORED < 9:
                wrongly += sum(Regime(regime) is Regime.NEW_GROUP for regime in regimes)
        found["row-wise on new groups"].append(_row_wise(predictor, table.rows(is_new)))
    result: dict[str, Any] = {"case": case.name, "n_registries": n_registries}
    for name, figures in sorted(found.items()):
        result[name] = _summary(figures)
    result["n_wrongly_labelled"] = int(wrongly)
    result["cpu_s"] = round(time.process_time() - began, 1)
    return result


def _registry(case: Case, n_groups: int, rng: np.random.Generator) -> Simulated:
    made = simulate(n_groups + N_ANCHORED + N_NEW, N_ROWS + N_MORE, rng, case.world)
    y = made.table.y + case.tail * rng.standard_t(3, size=len(made.table))
    return replace(made, table=replace(made.table, y=y))


def _group_of(table: TrainingTable) -> FloatArray:
    return np.array([int(name[1:]) for name in table.groups], dtype=np.float64)


def _judge(
    predictor: CalibratedPredictor,
    made: Simulated,
    train: np.ndarray,
    rows: np.ndarray,
    anchors: int,
    case: Case,
    rng: np.random.Generator,
) -> tuple[dict[str, float], list[str]]:
    table, truth = made.table.rows(rows), made.truth[rows]
    said = predictor.assess(table.X)
    low, high = said["low"].to_numpy(), said["high"].to_numpy()
    run, true = (predictor.predictive(table.X, noise=noise) for noise in (True, False))
    tail = 0.5 + LEVEL / 2
    run_half = student.ppf(tail, run.df) * run.sd
    true_half = student.ppf(tail, true.df) * true.sd
    best, oracle = _oracle(made.table, train, rows, anchors, case)
    figures = {
        "n": float(len(table)),
        "cover": np.mean((table.y >= low) & (table.y <= high)),
        "width": np.mean(high - low),
        "oracle_cover": np.mean(np.abs(table.y - best) <= norm.ppf(tail) * oracle),
        "oracle_width": 2 * norm.ppf(tail) * oracle,
        "predictive_cover": np.mean(np.abs(table.y - run.mean) <= run_half),
        "predictive_true_cover": np.mean(np.abs(truth - true.mean) <= true_half),
        **_choice(true.draw(N_DRAWS, rng), true.mean, truth, table.groups),
    }
    return {key: float(value) for key, value in figures.items()}, list(said["regime"])


def _choice(
    draws: FloatArray, mean: FloatArray, truth: FloatArray, groups: np.ndarray
) -> dict[str, float]:
    """Inside each group: is the chosen row the best as often, and as nearly, as it was said?"""
    said, is_best, expected, realised = [], [], [], []
    for name in np.unique(groups):
        inside = np.flatnonzero(groups == name)
        chosen = inside[np.argmax(mean[inside])]
        top = draws[:, inside].max(axis=1)
        said.append(np.mean(draws[:, chosen] >= top))
        expected.append(np.mean(top - draws[:, chosen]))
        is_best.append(truth[chosen] >= truth[inside].max())
        realised.append(truth[inside].max() - truth[chosen])
    return {
        "p_best": float(np.mean(said)),
        "is_best": float(np.mean(is_best)),
        "regret_expected": float(np.mean(expected)),
        "regret": float(np.mean(realised)),
    }


def _row_wise(predictor: CalibratedPredictor, table: TrainingTable) -> dict[str, float]:
    """The usual practice: the quantile of residuals of rows held out one by one."""
    residuals = np.abs(predictor.calibration_.by_row.residuals)
    residuals = residuals[np.isfinite(residuals)]
    half = np.quantile(residuals, LEVEL, method="higher")
    covered = np.abs(table.y - predictor.predict(table.X)) <= half
    return {"n": float(len(table)), "cover": float(covered.mean()), "width": float(2 * half)}


def _oracle(
    table: TrainingTable, train: np.ndarray, rows: np.ndarray, anchors: int, case: Case
) -> tuple[FloatArray, float]:
    """Best linear prediction of each row's outcome, and its sd, from the law itself."""
    world = case.world
    z, groups = _standardised(table, world), table.groups
    p = z.shape[1]
    validity = np.array([proxy.validity for proxy in world.proxies])
    noise = np.array([proxy.noise for proxy in world.proxies])
    same = np.outer(validity, validity) + np.diag(1 - validity**2 + noise**2)
    shared = world.shift**2 * np.eye(p)
    eye, ones = np.eye(anchors + 1), np.ones((anchors + 1, anchors + 1))
    z_z = np.kron(eye, same) + np.kron(ones, shared)
    y_z = np.kron(eye, world.within_sd * validity[None, :])
    # A t variate of 3 degrees of freedom has the variance 3.
    noise_var = world.rl_noise**2 + 3.0 * case.tail**2
    y_y = (world.within_sd**2 + noise_var) * eye + world.group_sd**2 * ones
    # The row itself comes last; its outcome is what is asked for.
    seen = np.block([[y_y[:-1, :-1], y_z[:-1]], [y_z[:-1].T, z_z]])
    asked = np.concatenate([y_y[-1, :-1], y_z[-1]])
    weights = np.linalg.solve(seen, asked)
    sd = float(np.sqrt(y_y[-1, -1] - asked @ weights))
    best = np.empty(int(rows.sum()))
    for position, row in enumerate(np.flatnonzero(rows)):
        given = np.flatnonzero(train & (groups == groups[row])) if anchors else []
        proxies = np.vstack([z[given], z[[row]]]).ravel() if anchors else z[row]
        known = np.concatenate([table.y[given] - 60.0, proxies]) if anchors else proxies
        best[position] = 60.0 + weights @ known
    return best, sd


def _standardised(table: TrainingTable, world: World) -> FloatArray:
    """(n, p) the law's own z: the links of `simulation.py`, inverted."""
    columns = []
    for proxy in world.proxies:
        x = table.X[proxy.name].to_numpy(dtype=float)
        if proxy.kind is Kind.PROBABILITY:
            x = np.log(x / (1.0 - x)) / 0.6
        elif proxy.kind is Kind.LOSS:
            x = np.log(x / 0.6) / 0.15
        elif proxy.kind is Kind.COUNT:
            x = np.log(x / 800.0) / 0.3
        columns.append(x)
    return np.column_stack(columns)


def _summary(figures: list[dict[str, float]]) -> dict[str, float]:
    mean = {key: float(np.mean([one[key] for one in figures])) for key in figures[0]}
    mean["n"] = float(sum(one["n"] for one in figures))
    mean["cover_se"] = float(
        np.std([one["cover"] for one in figures]) / np.sqrt(max(len(figures) - 1, 1))
    )
    if "oracle_width" in mean:
        mean["over_oracle"] = mean["width"] / mean["oracle_width"]
    return {key: round(value, 4) for key, value in mean.items()}


def _show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['case']}: {result['n_registries']} registries, {result['cpu_s']:.0f} CPU s; "
        f"intervals labelled distribution-free below 9 groups: {result['n_wrongly_labelled']}"
    )
    print(
        f"{'rows':24}{'n':>7}{'cover':>15}{'width':>8}{'/oracle':>8}{'oracle c.':>10}"
        f"{'law: run':>9}{'true':>7}{'P(best)':>9}{'is best':>8}{'E regret':>9}{'regret':>8}"
    )
    for name, one in result.items():
        if not isinstance(one, dict):
            continue
        line = f"{name:24}{one['n']:7.0f}{one['cover']:9.3f} ± {one['cover_se']:.3f}"
        line += f"{one['width']:8.2f}"
        if "over_oracle" in one:
            line += f"{one['over_oracle']:8.2f}{one['oracle_cover']:10.3f}"
            line += f"{one['predictive_cover']:9.3f}{one['predictive_true_cover']:7.3f}"
            line += f"{one['p_best']:9.2f}{one['is_best']:8.2f}"
            line += f"{one['regret_expected']:9.2f}{one['regret']:8.2f}"
        print(line)


if __name__ == "__main__":
    main()
