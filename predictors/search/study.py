"""Recipe search as an Optuna study: open it, ask it, and its default sampler.

The study is an ordinary one: any sampler of Optuna can take part, several workers share it through
its storage, and optuna-dashboard opens it. A trial's parameters are those of one recipe
(`RecipeSpace.parameters`), limits are its constraints, and everything else about the recipe is in
its attributes (`trials`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from rlready.predictors.search.candidates import LEAST_SHARE, Guard, tried_sources, with_source
from rlready.predictors.search.proposer import Proposals, ProposerConfig, Runs, fit_models, propose
from rlready.predictors.search.rungs import ends_of_failed, foreseen_of
from rlready.predictors.search.space import RecipeSpace, limit_in_words
from rlready.predictors.search.space_parts import BoolArray, Parametrisation, Points
from rlready.predictors.search.trials import (
    DOMAIN,
    DOMAIN_REASON,
    EXPLORES,
    FORESEEN,
    ORIGIN,
    PREDICTED,
    RECIPE,
    SPACE,
    SPACE_FILE,
    STOPPED,
    current,
    runs_of,
    senses,
)
from rlready.predictors.search.values import comparable, finished_trials, has_public_values
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SamplerName = Literal["surrogate", "gp", "tpe", "random"]

SIMPLEX_OF: Mapping[str, Parametrisation] = {
    "surrogate": "stick",
    "gp": "stick",
    "tpe": "softmax",
    "random": "stick",
}
"""Coordinates of the mixture that suit each sampler (`bench/simplex.py`)."""

# A sampler that does not know the limits may never meet them; then a recipe is drawn at random.
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A recipe to train.

    Args:
        number: number of its trial, which `study.tell` takes.
        recipe: what to train.
        origin: "stratified", "new source", "surrogate", "gp", "tpe" or "random".
        domain: "in", "edge" or "out" of the region of the finished runs; None if not judged.
        reason: why it is not in the domain.
        predicted: (mean, sd) of each objective; None without a model.
    """

    number: int
    recipe: Recipe
    origin: str
    domain: str | None = None
    reason: str = ""
    predicted: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of(cls, number: int, attributes: Mapping[str, Any]) -> Asked:
        """Return the recipe of a trial, with everything that its attributes say about it."""
        predicted = attributes.get(PREDICTED)
        return cls(
            number=number,
            recipe=Recipe.from_dict(attributes[RECIPE]),
            origin=attributes.get(ORIGIN, "again"),
            domain=attributes.get(DOMAIN),
            reason=attributes.get(DOMAIN_REASON, ""),
            predicted=None if predicted is None else tuple((m, s) for m, s in predicted),
        )


def open_study(
    space: RecipeSpace,
    *,
    name: str,
    sampler: SamplerName = "surrogate",
    storage: Any = None,
    seed: int = 0,
    directions: Sequence[Literal["maximize", "minimize"]] = ("maximize",),
    config: ProposerConfig | None = None,
) -> tuple[Study, RecipeSpace]:
    """Return the study of that name, which is created if necessary, and its space.

    The returned space has the coordinates of the study: those that the space names or, if it names
    none, those that suit the sampler. A study keeps the coordinates that it was created with,
    whichever sampler opens it later. Its first trial is the stratified mixture.

    Raises:
        ConfigError: if the study was created for another space or other objectives.
    """
    if sampler not in SIMPLEX_OF:
        raise ConfigError(f"sampler {sampler!r} is unknown", fix=f"Known: {', '.join(SIMPLEX_OF)}")
    study = optuna.create_study(
        study_name=name, storage=storage, directions=list(directions), load_if_exists=True
    )
    stored_directions = [direction.name.lower() for direction in study.directions]
    if stored_directions != list(directions):
        raise ConfigError(
            f"study {name!r} has the directions {stored_directions}, not {list(directions)}",
            fix="Give the study another name",
        )
    stored_space = study.user_attrs.get(SPACE)
    if stored_space is None:
        space = replace(space, simplex_kind=space.simplex_kind or SIMPLEX_OF[sampler])
        study.set_user_attr(SPACE, {"digest": space.digest, "simplex": space.simplex_kind})
        study.enqueue_trial(
            space.parameters(space.stratified()),
            user_attrs={ORIGIN: "stratified"},
            skip_if_exists=True,
        )
    else:
        space = replace(space, simplex_kind=stored_space["simplex"])
        if space.digest != stored_space["digest"]:
            file = study.user_attrs.get(SPACE_FILE)
            raise ConfigError(
                f"study {name!r} was made for another recipe space",
                why="its trials could not be compared with those of this one"
                + (f"; it was opened last with {file}" if file else ""),
                fix="Use that file, or give the study another name with --study; the registry's "
                "runs enter it again",
            )
    study.sampler = make_sampler(sampler, space, seed=seed, config=config)
    return study, space


def make_sampler(
    name: SamplerName,
    space: RecipeSpace,
    *,
    seed: int = 0,
    config: ProposerConfig | None = None,
) -> BaseSampler:
    """Return a sampler of Optuna for the space of a study.

    Raises:
        ConfigError: if it is "gp" and torch is not installed.
    """
    if name == "surrogate":
        return SurrogateSampler(space, seed=seed, config=config)
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "random":
        return RandomSampler(seed=seed)
    try:
        import torch  # noqa: F401 -- without torch, Optuna fails with a traceback
    except ImportError as error:
        raise ConfigError(
            "the sampler gp needs torch, which is not installed",
            fix="Install rlready[local], or take --sampler surrogate, which does not need it",
        ) from error
    return GPSampler(seed=seed, warn_independent_sampling=False)


def ask(
    study: Study,
    space: RecipeSpace,
    more_limits: Callable[[Recipe], Mapping[str, float]] = lambda recipe: {},
    *,
    seed: int = 0,
) -> Asked:
    """Return the next recipe to train, which keeps all limits of the space.

    A proposal that breaks a limit is closed as pruned, with its constraint, so that the sampler
    learns from it. After 20 such proposals the recipe is drawn at random.

    Args:
        study: the study.
        space: its recipes.
        more_limits: returns further limits of a recipe by their names; <= 0 if it keeps them.
        seed: seed of a sampler of Optuna, if the study has values from public outcomes.

    Raises:
        ConfigError: if no recipe keeps the limits.
    """
    sampler, distributions = study.sampler, space.distributions()
    for attempt in range(_TRIES + 1):
        if attempt == _TRIES:
            _enqueue_random(study, space)
        elif has_public_values(study) and not isinstance(sampler, SurrogateSampler):
            _enqueue_by_comparable(study, space, seed)
        trial = study.ask(fixed_distributions=distributions)
        points = space.from_parameters([trial.params])
        recipe = space.recipe(points)
        limits = {name: float(values[0]) for name, values in space.limits(points).items()}
        limits |= more_limits(recipe)
        for name, limit in limits.items():
            trial.set_constraint(name, limit)
        attributes = {RECIPE: recipe.to_dict()}
        if isinstance(sampler, SurrogateSampler):
            attributes |= sampler.notes.pop(trial.number, {})
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        if all(limit <= 0.0 for limit in limits.values()):
            return Asked.of(trial.number, {ORIGIN: _name_of(sampler), **trial.user_attrs})
        study.tell(trial, state=TrialState.PRUNED)
    raise ConfigError(
        "no recipe was found that keeps the limits of the space",
        why=f"the last of {_TRIES + 1} "
        + "; it ".join(
            limit_in_words(name, limit) for name, limit in limits.items() if limit > 0.0
        ),
        fix="Narrow n_unique or the caps, allow more repetitions, or add rows to the sources",
    )


def propose_recipes(
    study: Study, space: RecipeSpace, n: int, *, seed: int = 0, config: ProposerConfig | None = None
) -> list[Asked]:
    """Return n recipes that the surrogate proposes. The study stays as it is; numbers are -1."""
    sense = senses(study)
    runs = runs_of(space, finished_trials(study, space), sense)
    proposals = propose(space, runs, n, np.random.default_rng(seed), config=config)
    return [
        Asked.of(
            -1,
            {
                RECIPE: space.recipe(proposals.points, row).to_dict(),
                **_prediction(proposals, row, sense),
            },
        )
        for row in range(n)
    ]


class SurrogateSampler(BaseSampler):
    """Sampler of Optuna that draws whole recipes by `proposer.propose`.

    A proposal depends only on the study, the seed and the trial's number, in whichever process it
    is made. Running trials count as run, with their predicted outcome.

    Example:
        >>> sampler = SurrogateSampler(space, seed=0)
        >>> study = optuna.create_study(sampler=sampler, direction="maximize")
        >>> trial = study.ask(fixed_distributions=space.distributions())
        >>> sampler.notes[trial.number]["rlready:origin"]
        'surrogate'

    Args:
        space: the study's recipes.
        seed: seed of the candidates.
        config: how recipes are proposed.

    Attributes:
        notes: by trial number, what was predicted for each recipe that was proposed here, as
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
        """Return all parameters of the space."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the recipe that the proposer wants next."""
        states = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL)
        trials = [
            t
            for t in comparable(study, current(study.get_trials(deepcopy=False, states=states)))
            # A worker writes parameters one by one, so a new trial may lack some of them.
            if t.number != trial.number and self.space.covers(t.params)
        ]
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        stopped = [t for t in trials if t.state == TrialState.PRUNED and STOPPED in t.user_attrs]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        # What a stopped or running trial gave so far, at a smaller budget, tells its outcome.
        ends = {t.number: _foreseen(t, finished) for t in (*stopped, *running)}
        partial = [(t, end) for t in (*stopped, *running) if (end := ends[t.number])]
        # A stopped trial without a foreseen outcome keeps its neighbours from being tried next.
        waiting = [*running, *(t for t in stopped if not ends[t.number])]
        sense = senses(study)
        if len(finished) >= self.config.startup(self.space):
            partial += ends_of_failed(trials, finished, sense)
        runs = runs_of(self.space, finished, sense, at_most=self.config.max_rows)
        runs = self._with_partial(runs, partial, sense)
        # On a busy machine, threads that waited for each other made this six times slower.
        with threadpool_limits(limits=1):
            proposals = self._with_new_source(runs, trials)
            origin = "surrogate" if proposals is None else "new source"
            explores = not any(EXPLORES in t.user_attrs for t in running)
            if proposals is None:
                proposals = propose(
                    self.space,
                    runs,
                    1,
                    np.random.default_rng([self.seed, trial.number]),
                    config=self.config,
                    running=self._points(waiting) if waiting else None,
                    explores=explores,
                )
        self.notes[trial.number] = {**_prediction(proposals, 0, sense), ORIGIN: origin}
        if explores and PREDICTED in self.notes[trial.number]:
            self.notes[trial.number][EXPLORES] = True
        return self.space.parameters(proposals.points)

    def _with_new_source(self, runs: Runs, trials: Sequence[FrozenTrial]) -> Proposals | None:
        """Return the best known recipe with one source that was never tried, if there is one.

        A source counts as tried by the trial that was planned for it, even if that has failed. The
        stratified mixture prices no source: it changes all of them at once.
        """
        if len(runs) < self.config.startup(self.space) or runs.outcomes.shape[1] > 1:
            return None
        is_new = ~self._tried([t for t in trials if t.user_attrs.get(ORIGIN) != "stratified"])
        if not is_new.any():
            return None
        model = fit_models(self.space, runs.some(self.config.max_rows))[0]
        predicted = model.predict(self.space.features(runs.points))
        best = runs.points.rows(np.argsort(-predicted)[:1])
        for source in np.flatnonzero(is_new):
            points = with_source(self.space, best, int(source))
            if len(points):
                domain, reasons = Guard(self.space, runs.points).judge(points)
                unknown = np.full((1, 1), np.nan)
                return Proposals(points=points, mean=unknown, sd=unknown, domain=domain,
                                 reasons=reasons, indices=np.zeros(1, dtype=np.intp))  # fmt: skip
        return None

    def _tried(self, trials: Sequence[FrozenTrial]) -> BoolArray:
        """Return (sources,) whether any of the trials has each source."""
        names = [source.name for source in self.space.sources]
        is_tried = np.zeros(len(names), dtype=bool)
        for trial in trials:
            if is_tried.all():
                break  # of 10,000 trials, the first few usually suffice
            recipe = trial.user_attrs.get(RECIPE)
            if recipe is None:
                is_tried |= tried_sources(self._points([trial]))
            else:
                shares = Recipe.from_dict(recipe).sources
                is_tried |= np.array([shares.get(name, 0.0) >= LEAST_SHARE for name in names])
        return is_tried

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a random value for a parameter that is not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Reseed the random values. Recipes depend on the trial's number, not on this."""
        self._independent.reseed_rng()

    def _points(self, trials: Sequence[FrozenTrial]) -> Points:
        return self.space.from_parameters([trial.params for trial in trials])

    def _with_partial(
        self,
        runs: Runs,
        partial: Sequence[tuple[FrozenTrial, Sequence[float]]],
        sense: FloatArray,
    ) -> Runs:
        """Add trials that are not finished to the runs, each with its foreseen outcomes.

        Without the stopped and failed ones, the same recipes would be proposed again and again.
        """
        if not partial or runs.errors is None:
            return runs
        k, foreseen = len(sense), np.array([end for _, end in partial], dtype=np.float64)
        return Runs(
            points=Points.joined([runs.points, self._points([t for t, _ in partial])]),
            outcomes=np.vstack([runs.outcomes, foreseen[:, :k] * sense]),
            errors=np.vstack([runs.errors, foreseen[:, k:]]),
        )


def _foreseen(trial: FrozenTrial, finished: Sequence[FrozenTrial]) -> Sequence[float] | None:
    """Return the outcome that a trial would have: as it was foreseen, or from its last rung."""
    return trial.user_attrs.get(FORESEEN) or foreseen_of(trial, finished)


def _prediction(proposals: Proposals, row: int, sense: FloatArray) -> dict[str, Any]:
    """Return what the surrogate says about a proposal, as attributes of a trial."""
    attributes: dict[str, Any] = {
        ORIGIN: "surrogate",
        DOMAIN: str(proposals.domain[row]),
        DOMAIN_REASON: proposals.reasons[row],
    }
    if np.isfinite(proposals.mean[row]).all():
        pairs = zip(proposals.mean[row] * sense, proposals.sd[row], strict=True)
        attributes[PREDICTED] = [[float(mean), float(sd)] for mean, sd in pairs]
    return attributes


def _enqueue_by_comparable(study: Study, space: RecipeSpace, seed: int) -> None:
    """Let a sampler of Optuna propose from a copy of the study, which has only present values."""
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return
    name = _name_of(study.sampler)
    # A new sampler, because Optuna's serves one study only.
    seeds = np.random.SeedSequence([seed, len(trials)]).generate_state(1)
    sampler = make_sampler(name, space, seed=int(seeds[0]))
    sampled = optuna.create_study(directions=study.directions, sampler=sampler)
    sampled.add_trials(comparable(study, current(trials)))
    params = sampled.ask(fixed_distributions=space.distributions()).params
    study.enqueue_trial(params, user_attrs={ORIGIN: name})


def _name_of(sampler: BaseSampler) -> SamplerName:
    return cast("SamplerName", type(sampler).__name__.removesuffix("Sampler").lower())


def _enqueue_random(study: Study, space: RecipeSpace) -> None:
    nothing = Points(weights=np.empty((0, len(space.sources))), axes=np.empty((0, len(space.axes))))
    rng = np.random.default_rng(len(study.get_trials(deepcopy=False)))
    drawn = propose(space, Runs(points=nothing, outcomes=np.empty((0, 1))), 1, rng)
    study.enqueue_trial(space.parameters(drawn.points), user_attrs={ORIGIN: "random"})
