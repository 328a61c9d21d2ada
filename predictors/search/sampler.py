"""The proposer as a sampler of Optuna.

Its class has Optuna's as its base, so this module imports Optuna and is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from rlready.predictors.search.proposer import (
    Proposals,
    ProposerConfig,
    Runs,
    propose,
    representative,
)
from rlready.predictors.search.space import Points, RecipeSpace
from rlready.predictors.search.study import current, senses
from rlready.predictors.training_table import FloatArray

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_ERRORS = "rlready:errors"


class SurrogateSampler(BaseSampler):
    """Draws whole recipes by `proposer.propose`; trials that run count as run.

    It keeps no state: what it proposes depends on the study, the seed and the trial's number alone,
    in whatever process.

    Args:
        space: the study's recipes.
        seed: of the candidates.
        config: how recipes are proposed.
    """

    def __init__(
        self, space: RecipeSpace, *, seed: int = 0, config: ProposerConfig | None = None
    ) -> None:
        self.space, self.seed = space, seed
        self.config = config or ProposerConfig()
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the space."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of the recipe that the proposer wants next."""
        states = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED)
        trials = [
            t
            for t in current(study.get_trials(deepcopy=False, states=states))
            # A worker writes parameters one by one: a trial without all of them is a moment old.
            if t.number != trial.number and self.space.covers(t.params)
        ]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        sense = senses(study)
        done = runs_of(
            self.space,
            [t for t in trials if t.state == TrialState.COMPLETE],
            sense,
            at_most=self.config.max_rows,
        )
        # On a busy machine threads that wait for each other made this six times slower.
        with threadpool_limits(limits=1):
            found = propose(
                self.space,
                done,
                1,
                np.random.default_rng([self.seed, trial.number]),
                config=self.config,
                running=self._at(running) if running else None,
            )
        self._write(study, trial, found, sense)
        return self.space.parameters(found.points)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value: only for parameters that are not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing to do for recipes, which are drawn by the trial's number."""
        self._independent.reseed_rng()

    def _at(self, trials: Sequence[FrozenTrial]) -> Points:
        return self.space.from_parameters([trial.params for trial in trials])

    def _write(self, study: Study, trial: FrozenTrial, found: Proposals, sense: FloatArray) -> None:
        attributes: dict[str, Any] = {
            "rlready:origin": "surrogate",
            "rlready:domain": str(found.domain[0]),
            "rlready:domain_reason": found.reasons[0],
        }
        if np.isfinite(found.mean).all():
            pairs = zip(found.mean[0] * sense, found.sd[0], strict=True)
            attributes["rlready:predicted"] = [[float(m), float(s)] for m, s in pairs]
        for key, value in attributes.items():
            study._storage.set_trial_user_attr(trial._trial_id, key, value)


def runs_of(
    space: RecipeSpace,
    trials: Sequence[FrozenTrial],
    sense: FloatArray,
    at_most: int | None = None,
) -> Runs:
    """Finished trials as runs, outcomes turned so that higher is better; or a part of them.

    Which part is settled by the outcomes, before parameters are read: reading 10,000 is slow.
    """
    outcomes = np.array([trial.values for trial in trials], dtype=np.float64)
    outcomes = outcomes.reshape(len(trials), len(sense)) * sense
    chosen = representative(outcomes, at_most or len(trials))
    some = [trials[row] for row in chosen]
    errors = np.array([_errors(trial.user_attrs, len(sense)) for trial in some])
    return Runs(
        points=space.from_parameters([trial.params for trial in some]),
        outcomes=outcomes[chosen],
        errors=errors.reshape(len(some), len(sense)),
    )


def _errors(attributes: Mapping[str, Any], n: int) -> list[float]:
    known = attributes.get(_ERRORS)
    given = [float("nan") if error is None else float(error) for error in known or ()]
    return [*given, *[float("nan")] * (n - len(given))]
