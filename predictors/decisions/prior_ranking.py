"""Rank checkpoints by public outcomes and few or no outcomes of the user.

`rlready rank` shows this ranking before a predictor can be fitted. Every row says which outcomes it
is based on. The order only holds inside a group, and no checkpoint is called READY, which requires
a predictor of the user's own outcomes. The ranking also shows the order by the rule of a paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from rlready.predictors.kinds import k_of_pass
from rlready.predictors.public.posterior import MATCH_SHARE, OrderPosterior
from rlready.predictors.public.standing import standing
from rlready.predictors.training_table import Column, FloatArray, Kind
from rlready.registry.readiness_tag import Readiness

if TYPE_CHECKING:
    import pandas as pd

PAPER_RULE = (
    "the paper's rule: leave out the half with the higher held-out loss, order the others by "
    "pass@k of the largest k, and calibrate with 3 to 4 RL runs"
)
"""A rule of thumb of the literature on SFT checkpoints for RL; it gives no probabilities."""

_KIND_WORDS = {
    "pass_at_k": "pass@1",
    "loss_own_style": "held-out loss of its own style",
    "loss_other_style": "held-out loss of another style",
    "rl_probe": "short RL probe",
}


@dataclass(frozen=True, kw_only=True)
class PriorRow:
    """One checkpoint of the ranking; outcomes are in the target's unit.

    Args:
        id: id of the checkpoint.
        group: group of the checkpoint.
        rank: 1 is best; None if there are several groups, or it is alone in its group.
        rank_in_group: rank in the group, 1 is best.
        rank_by_paper: rank in the group by `PAPER_RULE`; None if the rule leaves it out.
        recorded: the outcome; None if RL was not run.
        predicted: expected outcome of one RL run; None if no outcome of the group gives the unit.
        low: lower end of the interval of one RL run, or of the recorded outcome.
        high: upper end of the interval.
        standing: expected outcome minus the mean of the group, in standard deviations of the
            group's outcomes.
        p_best: probability to be the best of the group.
        p_top: probability to be among the best N of the group.
        p_match: probability to end about as well as the best known of the group, or better.
        readiness: always UNDECIDED.
        mark: why the checkpoint has no rank; empty if it has one.
        reasons: the outcomes behind the prediction, and the proxies for and against it.
    """

    id: str
    group: str
    rank: int | None
    rank_in_group: int | None
    rank_by_paper: int | None
    recorded: float | None
    predicted: float | None
    low: float | None
    high: float | None
    standing: float
    p_best: float | None
    p_top: float | None
    p_match: float | None
    readiness: Readiness
    mark: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PriorRanking:
    """A ranking of checkpoints by public outcomes, group by group.

    Args:
        rows: rows by group, the best of each group first.
        target: name of the outcome.
        top_n: the N of `p_top`.
        level: level of the intervals.
        n_outcomes: number of recorded outcomes of the user.
        source: the outcomes behind the ranking, in words.
        track_record: how often such advice was right, in words.
        most_certain: largest probability that is claimed, by group.
        warnings: warnings for the reader.
    """

    rows: tuple[PriorRow, ...]
    target: str
    top_n: int
    level: float
    n_outcomes: int
    source: str
    track_record: str
    most_certain: dict[str, float]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as JSON values: the fields of `Ranking`, and its basis."""
        return {
            "target": self.target,
            "is_claimed": True,
            "signal_p": None,
            "interval": f"{self.level:.0%}",
            "top_n": self.top_n,
            "basis": self.source,
            "n_outcomes": self.n_outcomes,
            "track_record": self.track_record,
            "most_certain": self.most_certain,
            "warnings": list(self.warnings),
            "paper_rule": PAPER_RULE,
            "rows": [
                {
                    **vars(row),
                    "domain": "unknown",
                    "readiness": row.readiness.name,
                    "reasons": list(row.reasons),
                }
                for row in self.rows
            ],
        }


def rank_by_prior(
    order: OrderPosterior,
    names: Sequence[str],
    *,
    groups: Sequence[str] = (),
    by_paper: NDArray[np.intp] | None = None,
    top_n: int = 3,
    level: float = 0.9,
    target: str = "target",
    ends: tuple[float, float] = (-np.inf, np.inf),
    errors: FloatArray | None = None,
    lower_is_better: bool = False,
) -> PriorRanking:
    """Rank checkpoints inside their groups by public outcomes and those of the user.

    Args:
        order: order of the checkpoints.
        names: (n,) names of the checkpoints, all different.
        groups: rank only these groups; by default all.
        by_paper: (n,) places from `places_by_paper`.
        top_n: the N of P(top N).
        level: level of the intervals.
        target: name of the outcome.
        ends: lowest and highest possible outcome, at which intervals and predictions end.
        errors: (n,) standard errors of recorded outcomes; without an error an outcome is exact.
        lower_is_better: whether the user's target is the negative of the outcome.
    """
    everyone = np.unique(order.rows.groups)
    chosen = [str(group) for group in everyone if not groups or group in groups]
    recorded = order.rows.outcome
    error = np.zeros(len(names)) if errors is None else np.nan_to_num(errors)
    half = norm.ppf(0.5 + level / 2.0) * error
    low, high = (
        np.where(np.isfinite(recorded), recorded + side * half, np.clip(end, *ends))
        for side, end in zip((-1.0, 1.0), order.interval(level), strict=True)
    )
    expected = np.clip(order.predictive().mean, *ends)
    outcome = _Outcomes(
        expected=np.where(np.isfinite(recorded), recorded, expected),
        low=low,
        high=high,
        sign=-1.0 if lower_is_better else 1.0,
    )
    rows = [
        row
        for group in chosen
        for row in _rows(order, group, names, outcome, by_paper, top_n, len(everyone) == 1)
    ]
    return PriorRanking(
        rows=tuple(rows),
        target=target,
        top_n=top_n,
        level=level,
        n_outcomes=order.n_outcomes,
        source=order.source,
        track_record=order.track_record,
        most_certain={group: order.cap(group) for group in chosen},
        warnings=(*order.warnings, *_more_warnings(len(chosen))),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outcomes:
    """The (n,) recorded or expected outcomes and their intervals, higher is better."""

    expected: FloatArray
    low: FloatArray
    high: FloatArray
    sign: float


def _rows(
    order: OrderPosterior,
    group: str,
    names: Sequence[str],
    outcome: _Outcomes,
    by_paper: NDArray[np.intp] | None,
    top_n: int,
    is_only: bool,
) -> list[PriorRow]:
    """Return the rows of one group, the best first."""
    members = np.flatnonzero(order.rows.groups == group)
    recorded, score, sign = order.rows.outcome, order.score, outcome.sign
    has_unit, is_alone = bool(np.isfinite(recorded[members]).any()), len(members) == 1
    # Expected outcomes are equal where they reach the end of the scale; there the standing decides.
    first = outcome.expected[members] if has_unit else score[members]
    shares = [np.full(1, np.nan)] * 3
    if not is_alone:
        tops = [order.chances_top(group, n) for n in (1, top_n)]
        shares = [*tops, order.chances_match(group)]
    rows = []
    for place, k in enumerate(np.lexsort((-score[members], -first)), start=1):
        i = int(members[k])
        low, high = sorted((sign * float(outcome.low[i]), sign * float(outcome.high[i])))
        p_best, p_top, p_match = (_or_none(share[k]) for share in shares)
        rows.append(
            PriorRow(
                id=names[i],
                group=group,
                rank=place if is_only and not is_alone else None,
                rank_in_group=None if is_alone else place,
                rank_by_paper=None if by_paper is None else int(by_paper[i]) or None,
                recorded=_or_none(sign * recorded[i]),
                predicted=sign * float(outcome.expected[i]) if has_unit else None,
                low=low if has_unit else None,
                high=high if has_unit else None,
                standing=float(score[i]),
                p_best=p_best,
                p_top=p_top,
                p_match=p_match,
                readiness=Readiness.UNDECIDED,
                mark="alone in its group: no order" if is_alone else "",
                reasons=(order.source, *_reasons(order, i)),
            )
        )
    return rows


def places_by_paper(
    X: pd.DataFrame, columns: Sequence[Column], groups: NDArray[np.str_], own: Sequence[str] = ()
) -> NDArray[np.intp] | None:
    """Return the (n,) places in the group by `PAPER_RULE`; 0 if the rule leaves a checkpoint out.

    Args:
        X: one row per checkpoint.
        columns: the proxies among the columns of `X`.
        groups: (n,) groups of the checkpoints.
        own: losses on text of the checkpoints' own style; by default all losses are used.

    Returns:
        The places; None if there is no pass@k.
    """
    sampled = {c.name: k for c in columns if (k := k_of_pass(c.name, strict=True)) is not None}
    if not sampled:
        return None
    by_skill = X[max(sampled, key=lambda name: sampled[name])].to_numpy(dtype=float)
    losses = [c for c in columns if c.kind is Kind.LOSS and (not own or c.name in own)]
    places = np.zeros(len(X), dtype=np.intp)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        is_kept = np.isfinite(by_skill[members])
        if losses:
            values = [X[c.name].to_numpy(dtype=float)[members] for c in losses]
            stands = [standing(v, c.kind, c.name) for v, c in zip(values, losses, strict=True)]
            loss = np.nan_to_num(np.array(stands)).mean(axis=0)
            is_kept &= loss <= np.median(loss)
        rows = members[is_kept]
        places[rows[np.argsort(-by_skill[rows], kind="stable")]] = np.arange(1, len(rows) + 1)
    return places


def _reasons(order: OrderPosterior, i: int) -> list[str]:
    """Describe the position of a checkpoint in its group by each kind of proxy."""
    words = []
    for kind, z in zip(order.rows.kinds, order.rows.standings[i], strict=True):
        side = "better" if z >= 0 else "worse"
        words.append(f"{_KIND_WORDS[kind]}: {abs(z):.1f} sd {side} than the mean of its group")
    return words


def _more_warnings(n_groups: int) -> list[str]:
    if n_groups > 1:
        return [
            f"{n_groups} groups: the order and the chances hold inside each group, because the "
            "levels of the groups are unknown"
        ]
    return [
        "one group only: it does not show how well the order holds for another base model or "
        "RL recipe"
    ]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def match_in_words() -> str:
    """Return the meaning of P(match), for readers."""
    return f"within {MATCH_SHARE:g} sd of the best known of its group"
