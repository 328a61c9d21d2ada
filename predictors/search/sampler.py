"""The proposer as a sampler of Optuna.

Its class has Optuna's as its base, so this module imports Optuna and is imported late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from rlready.predictors.search.proposer import Proposals, ProposerConfig, Runs, propose
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points
from rlready.predictors.search.trials import (
    DOMAIN,
    DOMAIN_REASON,
    FORESEEN,
    ORIGIN,
    PREDICTED,
    STOPPED,
    current,
    runs_of,
    senses,
)
from rlready.predictors.training_table import FloatArray

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class SurrogateSampler(BaseSampler):
    """Draws whole recipes by `proposer.propose`; running trials count as run.

    What it proposes depends on the study, the seed and the trial's number alone, in whatever
    process.

    Example:
        >>> sampler = SurrogateSampler(space, seed=0)
        >>> study = optuna.create_study(sampler=sampler, direction="maximize")
        >>> trial = study.ask(fixed_distributions=space.distributions())
        >>> sampler.notes[trial.number]["rlready:domain"]

    Args:
        space: the study's recipes.
        seed: of the candidates.
        config: how recipes are proposed.

    Attributes:
        notes: by trial number, what was predicted of each recipe that was proposed here, as
            attributes of the trial.
    """

    def __init__(
        self, space: RecipeSpace, *, seed: int = 0, config: ProposerConfig | None = None
    ) -> None:
        self.space, self.seed = space, seed
        self.config = config or ProposerConfig()
        self.notes: dict[int, dict[str, Any]] = {}
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
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        stopped = [t for t in trials if t.state == TrialState.PRUNED and STOPPED in t.user_attrs]
        foreseen = [t for t in stopped if FORESEEN in t.user_attrs]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        # Nothing is known of how these would have ended; their neighbours are not tried next.
        running += [t for t in stopped if FORESEEN not in t.user_attrs]
        sense = senses(study)
        runs = runs_of(self.space, finished, sense, at_most=self.config.max_rows)
        # On a busy machine threads that wait for each other made this six times slower.
        with threadpool_limits(limits=1):
            proposals = propose(
                self.space,
                self._with_stopped(runs, foreseen, sense),
                1,
                np.random.default_rng([self.seed, trial.number]),
                config=self.config,
                running=self._points(running) if running else None,
            )
        self.notes[trial.number] = _notes(proposals, sense)
        return self.space.parameters(proposals.points)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for parameters that are not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the values of other parameters; recipes are drawn by the trial's number."""
        self._independent.reseed_rng()

    def _points(self, trials: Sequence[FrozenTrial]) -> Points:
        return self.space.from_parameters([trial.params for trial in trials])

    def _with_stopped(self, runs: Runs, stopped: Sequence[FrozenTrial], sense: FloatArray) -> Runs:
        """The runs, and each stopped trial with the outcome that was foreseen of it.

        Without them, the sampler would propose them again and again.
        """
        if not stopped or len(sense) > 1 or runs.errors is None:
            return runs
        foreseen = np.array([t.user_attrs[FORESEEN] for t in stopped], dtype=np.float64)
        return Runs(
            points=Points.joined([runs.points, self._points(stopped)]),
            outcomes=np.vstack([runs.outcomes, foreseen[:, :1] * sense]),
            errors=np.vstack([runs.errors, foreseen[:, 1:]]),
        )


def _notes(proposals: Proposals, sense: FloatArray) -> dict[str, Any]:
    notes: dict[str, Any] = {
        ORIGIN: "surrogate",
        DOMAIN: str(proposals.domain[0]),
        DOMAIN_REASON: proposals.reasons[0],
    }
    if np.isfinite(proposals.mean).all():
        pairs = zip(proposals.mean[0] * sense, proposals.sd[0], strict=True)
        notes[PREDICTED] = [[float(m), float(s)] for m, s in pairs]
    return notes
