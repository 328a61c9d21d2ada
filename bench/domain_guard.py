"""Claim: at least 95 % of rows shifted by 3 sd are flagged, at most 5 % of rows that are not.

Simulated registries of 6-12 groups with 12 training rows each. Fresh rows follow the training law,
in the known groups and in a new one. Shifted rows have every proxy moved by 3 standard deviations
on its linear scale, of its spread inside groups ("inside") or of its whole spread, groups' levels
included ("whole"); the direction of each proxy is drawn for each row ("any way"), or the same for
all ("up"), or the one in which good checkpoints go ("better": the hardest to tell from a good
checkpoint). A whole new group is shifted by the whole spread. Baseline in the same run: the range
test alone, as guards usually are: a row is flagged if a raw proxy lies beyond the training range.
A single proxy moved by 3 sd is shown without a goal: one that stands alone is told from chance by
no test of 5 % more than 9 times in 10.

    python bench/domain_guard.py [--quick] [--json] [--registries 120] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from simulation import PROXIES, World, simulate

from rlready.predictors.calibration.domain import Place, TrainingDomain, domain_of
from rlready.predictors.training_table import FloatArray, Kind

FLAGGED, FALSE = 0.95, 0.05
ONE_PROXY = "one proxy 3 sd inside (no goal)"
SIZES = (6, 7, 8, 9, 10, 12)
N_ROWS, N_MORE = 12, 12
MANY = tuple(replace(proxy, name=f"{proxy.name}{i}") for i in range(5) for proxy in PROXIES)
CASES = {
    "8 proxies": (World(), N_ROWS),
    "40 proxies": (World(proxies=MANY), N_ROWS),
    "5 rows a group": (World(), 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 registries of one kind")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--registries", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cases = {}
    for name, (world, n_rows) in list(CASES.items())[: 1 if arguments.quick else None]:
        n = 24 if arguments.quick else arguments.registries
        cases[name] = _measure(world, n_rows, n, np.random.default_rng(arguments.seed))
        if not arguments.json:
            _show(name, n, cases[name])
    first = cases["8 proxies"]
    reached = all(
        value["flagged"] <= FALSE if key.startswith("fresh") else value["flagged"] >= FLAGGED
        for key, value in first.items()
        if key != ONE_PROXY
    )
    print(json.dumps({"bench": "domain_guard", "cases": cases, "reached": reached}))


def _measure(
    world: World, n_rows: int, n_registries: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for index in range(n_registries):
        n_groups = SIZES[index % len(SIZES)]
        table = simulate(n_groups + 1, n_rows + N_MORE, rng, world).table
        at = np.tile(np.arange(n_rows + N_MORE), n_groups + 1)
        is_new = table.groups == f"g{n_groups:02d}"
        train = table.rows(~is_new & (at < n_rows))
        domain = domain_of(train)
        raw = train.X[domain.names]
        known, new = table.rows(~is_new & (at >= n_rows)).X, table.rows(is_new & (at < N_ROWS)).X

        def judge(
            name: str, X: pd.DataFrame, domain: TrainingDomain = domain, raw: pd.DataFrame = raw
        ) -> None:
            places = domain.place(X).places
            outside = (X[domain.names] < raw.min()) | (X[domain.names] > raw.max())
            found[name].append(
                (
                    float(np.mean([place is not Place.IN for place in places])),
                    float(np.mean([place is Place.OUT for place in places])),
                    float(outside.any(axis=1).mean()),
                )
            )

        judge("fresh rows, known groups", known)
        judge("fresh rows, new group", new)
        _judge_shifted(judge, domain, known, new, world, rng)
    return {
        name: {
            "flagged": round(float(np.mean([one[0] for one in all_])), 4),
            "flagged_se": round(float(np.std([one[0] for one in all_]) / np.sqrt(len(all_))), 4),
            "out": round(float(np.mean([one[1] for one in all_])), 4),
            "range_only": round(float(np.mean([one[2] for one in all_])), 4),
        }
        for name, all_ in found.items()
    }


def _judge_shifted(
    judge: Callable[[str, pd.DataFrame], None],
    domain: TrainingDomain,
    known: pd.DataFrame,
    new: pd.DataFrame,
    world: World,
    rng: np.random.Generator,
) -> None:
    inside = domain.sd
    whole = np.hypot(inside, domain.centres.std(axis=0, ddof=1))
    better = np.sign([proxy.validity or 1.0 for proxy in world.proxies])
    p = len(inside)
    for said, sd in (("inside", inside), ("whole", whole)):
        any_way = rng.choice([-1.0, 1.0], size=(len(known), p))
        for way, sign in (("any way", any_way), ("up", np.ones(p)), ("better", better)):
            judge(f"3 sd {said}, {way}", _shifted(domain, known, 3.0 * sd * sign))
    alone = np.eye(p)[rng.integers(p, size=len(known))] * any_way
    judge(ONE_PROXY, _shifted(domain, known, 3.0 * inside * alone))
    for way, sign in (("any way", rng.choice([-1.0, 1.0], size=p)), ("better", better)):
        judge(f"new group 3 sd whole, {way}", _shifted(domain, new, 3.0 * whole * sign))


def _shifted(domain: TrainingDomain, X: pd.DataFrame, by: FloatArray) -> pd.DataFrame:
    """Rows moved on the linear scale of each proxy."""
    X = X.copy()
    moves = np.broadcast_to(by, (len(X), len(domain.names)))
    for k, (name, kind) in enumerate(zip(domain.names, domain.kinds, strict=True)):
        x = X[name].to_numpy(dtype=float)
        if kind == Kind.LOSS:
            X[name] = x * np.exp(moves[:, k])
        elif kind == Kind.COUNT:
            X[name] = np.maximum(np.expm1(np.log1p(x) + moves[:, k]), 0.0)
        elif kind == Kind.PROBABILITY:
            X[name] = 1.0 / (1.0 + (1.0 / x - 1.0) * np.exp(-moves[:, k]))
        else:
            X[name] = x + moves[:, k]
    return X


def _show(name: str, n_registries: int, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{name}: {n_registries} registries (fresh <= {FALSE}, shifted >= {FLAGGED})")
    print(f"{'rows':34}{'flagged':>16}{'of them out':>13}{'range test alone':>18}")
    for rows, one in found.items():
        print(
            f"{rows:34}{one['flagged']:8.3f} ± {one['flagged_se']:.3f}{one['out']:13.3f}"
            f"{one['range_only']:18.3f}"
        )


if __name__ == "__main__":
    main()
