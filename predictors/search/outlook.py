"""What searching on can still win: the gain of a recipe over the best known one, and its interval.

The gain of a recipe is its outcome minus that of the best known recipe, the finished one with the
best prediction. Both are uncertain together, so the interval comes from their joint posterior. The
surface is flat if the expected improvement E[max(gain, 0)] of every recipe of the space is at most
the standard deviation of one run: then any of the recipes that are predicted as close to the best
will do. On simulated flat surfaces of 3 sources this is said after 24 runs; a plateau beside a
slope is taken for a slope, because the model is as smooth everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from rlready.predictors.bound import scale_ends
from rlready.predictors.search.candidates import candidates, tried_sources
from rlready.predictors.search.proposer import (
    ProposerConfig,
    Runs,
    fit_models,
    representative,
)
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.space_parts import Points
from rlready.predictors.search.trials import runs_of, senses
from rlready.predictors.search.values import finished_trials, has_standings
from rlready.predictors.training_table import FloatArray

if TYPE_CHECKING:
    from optuna.study import Study

    from rlready.registry.records import Recipe

_Z = 1.6449
_N_CANDIDATES = 2_000


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a search can still win.

    Args:
        trial: the trial that is meant, the most promising of those asked; None for a recipe that
            has no trial yet.
        gain: expected gain of its recipe over the best known one; higher is better.
        low: lower end of the 90 % interval of the gain.
        high: upper end of the interval.
        most: largest expected improvement of any recipe of the space.
        noise: standard deviation of one run around the outcome of its recipe.
        best: the best known trial.
        equals: trials predicted within `noise` of the best, itself included, the best first.
        new_sources: sources that no finished run has; their effect cannot be priced.

    Example:
        >>> Outlook(trial=9, gain=0.004, low=-0.01, high=0.02, most=0.03, noise=0.01, best=7,
        ...     equals=(7,), new_sources=()).text
        'expected gain of trial 9 over the best known (trial 7): +0.004, 90 % -0.01 to 0.02'
    """

    trial: int | None
    gain: float
    low: float
    high: float
    most: float
    noise: float
    best: int
    equals: tuple[int, ...]
    new_sources: tuple[str, ...]

    @property
    def is_flat(self) -> bool:
        """Whether searching on wins nothing; never with a source that no run has."""
        return self.most <= self.noise and not self.new_sources

    @property
    def text(self) -> str:
        """The outlook in one line."""
        name = "the next recipe" if self.trial is None else f"trial {self.trial}"
        said = (
            f"expected gain of {name} over the best known (trial {self.best}): {self.gain:+.2g}, "
            f"90 % {self.low:.2g} to {self.high:.2g}"
        )
        if self.is_flat:
            names = ", ".join(map(str, self.equals[:5]))
            more = f" and {len(self.equals) - 5} more" if len(self.equals) > 5 else ""
            return (
                f"any of these; searching wins nothing here: trials {names}{more}. No recipe is "
                f"expected to improve by more than one run varies ({self.noise:.2g}); {said}"
            )
        if self.new_sources:
            said += f"; no finished run has {', '.join(self.new_sources)}: not priced"
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return the outlook as JSON values."""
        return {**vars(self), "is_flat": self.is_flat, "text": self.text}


def study_outlook(
    study: Study, space: RecipeSpace, recipes: Sequence[Recipe], *, asked: Sequence[int] = ()
) -> Outlook | None:
    """Return the outlook of the most promising of some recipes, which has the largest gain.

    `asked` has the trial of each recipe, if they have one. None with several objectives, before
    there are enough finished trials for the model, or if their values are standings by public
    outcomes, which say nothing about the size of a gain.
    """
    trials, sense = finished_trials(study, space), senses(study)
    config = ProposerConfig()
    if len(sense) > 1 or len(trials) < config.startup(space) or has_standings(study, trials):
        return None
    outcomes = np.array([trial.values for trial in trials], dtype=np.float64) * sense
    trials = [trials[row] for row in representative(outcomes, config.max_rows)]
    runs = runs_of(space, trials, sense)
    numbers = [trial.number for trial in trials]
    points = Points.joined([space.points(recipe) for recipe in recipes])
    return outlook(space, runs, numbers, points, asked=asked, unit=float(sense[0]))


def outlook(
    space: RecipeSpace,
    runs: Runs,
    numbers: list[int],
    recipes: Points,
    *,
    asked: Sequence[int] = (),
    unit: float = 1.0,
) -> Outlook:
    """Return the outlook of training the most promising of some recipes.

    Args:
        space: the recipes.
        runs: finished runs with one objective, higher is better.
        numbers: trial of each run.
        recipes: those of which the one with the largest expected gain is meant.
        asked: trial of each recipe; empty if they have none.
        unit: sign of the outcomes in the user's eyes; -1 if lower is better.
    """
    model = fit_models(space, runs)[0]
    predicted = model.predict(space.features(runs.points))
    best = int(np.argmax(predicted))
    top = runs.points.rows(np.argsort(-predicted)[:8])
    pool = candidates(space, top, _N_CANDIDATES, np.random.default_rng(0))
    everything = Points.joined([runs.points.rows(np.array([best])), recipes, pool])
    gain, sd = model.belief(space.features(everything)).gain_over(0)
    n = len(recipes)
    meant = 1 + int(np.argmax(gain[1 : 1 + n]))
    high = float(gain[meant] + _Z * sd[meant])
    most = float(_improvement(gain[1 + n :], sd[1 + n :]).max())
    ends = scale_ends(unit * runs.outcomes[:, 0])
    if unit > 0.0 and not isinstance(ends, str):
        # No gain leads past the end of the scale, as with predictors that have a bound.
        room = max(float(ends[1] - predicted[best]), 0.0)
        high, most = min(high, room), min(most, room)
    near = np.flatnonzero(predicted >= predicted[best] - model.noise_sd_)
    order = near[np.argsort(-predicted[near], kind="stable")]
    return Outlook(
        trial=asked[meant - 1] if asked else None,
        gain=min(float(gain[meant]), high),
        low=float(gain[meant] - _Z * sd[meant]),
        high=high,
        most=most,
        noise=model.noise_sd_,
        best=numbers[best],
        equals=tuple(numbers[row] for row in order),
        new_sources=tuple(
            source.name
            for source, is_tried in zip(space.sources, tried_sources(runs.points), strict=True)
            if not is_tried
        ),
    )


def _improvement(gain: FloatArray, sd: FloatArray) -> FloatArray:
    """Return E[max(gain, 0)] of normal gains, (n,)."""
    scaled = gain / np.maximum(sd, 1e-12)
    return np.asarray(gain * ndtr(scaled) + sd * np.exp(-0.5 * scaled**2) / np.sqrt(2.0 * np.pi))
