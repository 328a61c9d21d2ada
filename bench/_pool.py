"""Search among runs that really happened: pickers that see the outcomes of the picked ones alone.

A picker gets a `Pool`, the picked rows, what was seen of each, and how many to pick next. Optuna's
samplers propose whole recipes, so each proposal is replaced by the nearest run that is not picked:
Euclidean distance of root weights over root 2 (Hellinger), joined with the axes in units of their
range. The asked trial is then closed as failed, and the run is told in its place. Only Optuna's
public interface is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rlready.predictors.search.candidates import gaps_to_nearest
from rlready.predictors.search.proposer import ProposerConfig, Runs, fit_models, propose_from
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Parametrisation, Points


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Runs that can be picked: their space and their recipes."""

    space: RecipeSpace
    points: Points

    def __len__(self) -> int:
        return len(self.points)

    def left(self, picked: list[int]) -> Any:
        """Rows that are not picked."""
        return np.setdiff1d(np.arange(len(self)), picked)


Pick = Callable[[Pool, list[int], Any, int, int], list[int]]
"""(pool, picked rows, (n,) outcomes seen of them, number to pick, seed) -> rows."""


def pick_random(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
    rng = np.random.default_rng([seed, len(picked)])
    return [int(i) for i in rng.permutation(pool.left(picked))[:n]]


def pick_ridge(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
    """The best by a ridge regression on weights, root weights and axes."""
    left = pool.left(picked)
    features = pool.space.features(pool.points)
    X = np.hstack([features, np.sqrt(pool.points.weights)])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 25)))
    model.fit(X[picked], seen)
    return [int(i) for i in left[np.argsort(-model.predict(X[left]), kind="stable")[:n]]]


def in_order(score: Any) -> Pick:
    """Pick by a score, (n,), that is known of all runs."""

    def pick(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
        left = pool.left(picked)
        return [int(i) for i in left[np.argsort(-score[left], kind="stable")[:n]]]

    return pick


def pick_far(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
    """The runs farthest from all picked ones, without a look at outcomes."""
    place = _place(pool.space, pool.points)
    chosen = list(picked)
    for _ in range(n):
        left = pool.left(chosen)
        chosen.append(int(left[np.argmax(gaps_to_nearest(place[left], place[chosen]))]))
    return chosen[len(picked) :]


def regrets(
    pool: Pool,
    outcome: Any,
    pick: Pick,
    start: list[int],
    batch: int,
    budgets: Sequence[int],
    seed: int,
) -> list[float]:
    """Best outcome of the pool minus the best picked one, after each budget of runs."""
    picked, found = start, []
    while len(picked) < max(budgets):
        picked = picked + pick(pool, picked, outcome[picked], batch, seed)
        if len(picked) in budgets:
            found.append(float(outcome.max() - outcome[picked].max()))
    return found


def predicted_from(pool: Pool, outcome: Any, inside: Any, held: Any) -> Any:
    """The surrogate's predictions of some runs (a mask) from others (a mask)."""
    known = Runs(points=pool.points.rows(inside), outcomes=outcome[inside][:, None])
    model = fit_models(pool.space, known)[0]
    return model.predict(pool.space.features(pool.points.rows(held)))


def left_out(pool: Pool, outcome: Any) -> Any:
    """(n,) predictions of each run from all others."""
    rows = np.arange(len(pool))
    return np.array([predicted_from(pool, outcome, rows != i, rows == i)[0] for i in rows])


def proposer(config: ProposerConfig) -> Pick:
    """Our proposer."""

    def pick(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
        left = pool.left(picked)
        runs = Runs(points=pool.points.rows(np.array(picked)), outcomes=np.asarray(seen)[:, None])
        rng = np.random.default_rng([seed, len(picked)])
        found = propose_from(pool.space, runs, pool.points.rows(left), n, rng, config=config)
        return [int(i) for i in left[found.indices]]

    return pick


def by_optuna(make: Callable[[int], BaseSampler], kind: Parametrisation) -> Pick:
    """A sampler of Optuna, whose recipes are replaced by the nearest runs."""

    def pick(pool: Pool, picked: list[int], seen: Any, n: int, seed: int) -> list[int]:
        space = RecipeSpace(sources=pool.space.sources, axes=pool.space.axes, simplex_kind=kind)
        distributions = space.distributions()
        # The sampler draws at each call; the number of picked runs gives it another stream.
        study = optuna.create_study(direction="maximize", sampler=make(1000 * seed + len(picked)))
        for row, value in zip(picked, seen, strict=True):
            study.add_trial(
                create_trial(
                    params=_bounded(space.parameters(pool.points, row), distributions),
                    distributions=distributions,
                    value=float(value),
                )
            )
        place, chosen = _place(space, pool.points), list(picked)
        asked = []
        for _ in range(n):
            asked.append(study.ask(fixed_distributions=distributions))
            wanted = _place(space, space.from_parameters([asked[-1].params]))
            left = pool.left(chosen)
            gaps = np.linalg.norm(place[left] - wanted, axis=1)
            chosen.append(int(left[np.argmin(gaps)]))
        for trial in asked:
            study.tell(trial, state=TrialState.FAIL)
        return chosen[len(picked) :]

    return pick


OPTUNA: Mapping[str, Pick] = {
    "Optuna TPE": by_optuna(lambda seed: TPESampler(seed=seed, constant_liar=True), "softmax"),
    "Optuna GP": by_optuna(
        lambda seed: GPSampler(seed=seed, warn_independent_sampling=False), "stick"
    ),
}


def _place(space: RecipeSpace, points: Points) -> Any:
    features = space.features(points)
    d = len(space.sources)
    return np.hstack([np.sqrt(np.maximum(features[:, :d], 0.0) / 2.0), features[:, d:]])


def _bounded(parameters: Mapping[str, Any], distributions: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters within their range, where a rounding error left it."""
    found = dict(parameters)
    for name, law in distributions.items():
        if isinstance(law, optuna.distributions.FloatDistribution):
            found[name] = min(max(found[name], law.low), law.high)
    return found
