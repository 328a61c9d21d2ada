"""The proposer as a sampler of Optuna.

Its class has Optuna's as its base, so this module imports Optuna and is imported late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from rlready.predictors.dataset import FloatArray
from rlready.predictors.proposer import Proposals, ProposerConfig, Runs, propose
from rlready.predictors.recipes import Points, RecipeSpace
from rlready.predictors.search import senses

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_ERRORS = "rlready:errors"


class SurrogateSampler(BaseSampler):  # type: ignore[misc,unused-ignore]
    """Draws whole recipes by `proposer.propose`; trials that run count as run.

    It keeps no state but a cache: what it proposes depends on the study, the seed and the trial's
    number alone, in whatever process.

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
        self._cache: dict[int, tuple[FloatArray, FloatArray] | None] = {}
        self._study = ""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the space."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of the recipe that the proposer wants next."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        done = [t for t in trials if t.state == TrialState.COMPLETE and self._knows(study, t)]
        # A worker writes parameters one by one: a trial without all of them is a moment old.
        sense = senses(study)
        running = [
            t
            for t in trials
            if t.state == TrialState.RUNNING
            and t.number != trial.number
            and self.space.covers(t.params)
        ]
        found = propose(
            self.space,
            runs_of(done, self._points(done), sense),
            1,
            np.random.default_rng([self.seed, trial.number]),
            config=self.config,
            running=self.space.from_parameters([t.params for t in running]) if running else None,
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

    def _knows(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a finished trial is of the space; its point is then in the cache."""
        if study.study_name != self._study:
            self._study, self._cache = study.study_name, {}
        if trial.number not in self._cache:
            known = None
            if self.space.covers(trial.params):
                points = self.space.from_parameters([trial.params])
                known = (points.weights[0], points.axes[0])
            self._cache[trial.number] = known
        return self._cache[trial.number] is not None

    def _points(self, trials: Sequence[FrozenTrial]) -> Points:
        rows = [self._cache[trial.number] for trial in trials]
        shape = (len(rows), len(self.space.sources)), (len(rows), len(self.space.axes))
        return Points(
            weights=np.array([row[0] for row in rows if row]).reshape(shape[0]),
            axes=np.array([row[1] for row in rows if row]).reshape(shape[1]),
        )


def runs_of(trials: Sequence[FrozenTrial], points: Points, sense: FloatArray) -> Runs:
    """Finished trials as runs, outcomes turned so that higher is better."""
    outcomes = np.array([trial.values for trial in trials], dtype=np.float64)
    errors = [_errors(trial.user_attrs, len(sense)) for trial in trials]
    return Runs(
        points=points,
        outcomes=outcomes.reshape(len(trials), len(sense)) * sense,
        errors=np.array(errors).reshape(len(trials), len(sense)),
    )


def _errors(attributes: Mapping[str, Any], n: int) -> list[float]:
    known = attributes.get(_ERRORS)
    return [float("nan")] * n if known is None else [float(error) for error in known]
