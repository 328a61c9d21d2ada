"""Claim: stopping trials by their chance to end in the top 3 halves the cost of RL on all of them.

Trials climb rung by rung, four at a time, as `rlready search run` takes them up; stopped ones go on
when their chances rise (`predictors/ladder`). Each replicate draws trials and their order anew.
What the ladder spent is what every other policy may spend:

    random       SFT and RL of trials in their order, until the budget is gone
    pass@1       all are trained and sampled; RL for the best pass@1 while the budget lasts
    halving      all climb; at each rung the same share goes on, by that rung's value, and the
                 share is the largest that the budget pays: it is told the ladder's cost
                 beforehand ("half": one half at each rung, at least 3, at its own cost)

Of those that had RL the three best seen outcomes are chosen; an outcome is seen with the noise of
one RL seed. regret@1, regret@3: true score of the best trial less that of the best choice, or of
the best of the three. loss of top 3: mean true score of the best three less that of the chosen.
pass@1 and halving need all trials at once; in a search later recipes follow from earlier outcomes,
where the ladder and random alone can be had.

Worlds: `testbed/results/full.csv`, 48 SFT checkpoints with true outcomes after 60 GRPO steps (costs
in CPU seconds of the testbed; probe: 30 steps), 36 of them cold, or with the 12 others as a
registry that cost nothing; and made-up ones (`predictors/simulation`, costs in GPU-hours): as the
ladder's law has it, or with proxies whose levels differ between two families of trials, or with
outcomes that end in a plateau.

To reach, at promote_at 0.1: at most half the cost of RL on all, and a loss of the top 3 that no
policy of that cost undercuts beyond the 95 % interval of the difference.

    python bench/ladder.py [--quick] [--json] [--replicates 20] [--promote-at 0.1 0.2]
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from simulation import SimulatedProxy, World, simulate

from rlready.predictors.search.ladder import Climbs, Ladder, Rung, decide, standings
from rlready.predictors.training_table import Kind

TABLE = Path(__file__).parents[1] / "testbed" / "results" / "full.csv"
RL_SEED_SD = 0.016
TOP, WORKERS, PROMOTE_AT = 3, 4, 0.1
# SFT 6, held-out loss 0.4, 16 and then 48 more samples a problem, 30 GRPO steps and 30 more.
TESTBED_COSTS = {"sft": 6.0, "nll": 0.4, "pass_16": 1.6, "pass_64": 4.8, "probe": 15.0, "rl": 15.0}
SIMULATED_COSTS = {
    "sft": 8.0,
    "nll": 0.2,
    "pass_16": 1.0,
    "pass_64": 3.0,
    "probe": 20.0,
    "rl": 80.0,
}
SIMULATED = (
    SimulatedProxy(name="heldout_nll@sim", kind=Kind.LOSS, validity=-0.7, noise=0.1),
    SimulatedProxy(name="pass_at_16@sim", kind=Kind.PROBABILITY, validity=0.75, noise=0.25),
    SimulatedProxy(name="pass_at_64@sim", kind=Kind.PROBABILITY, validity=0.8, noise=0.3),
    SimulatedProxy(name="score_probe@sim", kind=Kind.PLAIN, validity=0.93, noise=0.1),
    SimulatedProxy(name="pass_at_1@sim", kind=Kind.PROBABILITY, validity=0.6, noise=0.15),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """A replicate: rungs (n, 5) as measured, the last one the outcome; pass@1; true scores.

    The first `n_known` trials are a registry: they have all values, cost nothing, and no policy may
    choose them. `stood` keeps standings that were asked for before.
    """

    values: Any
    signs: tuple[int, ...]
    pass_1: Any
    truth: Any
    costs: dict[str, float]
    n_known: int = 0
    stood: dict[bytes, Any] = field(default_factory=dict)

    @property
    def rung_costs(self) -> Any:
        """(5,) cost of each rung beyond the one before."""
        cost = self.costs
        first = cost["sft"] + cost["nll"]
        return np.array([first, cost["pass_16"], cost["pass_64"], cost["probe"], cost["rl"]])

    @property
    def new(self) -> Any:
        """Positions of the trials that may be chosen."""
        return np.arange(self.n_known, len(self.truth))

    @property
    def full_cost(self) -> float:
        """Of SFT and RL alone, without the measurements in between."""
        return self.costs["sft"] + self.costs["probe"] + self.costs["rl"]


Draw = Callable[[int], Trials]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="testbed, cold, 6 replicates")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--replicates", type=int)
    parser.add_argument("--promote-at", type=float, nargs="+", default=[PROMOTE_AT])
    arguments = parser.parse_args()
    n = arguments.replicates or (6 if arguments.quick else 20)

    began = time.process_time()
    rows = []
    for world, draw in worlds(arguments.quick).items():
        rows += compared(world, draw, tuple(arguments.promote_at), n)
        if not arguments.json:
            show([row for row in rows if row["world"] == world])
    result = {
        "bench": "ladder",
        "n_replicates": n,
        "rows": rows,
        "reached": {world: reached(rows, world) for world in worlds(arguments.quick)},
        "cpu_s": round(time.process_time() - began, 1),
    }
    if not arguments.json:
        print(f"reached at {rows[0]['at']:g}: {result['reached']} ({result['cpu_s']} CPU-s)")
    print(json.dumps(result))


def worlds(quick: bool) -> dict[str, Draw]:
    table = testbed()
    found: dict[str, Draw] = {"testbed, cold": lambda seed: from_table(table, seed, 0)}
    if quick:
        return found
    found["testbed, registry of 12"] = lambda seed: from_table(table, seed, 12)
    found["as the law has it"] = lambda seed: simulated(seed)
    found["two families"] = lambda seed: simulated(seed, n_groups=2, shift=1.0)
    found["plateau"] = lambda seed: simulated(seed, plateau=True)
    return found


def testbed() -> Any:
    """(48, 6) loss, pass@16, pass@64, score at 30 steps, at 60 steps; pass@1."""
    names = [
        *("heldout_nll@heldout_canonical", "pass_at_16@world", "pass_at_64@world"),
        *("value_at_budget/30steps@world_after", "value_at_budget/60steps@world_after"),
        "pass_at_1@world",
    ]
    with TABLE.open(newline="") as file:
        return np.array([[float(row[name]) for name in names] for row in csv.DictReader(file)])


def from_table(table: Any, seed: int, n_known: int) -> Trials:
    rng = np.random.default_rng(seed)
    rows = table[rng.permutation(len(table))[: 36 + n_known]]
    values = rows[:, :5].copy()
    values[:, 4] += RL_SEED_SD * rng.standard_normal(len(values))
    return Trials(
        values=values,
        signs=(-1, 1, 1, 1),
        pass_1=rows[:, 5],
        truth=rows[:, 4],
        costs=TESTBED_COSTS,
        n_known=n_known,
    )


def simulated(seed: int, n_groups: int = 1, shift: float = 0.0, plateau: bool = False) -> Trials:
    rng = np.random.default_rng([seed, 1])
    law = World(group_sd=0.0, within_sd=3.0, rl_noise=0.0, shift=shift, proxies=SIMULATED)
    made = simulate(n_groups, 36 // n_groups, rng, law)
    order = rng.permutation(36)
    truth = made.truth[order]
    if plateau:
        # Nearly linear for the lower half, flat for the upper one.
        truth = 60.0 - 3.0 * np.log1p(np.exp(-(truth - 60.0) / 1.5))
    table = made.table.X[[proxy.name for proxy in SIMULATED]].to_numpy()[order]
    seen = truth + 0.8 * rng.standard_normal(36)
    return Trials(
        values=np.column_stack([table[:, :4], seen]),
        signs=(-1, 1, 1, 1),
        pass_1=table[:, 4],
        truth=truth,
        costs=SIMULATED_COSTS,
    )


def ladder_of(trials: Trials, promote_at: float) -> Ladder:
    names = ("heldout_nll", "pass_at_16", "pass_at_64", "score_probe", "rl")
    costs = trials.rung_costs
    return Ladder(
        rungs=tuple(Rung(name=n, gpu_hours=float(c)) for n, c in zip(names, costs, strict=True)),
        top=TOP,
        promote_at=promote_at,
        min_keep=TOP,
    )


def climb(trials: Trials, ladder: Ladder) -> tuple[Any, float]:
    """Trials that had RL, and what all cost."""
    n, end = len(trials.truth), len(ladder.rungs) - 1
    reached = np.where(np.arange(n) < trials.n_known, end, -1)
    waiting, working, stopped = [int(i) for i in trials.new], [], {}
    while True:
        n_complete = int((reached == end).sum())
        while len(working) < WORKERS:
            again = promising(trials, ladder, reached, stopped, n_complete)
            if again is not None:
                del stopped[again]
                working.append(again)
            elif waiting:
                working.append(waiting.pop(0))
            else:
                break
        if not working:
            return trials.new[reached[trials.new] == end], float(spent(trials, reached))
        for one in working:
            reached[one] += 1
        found, climbs, rows = stand(trials, ladder, reached)
        n_complete = int((reached == end).sum())
        for one in tuple(working):
            is_done = reached[one] == end
            if is_done or not decide(ladder, climbs, found, rows[one]).goes_on:
                working.remove(one)
                if not is_done:
                    stopped[one] = n_complete


def promising(
    trials: Trials, ladder: Ladder, reached: Any, stopped: dict[int, int], n_complete: int
) -> int | None:
    """The stopped trial that goes on again, as `search_ladder.taken_up` has it."""
    changed = [one for one, before in stopped.items() if before < n_complete]
    if not changed:
        return None
    found, _, rows = stand(trials, ladder, reached)
    rising = [
        one for one in changed if found.p_top[rows[one]] >= ladder.least_chance(int(reached[one]))
    ]
    return max(rising, key=lambda one: float(found.p_top[rows[one]]), default=None)


def stand(trials: Trials, ladder: Ladder, reached: Any) -> tuple[Any, Climbs, dict[int, int]]:
    begun = np.flatnonzero(reached >= 0)
    is_hidden = np.arange(len(ladder.rungs)) > reached[begun, None]
    climbs = Climbs(
        values=np.where(is_hidden, np.nan, trials.values[begun]),
        errors=np.full(is_hidden.shape, np.nan),
        is_open=np.ones(len(begun), dtype=bool),
    )
    key = reached.tobytes()
    if key not in trials.stood:
        trials.stood[key] = standings(ladder, climbs, n_draws=512)
    return trials.stood[key], climbs, {int(one): row for row, one in enumerate(begun)}


def spent(trials: Trials, reached: Any) -> float:
    upto = np.r_[0.0, np.cumsum(trials.rung_costs)]
    return float(upto[reached[trials.new] + 1].sum())


def at_random(trials: Trials, budget: float) -> tuple[Any, float]:
    n = min(len(trials.new), int(budget / trials.full_cost + 1e-9))
    return trials.new[:n], n * trials.full_cost


def by_pass_1(trials: Trials, budget: float) -> tuple[Any, float]:
    cost = trials.costs
    before = len(trials.new) * (cost["sft"] + cost["pass_16"] + cost["pass_64"])
    each = cost["probe"] + cost["rl"]
    n = int(np.clip((budget - before) / each, 0, len(trials.new)))
    order = trials.new[np.argsort(-trials.pass_1[trials.new], kind="stable")]
    return order[:n], before + n * each


def halved(trials: Trials, share: float) -> tuple[Any, float]:
    left, cost = trials.new, 0.0
    for rung, each in enumerate(trials.rung_costs):
        cost += len(left) * each
        if rung < len(trials.signs):
            order = np.argsort(-trials.signs[rung] * trials.values[left, rung], kind="stable")
            left = left[order[: max(TOP, round(share * len(left)))]]
    return left, cost


def by_halving(trials: Trials, budget: float) -> tuple[Any, float]:
    """Successive halving with the largest share that the budget pays."""
    paid = [
        found
        for share in np.linspace(0.02, 1.0, 99)[::-1]
        if (found := halved(trials, share))[1] <= budget
    ]
    return paid[0] if paid else halved(trials, 0.02)


def judged(trials: Trials, had_rl: Any, cost: float) -> dict[str, float]:
    truth, full = trials.truth[trials.new], len(trials.new) * trials.full_cost
    best = np.sort(truth)[::-1]
    order = had_rl[np.argsort(-trials.values[had_rl, -1], kind="stable")][:TOP]
    chosen = trials.truth[order] if len(order) else np.array([truth.min()])
    return {
        "cost": cost / full,
        "regret_1": float(best[0] - chosen[0]),
        "regret_3": float(best[0] - chosen.max()),
        "loss_3": float(best[:TOP].mean() - np.r_[chosen, [truth.min()] * TOP][:TOP].mean()),
        "n_rl": float(len(had_rl)),
    }


def compared(world: str, draw: Draw, thresholds: tuple[float, ...], n: int) -> list[dict[str, Any]]:
    rows = []
    for promote_at in thresholds:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(n):
            trials = draw(seed)
            had_rl, cost = climb(trials, ladder_of(trials, promote_at))
            policies = {
                f"ladder {promote_at:g}": (had_rl, cost),
                "random": at_random(trials, cost),
                "pass@1": by_pass_1(trials, cost),
                "halving": by_halving(trials, cost),
            }
            if promote_at == thresholds[0]:
                policies["half"] = halved(trials, 0.5)
                policies["RL on all"] = at_random(trials, len(trials.new) * trials.full_cost)
            for name, (chosen, its_cost) in policies.items():
                found.setdefault(name, []).append(judged(trials, chosen, its_cost))
        ours = found[f"ladder {promote_at:g}"]
        rows += [
            {"world": world, "at": promote_at, "policy": name, **summary(own, ours)}
            for name, own in found.items()
        ]
    return rows


def summary(own: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, Any]:
    """Means, and the ladder's loss less theirs with its 95 % interval over replicates."""
    found: dict[str, Any] = {
        key: round(float(np.mean([row[key] for row in own])), 4) for key in own[0]
    }
    more = np.array([a["loss_3"] - b["loss_3"] for a, b in zip(ours, own, strict=True)])
    half = 1.96 * more.std(ddof=1) / np.sqrt(len(more))
    found["ladder_minus"] = [round(float(more.mean() + x * half), 4) for x in (-1, 0, 1)]
    return found


def reached(rows: list[dict[str, Any]], world: str) -> bool:
    mine = [row for row in rows if row["world"] == world and row["at"] == rows[0]["at"]]
    ladder = next(row for row in mine if row["policy"].startswith("ladder"))
    rivals = [row for row in mine if row["policy"] in ("random", "pass@1", "halving")]
    return ladder["cost"] <= 0.5 and all(row["ladder_minus"][0] <= 0.0 for row in rivals)


def show(rows: list[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['world']}", flush=True)
    print(
        f"{'policy':<12} {'cost':>5} {'had RL':>7} {'regret@1':>9} {'regret@3':>9} "
        f"{'loss top 3':>11}   ladder minus it, 95 %"
    )
    for row in rows:
        low, middle, high = row["ladder_minus"]
        against = (
            ""
            if row["policy"].startswith("ladder")
            else f"{middle:+.4f}, {low:+.4f} .. {high:+.4f}"
        )
        print(
            f"{row['policy']:<12} {row['cost']:>5.2f} {row['n_rl']:>7.1f} {row['regret_1']:>9.4f} "
            f"{row['regret_3']:>9.4f} {row['loss_3']:>11.4f}   {against}"
        )


if __name__ == "__main__":
    main()
