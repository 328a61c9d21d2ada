"""The ranking from public outcomes, the rule beside it, and the blend with a fitted predictor."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from rlready.predictors.decisions.prior_ranking import places_by_paper, rank_by_prior
from rlready.predictors.predictive import Predictive
from rlready.predictors.public.blend import blended, weight_of_prior
from rlready.predictors.public.order import order_checkpoints
from rlready.predictors.public.posterior import LEVEL_SD
from rlready.predictors.training_table import GROUP, Column, Kind

SCORE = Column(name="pass_at_1@math", kind=Kind.PROBABILITY, sign=1)
LARGE = Column(name="pass_at_64@math", kind=Kind.PROBABILITY, sign=1)
LOSS = Column(name="heldout_nll@own", kind=Kind.LOSS, sign=-1)
NAMES = list("abcdef")
X = pd.DataFrame(
    {
        SCORE.name: [0.2, 0.5, 0.3, 0.6, 0.4, 0.35],
        LARGE.name: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
        LOSS.name: [0.9, 0.7, 0.95, 0.65, 0.8, 0.85],
    },
    index=NAMES,
)
ONE = np.array(["all"] * 6)


def outcomes(**values: float) -> np.ndarray:
    return np.array([values.get(name, np.nan) for name in NAMES])


def test_the_papers_rule_drops_the_half_with_the_higher_loss_and_orders_by_the_largest_k() -> None:
    places = places_by_paper(X, [SCORE, LARGE, LOSS], ONE)
    assert places is not None
    assert dict(zip(NAMES, places, strict=True)) == {"a": 0, "b": 1, "c": 0, "d": 2, "e": 3, "f": 0}
    without_loss = places_by_paper(X, [SCORE, LARGE], ONE)
    assert without_loss is not None
    assert without_loss.tolist() == [1, 2, 3, 4, 5, 6]
    assert places_by_paper(X, [LOSS], ONE) is None


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("pre_pass1", "pre_pass8"),
        ("Pass@1", "Pass@64"),
        ("gsm8k/avg@16", "gsm8k/pass@16"),
        ("pass_at_1@math", "pass_at_8@math"),
        ("math500", "pass64"),
    ],
)
def test_any_name_of_pass_at_k_is_read_in_the_same_way(small: str, large: str) -> None:
    """`pre_pass8` was once read as pass@1, so it counted as half of the prior's proxy."""
    table = X.rename(columns={SCORE.name: small, LARGE.name: large})
    columns = [Column(name=name, kind=Kind.PROBABILITY, sign=1) for name in (small, large)]
    places = places_by_paper(table, columns, ONE)
    assert places is not None
    assert places.tolist() == [1, 2, 3, 4, 5, 6], "the paper's rule takes the largest k"
    both = order_checkpoints(table, columns).rows.standings
    alone = order_checkpoints(table, columns[:1]).rows.standings
    assert both.tolist() == alone.tolist(), "the prior takes the smallest k"


def test_the_papers_rule_leaves_out_lenient_and_estimated_scores() -> None:
    names = ["lenient_pass_at_1@math", "pass_at_64_est@math"]
    table = X.rename(columns=dict(zip([SCORE.name, LARGE.name], names, strict=True)))
    columns = [Column(name=name, kind=Kind.PROBABILITY, sign=1) for name in names]
    assert places_by_paper(table, columns, ONE) is None


def test_without_outcomes_the_order_is_that_of_the_standing_and_no_unit_is_claimed() -> None:
    order = order_checkpoints(X, [SCORE, LOSS], own_style=[LOSS.name])
    ranking = rank_by_prior(order, NAMES)
    assert ranking.rows[0].id == "d"
    assert [row.standing for row in ranking.rows] == sorted(order.score, reverse=True)
    assert all(row.predicted is None and row.low is None for row in ranking.rows)
    assert all(row.reasons[0].endswith("no RL run of yours yet") for row in ranking.rows)
    assert sum(row.p_best or 0.0 for row in ranking.rows) == pytest.approx(1.0)
    assert {row.readiness.name for row in ranking.rows} == {"UNDECIDED"}


def test_a_recorded_outcome_stands_as_it_is_and_intervals_end_with_the_scale() -> None:
    order = order_checkpoints(X, [SCORE, LOSS], outcomes(b=0.9), own_style=[LOSS.name])
    ranking = rank_by_prior(order, NAMES, ends=(0.0, 1.0), errors=np.full(6, 0.01))
    rows = {row.id: row for row in ranking.rows}
    assert rows["b"].predicted == rows["b"].recorded == 0.9
    assert rows["b"].high - rows["b"].low == pytest.approx(2 * 1.645 * 0.01, rel=1e-3)
    assert all(0.0 <= row.low <= row.predicted <= row.high <= 1.0 for row in ranking.rows)
    lower = rank_by_prior(order, NAMES, lower_is_better=True)
    assert lower.rows[0].id == ranking.rows[0].id
    assert lower.rows[0].predicted < 0


def test_several_groups_have_places_inside_each_and_none_across() -> None:
    groups = X.assign(**{GROUP: list("uuuuuv")})
    ranking = rank_by_prior(order_checkpoints(groups, [SCORE]), NAMES)
    assert all(row.rank is None for row in ranking.rows)
    assert [row.rank_in_group for row in ranking.rows] == [1, 2, 3, 4, 5, None]
    assert ranking.rows[-1].p_best is None
    assert "alone" in ranking.rows[-1].mark
    chosen = rank_by_prior(order_checkpoints(groups, [SCORE]), NAMES, groups=["v"])
    assert [row.id for row in chosen.rows] == ["f"]


def test_a_predictive_has_the_unit_of_the_outcomes_and_lies_in_their_intervals() -> None:
    before = order_checkpoints(X, [SCORE]).predictive()
    assert np.abs(before.mean).max() < 2.0, "standard deviations inside the group"
    assert before.group_sd.min() >= LEVEL_SD
    order = order_checkpoints(X, [SCORE], outcomes(a=0.40, d=0.46, e=0.43))
    low, high = order.interval()
    after, rows = order.predictive(), [1, 2, 5]
    assert ((low < after.mean) & (after.mean < high))[rows].all()
    # Given the unit, the interval of the predictive is the model's.
    known = order_checkpoints(X, [SCORE], outcomes(a=0.40, d=0.46, e=0.43), outcome_sd=0.03)
    low, high = known.interval()
    np.testing.assert_allclose(
        2 * 1.6449 * known.predictive().sd[rows], (high - low)[rows], rtol=0.05
    )


def test_an_unknown_unit_makes_no_bad_checkpoint_promising() -> None:
    """After the best one's outcome, the second best has the best chance to beat it."""
    predictive = order_checkpoints(X, [SCORE], outcomes(d=0.6)).predictive()
    beats = 1.0 - norm.cdf((0.6 - predictive.mean) / predictive.sd)
    assert np.delete(beats, 3).argmax() == 1
    assert beats[0] < beats[1] / 2


def test_the_chance_to_match_is_certain_for_the_best_known_and_falls_with_the_score() -> None:
    order = order_checkpoints(X, [SCORE], outcomes(a=0.40, d=0.46))
    chances = order.chances_match("all")
    assert chances[3] == 1.0
    unrecorded = [1, 4, 5, 2]  # by falling pass@1
    assert (np.diff(chances[unrecorded]) < 0).all()
    alone = order_checkpoints(X, [SCORE]).chances_match("all")
    assert alone.argmax() == 3
    assert 0.5 < alone.max() <= 0.85


def test_a_loss_of_the_own_style_opens_the_cap_only_in_the_group_that_has_it() -> None:
    groups = X.assign(**{GROUP: list("uuuvvv")})
    groups.loc[list("def"), LOSS.name] = np.nan
    order = order_checkpoints(groups, [SCORE, LOSS], own_style=[LOSS.name])
    assert order.cap("u") == pytest.approx(0.95)
    assert order.cap("v") == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("n", "weight"), [(0, 1.0), (4, 1.0), (5, 0.875), (8, 0.5), (11, 0.125), (12, 0.0), (48, 0.0)]
)
def test_the_weight_of_public_outcomes_falls_from_5_to_12(n: int, weight: float) -> None:
    assert weight_of_prior(n) == weight
    # Without a signal it is all or nothing: from 12 on, nothing is ranked.
    assert weight_of_prior(n, has_signal=False) == float(n < 12)


def test_a_blend_keeps_the_level_of_a_group_without_outcomes() -> None:
    groups = X.assign(**{GROUP: list("uuuvvv")})
    order = order_checkpoints(groups, [SCORE], outcomes(a=0.3, b=0.5))
    fitted = Predictive(
        mean=np.array([0.3, 0.5, 0.4, 0.7, 0.8, 0.6]),
        row_sd=np.full(6, 0.02),
        group_sd=np.full(6, 0.1),
        groups=order.rows.groups,
    )
    nothing = blended(fitted, order, np.zeros(6))
    np.testing.assert_allclose(nothing.mean, fitted.mean)
    np.testing.assert_allclose(nothing.row_sd, fitted.row_sd)
    everything = blended(fitted, order, np.ones(6))
    assert everything.mean[3:].mean() == pytest.approx(0.7)
    assert everything.mean[3] > everything.mean[5], "d has the highest pass@1 of its group"
    np.testing.assert_allclose(everything.mean[:3], order.predictive().mean[:3])
    half = blended(fitted, order, np.full(6, 0.5))
    np.testing.assert_allclose(half.mean, (nothing.mean + everything.mean) / 2)


@pytest.mark.parametrize("known", [{}, {"a": 0.5, "d": 0.8}])
def test_chances_among_some_checkpoints_are_those_among_all(known: dict[str, float]) -> None:
    order = order_checkpoints(X, [SCORE, LOSS], outcomes(**known), own_style=[LOSS.name])
    some = np.array([4, 1, 2])
    everyone = order.chances_better("all")
    assert order.chances_better("all", some) == pytest.approx(everyone[np.ix_(some, some)])
