"""Rank checkpoints by predicted score after RL, with probabilities, advice and reasons.

Rows are ordered by their prediction. A row out of the predictor's domain has no rank and is
UNDECIDED. It comes after the others, with a mark that names the place of its prediction. If the
proxies have no signal (by a permutation test on the recorded outcomes), nothing is ranked and every
row is UNDECIDED. P(best) and P(top N) compare the ranked rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.draw_blocks import block_sizes
from rlready.predictors.decisions.readiness import (
    BestKnown,
    ReadyRule,
    Recorded,
    best_known,
    chances,
    decide,
    deltas,
)
from rlready.predictors.decisions.start_check import Finding, Level
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray
from rlready.registry.errors import ConfigError
from rlready.registry.readiness_tag import Readiness

OUT = "out"
"""Domain of a row that is too far from the training table for a prediction."""

_N_PULLS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Checkpoints that could get an RL run, with their predictions.

    Higher numbers are better. If `lower_is_better`, numbers are turned back into the user's target
    before they are shown.

    Example:
        >>> candidates = Candidates(
        ...     ids=ids, predictive=predictive, low=np.array([0.5, 0.3]),
        ...     high=np.array([0.7, 0.5]), interval="90%", domain=("in", "in"),
        ... )

    Args:
        ids: (n,) ids of the checkpoints, all different.
        predictive: distribution of their true scores after RL, without the noise of one run, given
            all recorded outcomes.
        low: (n,) lower ends of the prediction intervals.
        high: (n,) upper ends of the prediction intervals.
        interval: promise of the intervals, in words.
        domain: (n,) in, edge or out.
        domain_reasons: (n,) reasons for the domain, in words.
        contributions: (n,) part of each prediction that is due to a proxy, by proxy.
        findings: (n,) findings of `check_start`.
        target: name of the outcome.
        lower_is_better: whether the user's target is the negative of the numbers.
        predicted: (n,) predictions without the row's own outcome. None: the mean of `predictive`,
            because no row has an outcome.
        known: (n,) lower and (n,) upper ends of the interval of the true score given the row's
            outcome; NaN if no outcome is recorded.
    """

    ids: Sequence[str]
    predictive: Predictive
    low: FloatArray
    high: FloatArray
    interval: str
    domain: Sequence[str]
    domain_reasons: Sequence[Sequence[str]] = ()
    contributions: Mapping[str, FloatArray] = field(default_factory=dict)
    findings: Sequence[Sequence[Finding]] = ()
    target: str = "target"
    lower_is_better: bool = False
    predicted: FloatArray | None = None
    known: tuple[FloatArray, FloatArray] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        lengths = {
            "predictions": len(self.predictive.mean),
            "intervals": min(len(self.low), len(self.high)),
            "domains": len(self.domain),
        }
        wrong = [f"{count} {what}" for what, count in lengths.items() if count != n]
        if not n or wrong or len(set(self.ids)) < n:
            raise ConfigError(
                f"{n} candidates cannot be ranked",
                why="; ".join(wrong) or ("some id stands twice" if n else "there is none"),
            )
        wrong = [str(i) for i, m in zip(self.ids, self.predictive.mean, strict=True) if m != m]
        if wrong:
            raise ConfigError(f"candidate {wrong[0]} has no prediction")

    def shown(self, value: float) -> float:
        """Return a score in the user's target."""
        return -value if self.lower_is_better else value

    def shown_ends(self, ends: tuple[FloatArray, FloatArray], i: int) -> tuple[float, float]:
        """Return the ends of an interval of row i in the user's target, the lower end first."""
        low, high = (self.shown(float(end[i])) for end in ends)
        return min(low, high), max(low, high)

    def predicted_at(self, i: int) -> float:
        """Return the prediction of row i without its own outcome, in the user's target."""
        values = self.predictive.mean if self.predicted is None else self.predicted
        return self.shown(float(values[i]))


@dataclass(frozen=True, kw_only=True)
class RankedRow:
    """One checkpoint of a ranking; numbers are in the user's target.

    Args:
        id: id of the checkpoint.
        group: group of the checkpoint.
        rank: 1 is best; None if the checkpoint is not ranked.
        rank_in_group: rank among the ranked rows of its group.
        predicted: score after RL, predicted without the checkpoint's own outcome.
        low: lower end of the prediction interval, for the score of one RL run.
        high: upper end of the prediction interval.
        recorded: the outcome; None if there is none.
        expected: expected true score, from the prediction and the outcome. Rows are ordered by it.
            Without an outcome it is the prediction.
        expected_low: lower end of the interval of the true score; None without an outcome.
        expected_high: upper end of the interval of the true score; None without an outcome.
        domain: in, edge or out.
        p_best: probability to be the best of the ranked rows; None if it is not ranked.
        p_top: probability to be among the best N of the ranked rows; None if it is not ranked.
        p_match: probability to end within delta of the best known of its group.
        readiness: the advice.
        mark: why the checkpoint has no rank; empty if it has one.
        reasons: reasons in words, the most important first.
    """

    id: str
    group: str
    rank: int | None
    rank_in_group: int | None
    predicted: float
    low: float
    high: float
    recorded: float | None
    expected: float
    expected_low: float | None
    expected_high: float | None
    domain: str
    p_best: float | None
    p_top: float | None
    p_match: float
    readiness: Readiness
    mark: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Checkpoints in the order in which they are recommended.

    Args:
        rows: the ranked rows, followed by the rows that are not ranked.
        target: name of the outcome.
        top_n: the N of `p_top`.
        interval: promise of the intervals.
        best: the best known of each group, in the user's target.
        rule: rule by which readiness was decided.
        signal_p: p-value of the permutation test; None if there was none.
        is_claimed: whether the ranking claims an order; False if the proxies have no signal.

    Example:
        >>> ranking = rank(candidates)
        >>> [row.id for row in ranking.rows]
        ['step-500', 'step-1000']
    """

    rows: tuple[RankedRow, ...]
    target: str
    top_n: int
    interval: str
    best: Mapping[str, BestKnown]
    rule: ReadyRule
    signal_p: float | None
    is_claimed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as JSON values."""
        return {
            "target": self.target,
            "is_claimed": self.is_claimed,
            "signal_p": self.signal_p if self.signal_p == self.signal_p else None,  # NaN: untested
            "interval": self.interval,
            "top_n": self.top_n,
            "rule": dataclasses.asdict(self.rule),
            "rule_digest": self.rule.digest,
            "best_known": {group: vars(one) for group, one in self.best.items()},
            "rows": [
                {**vars(row), "readiness": row.readiness.name, "reasons": list(row.reasons)}
                for row in self.rows
            ],
        }


def rank(
    candidates: Candidates,
    *,
    recorded: Sequence[Recorded] = (),
    rl_noise: float | None = None,
    signal_p: float | None = None,
    top_n: int = 3,
    rule: ReadyRule | None = None,
    remark: str = "",
    is_doubtful: bool = False,
) -> Ranking:
    """Rank the candidates by predicted score after RL.

    Args:
        candidates: the checkpoints and their predictions.
        recorded: outcomes of checkpoints that had their RL run.
        rl_noise: standard deviation of one RL run's score; None if unknown.
        signal_p: p-value of a permutation test of the proxies; None if there was no test, NaN if
            there were too few rows for one.
        top_n: the N of P(top N).
        rule: rule for readiness.
        remark: another basis of the predictions besides the predictor; a reason of every row.
        is_doubtful: whether the remark makes every checkpoint UNDECIDED.

    Example:
        >>> ranking = rank(candidates, rl_noise=0.01, top_n=1)
        >>> ranking.rows[0].rank, ranking.rows[0].domain
        (1, 'in')
    """
    rule = rule or ReadyRule()
    predictive = candidates.predictive
    in_domain = np.array([domain != OUT for domain in candidates.domain])
    best = best_known(predictive, candidates.ids, recorded, in_domain)
    delta = deltas(predictive, rl_noise, rule)
    is_claimed = signal_p is None or signal_p <= rule.signal_level
    ranked = in_domain & is_claimed
    view = _View(
        candidates=candidates,
        best=best,
        delta=delta,
        chance=chances(predictive, best, delta, rule),
        rank=_places(predictive.mean, ranked),
        place=_places(predictive.mean, np.ones(len(ranked), dtype=bool)),
        rank_in_group=_places_in_group(predictive, ranked),
        share=_shares(predictive, ranked, top_n, rule),
        recorded={one.id: one.value for one in recorded},
        signal_p=None if is_claimed else signal_p,
        rule=rule,
        remark=remark,
        is_doubtful=is_doubtful,
    )
    order = np.lexsort((view.place, ~ranked))
    return Ranking(
        rows=tuple(_row(view, int(i)) for i in order),
        target=candidates.target,
        top_n=top_n,
        interval=candidates.interval,
        best={
            group: dataclasses.replace(one, value=candidates.shown(one.value))
            for group, one in best.items()
        },
        rule=rule,
        signal_p=signal_p,
        is_claimed=is_claimed,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """The data from which the rows of a ranking are made."""

    candidates: Candidates
    best: Mapping[str, BestKnown]
    delta: FloatArray
    chance: FloatArray
    rank: NDArray[np.intp]
    place: NDArray[np.intp]
    rank_in_group: NDArray[np.intp]
    share: tuple[FloatArray, FloatArray]
    recorded: Mapping[str, float]
    signal_p: float | None
    rule: ReadyRule
    remark: str
    is_doubtful: bool


def _places(mean: FloatArray, ranked: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the (n,) places by mean, 1 for the largest; 0 for a row that is not ranked."""
    places = np.zeros(len(mean), dtype=np.intp)
    rows = np.flatnonzero(ranked)
    places[rows[np.argsort(-mean[rows], kind="stable")]] = np.arange(1, len(rows) + 1)
    return places


def _places_in_group(predictive: Predictive, ranked: NDArray[np.bool_]) -> NDArray[np.intp]:
    places = np.zeros(len(ranked), dtype=np.intp)
    for group in np.unique(predictive.groups):
        places += _places(predictive.mean, ranked & (predictive.groups == group))
    return places


def _shares(
    predictive: Predictive, ranked: NDArray[np.bool_], top_n: int, rule: ReadyRule
) -> tuple[FloatArray, FloatArray]:
    """Return the (n,) P(best) and P(top N) among the ranked rows; NaN for other rows."""
    best, top = np.full(len(ranked), np.nan), np.full(len(ranked), np.nan)
    rows = np.flatnonzero(ranked)
    if not len(rows):
        return best, top
    rng, n_above = np.random.default_rng(rule.seed), min(top_n, len(rows))
    n_best, n_top = np.zeros(len(rows)), np.zeros(len(rows))
    for n_draws in block_sizes(rule.n_draws, len(ranked)):
        draws = predictive.draw(n_draws, rng)[:, rows]
        n_best += np.bincount(draws.argmax(axis=1), minlength=len(rows))
        chosen = np.argpartition(-draws, n_above - 1, axis=1)[:, :n_above]
        n_top += np.bincount(chosen.ravel(), minlength=len(rows))
    best[rows], top[rows] = n_best / rule.n_draws, n_top / rule.n_draws
    return best, top


def _row(view: _View, i: int) -> RankedRow:
    candidates, predictive = view.candidates, view.candidates.predictive
    doubts = _doubts(view, i)
    low, high = candidates.shown_ends((candidates.low, candidates.high), i)
    outcome = view.recorded.get(candidates.ids[i])
    expected_ends: tuple[float | None, float | None] = (None, None)
    if outcome is not None and candidates.known is not None:
        expected_ends = candidates.shown_ends(candidates.known, i)
    is_ranked = bool(view.rank[i])
    mark = ""
    if view.signal_p is not None:
        untested = math.isnan(view.signal_p)
        mark = f"no ranking: {'the proxies cannot be tested' if untested else 'no signal'}"
    elif not is_ranked:
        mark = f"out of domain: its prediction alone would place it {view.place[i]}"
    return RankedRow(
        id=candidates.ids[i],
        group=str(predictive.groups[i]),
        rank=int(view.rank[i]) or None,
        rank_in_group=int(view.rank_in_group[i]) or None,
        predicted=candidates.predicted_at(i),
        low=low,
        high=high,
        recorded=None if outcome is None else candidates.shown(outcome),
        expected=candidates.shown(float(predictive.mean[i])),
        expected_low=expected_ends[0],
        expected_high=expected_ends[1],
        domain=str(candidates.domain[i]),
        p_best=float(view.share[0][i]) if is_ranked else None,
        p_top=float(view.share[1][i]) if is_ranked else None,
        p_match=float(view.chance[i]),
        readiness=decide(float(view.chance[i]), doubts, view.rule),
        mark=mark,
        reasons=(*doubts, *_reasons(view, i)),
    )


def _doubts(view: _View, i: int) -> list[str]:
    """Return the reasons why the probability of a row cannot be trusted."""
    doubts = [view.remark] if view.is_doubtful else []
    if view.signal_p is not None and math.isnan(view.signal_p):
        doubts.append("the proxies cannot be tested: too few outcomes inside one group")
    elif view.signal_p is not None:
        doubts.append(
            f"no signal: the proxies order recorded outcomes no better than chance "
            f"(p {view.signal_p:.2g})"
        )
    if view.candidates.domain[i] == OUT:
        doubts.append(f"out of the predictor's domain{_why_domain(view.candidates, i)}")
    stops = [finding for finding in _findings(view.candidates, i) if finding.level is Level.STOP]
    return doubts + [f"start check: {finding.text}" for finding in stops]


def _reasons(view: _View, i: int) -> list[str]:
    candidates = view.candidates
    group = str(candidates.predictive.groups[i])
    best = view.best[group]
    low, high = candidates.shown_ends((candidates.low, candidates.high), i)
    reasons = [
        f"chance {view.chance[i]:.2f} to end within {view.delta[i]:.3g} of {best}, "
        f"{candidates.shown(best.value):.4g}",
        f"predicted {candidates.predicted_at(i):.4g}, interval {low:.4g} to {high:.4g} "
        f"({candidates.interval})",
    ]
    outcome = view.recorded.get(candidates.ids[i])
    if outcome is not None:
        mean = candidates.shown(float(candidates.predictive.mean[i]))
        reasons.append(
            f"recorded {candidates.shown(outcome):.4g}; the expected true score, given this "
            f"outcome, is {mean:.4g}"
        )
    if candidates.domain[i] not in (OUT, "in"):
        reasons.append(f"at the edge of the predictor's domain{_why_domain(candidates, i)}")
    if view.remark and not view.is_doubtful:
        reasons.append(view.remark)
    reasons += _pulls(candidates, i)
    warnings = [finding for finding in _findings(candidates, i) if finding.level is Level.WARN]
    return reasons + [f"start check: {finding.text}" for finding in warnings]


def _pulls(candidates: Candidates, i: int) -> list[str]:
    """Describe the proxies for and against a checkpoint, compared with the mean of its group."""
    same = candidates.predictive.groups == candidates.predictive.groups[i]
    if same.sum() < 2:
        return []
    parts = {
        name: float(values[i] - values[same].mean())
        for name, values in candidates.contributions.items()
    }
    words = []
    for sign, what in ((1.0, "for"), (-1.0, "against")):
        pulls = sorted(
            (name for name, part in parts.items() if sign * part > 0),
            key=lambda name: -sign * parts[name],
        )[:_N_PULLS]
        if pulls:
            listed = ", ".join(f"{name} ({abs(parts[name]):.2g})" for name in pulls)
            words.append(f"{what} it, compared with its group's mean: {listed}")
    return words


def _why_domain(candidates: Candidates, i: int) -> str:
    reasons = candidates.domain_reasons[i] if candidates.domain_reasons else ()
    return f": {'; '.join(reasons)}" if reasons else ""


def _findings(candidates: Candidates, i: int) -> Sequence[Finding]:
    return candidates.findings[i] if candidates.findings else ()
