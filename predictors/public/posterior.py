"""The posterior of the outcomes of checkpoints inside their groups, and the chances from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TextArray
from rlready.registry.errors import ConfigError

MOST_CERTAIN, MOST_CERTAIN_WITH_LOSS = 0.85, 0.95
"""Largest chance that the prior alone claims, without and with a loss of the own style."""

_CAP_OPENS = 5.0
"""Number of outcomes in a group that halves the distance of the cap from 1."""

LEVEL_SD = 1.0
"""Standard deviation of unknown levels, in standard deviations of outcomes inside a group."""

MATCH_SHARE = 0.5
"""Largest distance below the best, in standard deviations of the group, of a matching outcome."""

_BLOCK = 500_000
_TIE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Component:
    """A normal posterior given unit and residual, in standard deviations of the outcome.

    Args:
        weight: share of the mixture.
        unit: standard deviation of outcomes inside a group.
        residual: factor of the rows' residual standard deviations.
        mean: (q,) means of slopes and levels.
        covariance: (q, q) covariance of slopes and levels.
    """

    weight: float
    unit: float
    residual: float
    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Checkpoints in the form of the model.

    Args:
        ids: (n,) ids of the checkpoints.
        groups: (n,) groups of the checkpoints.
        design: (n, q) columns of slopes, then of levels.
        n_slopes: number of columns of slopes.
        residual: (n,) residual standard deviations.
        outcome: (n,) recorded outcomes; NaN if RL was not run.
        centre: origin of the levels.
        kinds: the K kinds of proxies that have a slope in the prior.
        standings: (n, K) standings in the group by kind, higher is better; 0 if unknown.
        has_own_loss: (n,) whether the row's group has a loss of the own style.
    """

    ids: tuple[str, ...]
    groups: TextArray
    design: FloatArray
    n_slopes: int
    residual: FloatArray
    outcome: FloatArray
    centre: float
    kinds: tuple[str, ...]
    standings: FloatArray
    has_own_loss: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderPosterior:
    """The order inside groups, with its chances.

    Args:
        rows: the checkpoints.
        components: the mixture over unit and residual.
        warnings: warnings for the reader.
        track_record: how often such advice was right, in words.
    """

    rows: Rows
    components: tuple[Component, ...]
    warnings: tuple[str, ...]
    track_record: str

    @property
    def score(self) -> FloatArray:
        """The (n,) predicted standings in the group, in standard deviations of its outcomes."""
        raw = self._standing
        centred = raw.copy()
        for group in np.unique(self.rows.groups):
            members = self.rows.groups == group
            centred[members] -= raw[members].mean()
        return centred

    @property
    def _standing(self) -> FloatArray:
        """The (n,) parts of the predictions that come from the slopes."""
        slopes = sum(c.weight * c.mean[: self.rows.n_slopes] for c in self.components)
        return np.asarray(self.rows.design[:, : self.rows.n_slopes] @ slopes)

    @property
    def n_outcomes(self) -> int:
        """Number of recorded outcomes of the user."""
        return int(np.isfinite(self.rows.outcome).sum())

    @property
    def source(self) -> str:
        """The outcomes behind the order, in a few words."""
        n = self.n_outcomes
        if n == 0:
            return "from public outcomes, no RL run of yours yet"
        return f"from public outcomes and {n} of your own"

    @property
    def basis(self) -> str:
        """The basis of the order, and how often such advice was right, in words."""
        return f"{self.source}; {self.track_record}"

    def predicted(self) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) expected outcomes of one RL run and their standard deviations.

        They are in the outcome's unit; NaN in a group without an outcome, whose level is unknown.
        """
        weights = np.array([c.weight for c in self.components])
        means = np.array([c.unit * (self.rows.design @ c.mean) for c in self.components])
        squares = np.array([c.unit**2 * self._variance(c) for c in self.components])
        mean = weights @ means
        variance = weights @ (squares + (means - mean) ** 2)
        has_level = self._n_outcomes() > 0
        return (
            np.where(has_level, self.rows.centre + mean, np.nan),
            np.where(has_level, np.sqrt(variance), np.nan),
        )

    def interval(self, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) ends of central intervals of one RL run; NaN as in `predicted`."""
        weights = np.array([c.weight for c in self.components])[:, None]
        sds = [c.unit * np.sqrt(self._variance(c)) for c in self.components]
        ends = np.full((2, len(self.rows.ids)), np.nan)
        with_level = np.flatnonzero(self._n_outcomes() > 0)
        for rows in np.array_split(with_level, max(len(with_level) * len(sds) // _BLOCK, 1)):
            design = self.rows.design[rows]
            means = np.array([c.unit * (design @ c.mean) for c in self.components])
            sd = np.array([values[rows] for values in sds])
            for end, probability in enumerate(((1 - level) / 2, (1 + level) / 2)):
                ends[end, rows] = self.rows.centre + _quantile(weights, means, sd, probability)
        return ends[0], ends[1]

    def predictive(self) -> Predictive:
        """Return the distribution of one RL run from each row, for a plan.

        It uses the median of the unit: an unknown unit scales all differences in the same way, so
        it does not make a bad checkpoint promising. (`interval` includes this uncertainty.) Numbers
        are in the outcome's unit, or in standard deviations inside a group if no outcome is
        recorded. A group without an outcome gets the mean level of all outcomes, with a wide spread
        around it.
        """
        unit = _weighted_median(
            np.array([c.unit for c in self.components]),
            np.array([c.weight for c in self.components]),
        )
        components = [c for c in self.components if c.unit == unit]
        weights = np.array([c.weight for c in components])
        weights /= weights.sum()
        has_level = self._n_outcomes() > 0
        of_slopes = np.arange(self.rows.design.shape[1]) < self.rows.n_slopes
        design = np.where(has_level[:, None] | of_slopes, self.rows.design, 0.0)
        covariance = sum(w * c.covariance for w, c in zip(weights, components, strict=True))
        variance = weights @ np.array([self._variance(c, design) for c in components])
        share = self._level_share(design, np.asarray(covariance), variance)
        level_sd = np.where(has_level, 0.0, LEVEL_SD)
        scale = unit if self.n_outcomes else 1.0
        means = np.array([design @ c.mean for c in components])
        return Predictive(
            mean=self.rows.centre + scale * (weights @ means),
            row_sd=scale * np.sqrt(variance * (1.0 - share)),
            group_sd=scale * np.sqrt(variance * share + level_sd**2),
            groups=self.rows.groups,
        )

    def _level_share(
        self, design: FloatArray, covariance: FloatArray, variance: FloatArray
    ) -> FloatArray:
        """Return the (n,) shares of the rows' variances that are common to their group."""
        share = np.zeros(len(design))
        for group in np.unique(self.rows.groups):
            rows = design[self.rows.groups == group]
            if len(rows) > 1:
                total = rows.sum(axis=0)
                alone = np.einsum("ni,ij,nj->", rows, covariance, rows)
                common = (total @ covariance @ total - alone) / (len(rows) * (len(rows) - 1))
                members = self.rows.groups == group
                share[members] = common / variance[members].mean()
        return np.clip(share, 0.0, 0.99)

    def chances_better(self, group: str, among: NDArray[np.intp] | None = None) -> FloatArray:
        """Return the (m, m) chances that row i has a better outcome than row j, one RL run each.

        Recorded outcomes are taken as exact. All other chances are capped, see `cap`.

        Args:
            group: the group.
            among: (m,) numbers of the rows of this group to compare; by default all.

        Raises:
            ConfigError: if the group is unknown.
        """
        members = self._members(group) if among is None else among
        recorded = np.isfinite(self.rows.outcome[members])
        total = np.zeros((len(members), len(members)))
        for component in self.components:
            mean, loading, residual = self._values(component, members)
            covariance = loading @ component.covariance @ loading.T
            own = np.diag(covariance)
            variance = own[:, None] + own - 2 * covariance + residual[:, None] ** 2 + residual**2
            gap = mean[:, None] - mean
            same = variance < _TIE
            z = gap / np.sqrt(np.where(same, 1.0, variance))
            total += component.weight * np.where(same, 0.5 + 0.5 * np.sign(gap), ndtr(z))
        np.fill_diagonal(total, 0.5)
        cap = self.cap(group)
        both = recorded[:, None] & recorded
        return np.where(both, total, np.clip(total, 1.0 - cap, cap))

    def cap(self, group: str) -> float:
        """Return the largest claimed chance in a group; it rises to 1 with the group's outcomes."""
        members = self._members(group)
        n = int(np.isfinite(self.rows.outcome[members]).sum())
        has_loss = bool(self.rows.has_own_loss[members].all())
        first = MOST_CERTAIN_WITH_LOSS if has_loss else MOST_CERTAIN
        return 1.0 - (1.0 - first) * _CAP_OPENS / (_CAP_OPENS + n)

    def chances_top(
        self, group: str, n_top: int = 1, *, n_draws: int = 4000, seed: int = 0
    ) -> FloatArray:
        """Return the (m,) chances of a group's rows to be among the `n_top` best, by draws.

        Chances above the cap are lowered to it, unless half of the rows or more are chosen.
        """
        members = self._members(group)
        if n_top < 1:
            raise ConfigError(
                f"the best {n_top} is not a number of checkpoints", fix="Give 1 or more"
            )
        if n_top >= len(members):
            return np.ones(len(members))
        counts = np.zeros(len(members))
        for draws in self._draws(members, n_draws, np.random.default_rng(seed)):
            best = np.argpartition(-draws, n_top - 1, axis=1)[:, :n_top]
            counts += np.bincount(best.ravel(), minlength=len(members))
        chances = counts / n_draws
        cap = max(self.cap(group), n_top / len(members))
        return np.where(
            np.isfinite(self.rows.outcome[members]).all(), chances, chances.clip(0, cap)
        )

    def chances_match(self, group: str, *, n_draws: int = 4000, seed: int = 0) -> FloatArray:
        """Return the (m,) chances that one RL run ends about as well as the best known.

        The best known is the group's best recorded outcome, or its highest expected one. "About as
        well" is at most `MATCH_SHARE` standard deviations of the group below. Chances are capped.
        """
        members = self._members(group)
        recorded = np.isfinite(self.rows.outcome[members])
        expected = self._standing[members].max()
        counts = np.zeros(len(members))
        for draws in self._draws(members, n_draws, np.random.default_rng(seed)):
            best = draws[0, recorded].max() if recorded.any() else expected
            counts += (draws >= best - MATCH_SHARE).sum(axis=0)
        return np.where(recorded, counts / n_draws, (counts / n_draws).clip(0, self.cap(group)))

    def draw(self, group: str, n_draws: int, rng: np.random.Generator) -> FloatArray:
        """Return (n_draws, m) joint draws of one RL run's outcome from each row of a group.

        If the group has a recorded outcome, they are in the outcome's unit, and every draw has the
        recorded outcomes. Otherwise they are in standard deviations, around an unknown level.
        """
        members = self._members(group)
        has_level = bool(np.isfinite(self.rows.outcome[members]).any())
        blocks = list(self._draws(members, n_draws, rng, in_unit=has_level))
        return np.concatenate(blocks)

    def _draws(
        self,
        members: NDArray[np.intp],
        n_draws: int,
        rng: np.random.Generator,
        *,
        in_unit: bool = False,
    ) -> Iterator[FloatArray]:
        """Yield joint draws of some rows of one group, in blocks of bounded memory."""
        weights = np.array([c.weight for c in self.components])
        block = max(_BLOCK // len(members), 1)
        for component, n in zip(self.components, rng.multinomial(n_draws, weights), strict=True):
            mean, loading, residual = self._values(component, members)
            root = np.linalg.cholesky(component.covariance)
            for start in range(0, int(n), block):
                size = min(block, int(n) - start)
                shared = rng.standard_normal((size, len(root))) @ (loading @ root).T
                alone = rng.standard_normal((size, len(members)))
                drawn = mean + shared + residual * alone
                yield self.rows.centre + component.unit * drawn if in_unit else drawn

    def _values(
        self, component: Component, members: NDArray[np.intp]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return means, loadings on the coefficients and residuals, in the component's unit."""
        outcome, design = self.rows.outcome[members], self.rows.design[members]
        recorded = np.isfinite(outcome)
        if not recorded.any():
            # The unknown level is common to the group; to add it would only lose precision.
            design = design * (np.arange(design.shape[1]) < self.rows.n_slopes)
        outcome_in_unit = (outcome - self.rows.centre) / component.unit
        mean = np.where(recorded, outcome_in_unit, design @ component.mean)
        loading = np.where(recorded[:, None], 0.0, design)
        residual = np.where(recorded, 0.0, component.residual * self.rows.residual[members])
        return mean, loading, residual

    def _variance(self, component: Component, design: FloatArray | None = None) -> FloatArray:
        design = self.rows.design if design is None else design
        shared = np.einsum("ni,ij,nj->n", design, component.covariance, design)
        return np.asarray(shared + (component.residual * self.rows.residual) ** 2)

    def _members(self, group: str) -> NDArray[np.intp]:
        members = np.flatnonzero(self.rows.groups == group)
        if not len(members):
            names = ", ".join(np.unique(self.rows.groups))
            raise ConfigError(f"there is no group {group!r}", fix=f"Known: {names}")
        return members

    def _n_outcomes(self) -> NDArray[np.intp]:
        """Return the (n,) numbers of recorded outcomes in the rows' groups."""
        recorded = np.isfinite(self.rows.outcome)
        names, group_of = np.unique(self.rows.groups, return_inverse=True)
        return np.asarray(np.bincount(group_of[recorded], minlength=len(names))[group_of])


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    """Return the smallest value with half of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    at = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2.0))
    return float(values[order][min(at, len(values) - 1)])


def _quantile(
    weights: FloatArray, means: FloatArray, sds: FloatArray, probability: float
) -> FloatArray:
    """Return (n,) quantiles of mixtures of normals by bisection; weights (C, 1), others (C, n)."""
    low, high = (means - 10 * sds).min(axis=0), (means + 10 * sds).max(axis=0)
    for _ in range(40):
        middle = (low + high) / 2
        below = (weights * ndtr((middle - means) / sds)).sum(axis=0) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(low)
