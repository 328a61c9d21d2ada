"""Rankings order by prediction, doubt aloud, and advise by the chance to match the best known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.predictors.decisions.ranking import Candidates, RankedRow, Ranking, rank
from rlready.predictors.decisions.readiness import ReadyRule, Recorded
from rlready.predictors.decisions.start_check import Finding, Level
from rlready.predictors.predictive import Predictive
from rlready.registry.errors import ConfigError
from rlready.registry.readiness_tag import Readiness

RULE = ReadyRule(n_draws=4_000)


def candidates(
    mean: Sequence[float],
    row_sd: float = 1.0,
    group_sd: float = 0.0,
    groups: Sequence[str] | None = None,
    domain: Sequence[str] | None = None,
    **more: object,
) -> Candidates:
    means = np.asarray(mean, dtype=float)
    n = len(means)
    given: dict[str, object] = {
        "ids": [f"c{i}" for i in range(n)],
        "predictive": Predictive(
            mean=means,
            row_sd=np.full(n, row_sd),
            group_sd=np.full(n, group_sd),
            groups=np.asarray(groups or ["g"] * n, dtype=np.str_),
        ),
        "low": means - 2.0,
        "high": means + 2.0,
        "interval": "90 %, known group",
        "domain": domain or ["in"] * n,
    }
    return Candidates(**{**given, **more})  # type: ignore[arg-type]


def order(ranking: Ranking) -> list[str]:
    return [row.id for row in ranking.rows]


def row_of(ranking: Ranking, id: str) -> RankedRow:
    (row,) = (row for row in ranking.rows if row.id == id)
    return row


@given(mean=st.lists(st.floats(-50, 50), min_size=1, max_size=10))
@settings(max_examples=40)
def test_rows_follow_the_prediction_and_chances_add_up(mean: list[float]) -> None:
    ranking = rank(candidates(mean), rule=ReadyRule(n_draws=200), top_n=3)
    assert [row.predicted for row in ranking.rows] == sorted(mean, reverse=True)
    assert [row.rank for row in ranking.rows] == list(range(1, len(mean) + 1))
    assert math.fsum(row.p_best or 0.0 for row in ranking.rows) == pytest.approx(1.0)
    assert math.fsum(row.p_top or 0.0 for row in ranking.rows) == pytest.approx(min(3, len(mean)))


@given(shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
@settings(max_examples=25)
def test_unit_of_the_target_changes_no_rank_and_no_advice(shift: float, scale: float) -> None:
    mean = np.array([0.0, 1.0, 2.5, 2.6])
    rule = ReadyRule(n_draws=500)
    plain = rank(candidates(mean.tolist()), rule=rule)
    other = rank(candidates((shift + scale * mean).tolist(), row_sd=scale), rule=rule)
    assert order(plain) == order(other)
    assert [row.readiness for row in plain.rows] == [row.readiness for row in other.rows]


def test_loss_as_target_is_shown_as_it_is() -> None:
    ranking = rank(candidates([-0.5, -0.3], lower_is_better=True), rule=RULE)
    first = ranking.rows[0]
    assert (first.id, first.predicted) == ("c1", 0.3)
    assert (first.low, first.high) == (-1.7, 2.3)
    assert ranking.best["g"].value == 0.3


def test_advice_follows_the_chance_to_match_the_best_recorded() -> None:
    """P(m >= 70 - 1): one half at 69, nearly one at 72, one in twenty at 67.4."""
    recorded = [
        Recorded(id="old", group="g", value=70.0),
        Recorded(id="older", group="g", value=60.0),
        Recorded(id="elsewhere", group="h", value=99.0),
    ]
    ranking = rank(candidates([72.0, 69.0, 68.5, 67.4]), recorded=recorded, rl_noise=1.0, rule=RULE)
    chances = [row.p_match for row in ranking.rows]
    assert chances == pytest.approx([0.9987, 0.5, 0.309, 0.055], abs=0.03)
    assert ranking.rows[0].readiness is Readiness.READY
    assert ranking.rows[2].readiness is Readiness.UNDECIDED
    assert ranking.rows[3].readiness is Readiness.NOT_READY
    assert "within 1 of the best recorded outcome (old), 70" in ranking.rows[0].reasons[0]


def test_error_of_the_recorded_outcome_counts() -> None:
    sure, unsure = (
        rank(
            candidates([66.0], 0.5),
            recorded=[Recorded(id="old", group="g", value=70.0, se=se)],
            rl_noise=1.0,
            rule=RULE,
        )
        for se in (0.0, 4.0)
    )
    assert sure.rows[0].p_match < 0.01 < 0.1 < unsure.rows[0].p_match


def test_without_outcomes_the_best_prediction_is_the_measure_and_the_level_drops_out() -> None:
    small, large = (
        rank(candidates([60.0, 59.5, 50.0], group_sd=sd), rl_noise=1.0, rule=RULE)
        for sd in (0.0, 30.0)
    )
    assert [row.p_match for row in small.rows] == [row.p_match for row in large.rows]
    assert "the best prediction (c0), 60" in large.rows[1].reasons[0]
    assert [row.readiness for row in large.rows] == [
        Readiness.READY,
        Readiness.READY,
        Readiness.NOT_READY,
    ]


def test_delta_is_half_the_spread_inside_the_group_where_noise_is_unknown() -> None:
    ranking = rank(candidates([0.0, 6.0], row_sd=4.0), rule=RULE)
    assert "within 2.5 of" in ranking.rows[0].reasons[0]
    assert "within 0.7 of" in rank(candidates([0.0, 6.0]), rl_noise=0.7).rows[0].reasons[0]
    fixed = ReadyRule(delta=3.0)
    assert (
        "within 3 of" in rank(candidates([0.0, 6.0]), rl_noise=0.7, rule=fixed).rows[0].reasons[0]
    )


def test_row_out_of_domain_stands_last_with_a_mark() -> None:
    given = candidates(
        [60.0, 90.0, 55.0],
        domain=["in", "out", "edge"],
        domain_reasons=[[], ["loss is 40 % above the training range"], ["few neighbours"]],
    )
    ranking = rank(given, rule=RULE)
    assert order(ranking) == ["c0", "c2", "c1"]
    out = ranking.rows[-1]
    assert (out.rank, out.p_best, out.readiness) == (None, None, Readiness.UNDECIDED)
    assert out.mark == "out of domain: its prediction alone would place it 1"
    assert out.reasons[0] == (
        "out of the predictor's domain: loss is 40 % above the training range"
    )
    assert any("edge of the predictor's domain: few" in text for text in ranking.rows[1].reasons)
    assert ranking.rows[0].p_best == pytest.approx(1.0, abs=0.01)


def test_row_out_of_domain_is_not_what_others_are_measured_against() -> None:
    ranking = rank(candidates([60.0, 90.0], domain=["in", "out"]), rl_noise=1.0, rule=RULE)
    assert row_of(ranking, "c0").readiness is Readiness.READY
    assert ranking.best["g"].id == "c0"


def test_no_signal_means_no_ranking() -> None:
    ranking = rank(candidates([60.0, 90.0]), signal_p=0.4, rule=RULE)
    assert not ranking.is_claimed
    assert all(row.rank is None and row.p_best is None for row in ranking.rows)
    assert all(row.readiness is Readiness.UNDECIDED for row in ranking.rows)
    assert "no signal" in ranking.rows[0].reasons[0]
    assert "p 0.4" in ranking.rows[0].reasons[0]
    assert rank(candidates([60.0, 90.0]), signal_p=0.01, rule=RULE).is_claimed


def test_proxies_that_cannot_be_tested_are_not_called_without_signal() -> None:
    ranking = rank(candidates([60.0, 90.0]), signal_p=math.nan, rule=RULE)
    assert not ranking.is_claimed
    assert ranking.to_dict()["signal_p"] is None
    assert {row.mark for row in ranking.rows} == {"no ranking: the proxies cannot be tested"}
    assert "cannot be tested" in ranking.rows[0].reasons[0]


def test_start_check_stop_withholds_ready_and_warnings_are_reasons() -> None:
    stop = Finding(level=Level.STOP, topic="signal", text="no gradient")
    warn = Finding(level=Level.WARN, topic="entropy", text="entropy is low")
    fine = Finding(level=Level.OK, topic="rate", text="all is well")
    ranking = rank(candidates([9.0, 8.9], findings=[[stop], [warn, fine]]), rule=RULE)
    assert [row.readiness for row in ranking.rows] == [Readiness.UNDECIDED, Readiness.READY]
    assert ranking.rows[0].reasons[0] == "start check: no gradient"
    assert "start check: entropy is low" in ranking.rows[1].reasons
    assert not any("all is well" in text for text in ranking.rows[1].reasons)


def test_reasons_name_what_pulls_beside_the_mean_of_the_group() -> None:
    parts = {
        "pass_at_64": np.array([5.0, 3.0, 1.0, 100.0]),
        "loss": np.array([-1.0, 0.0, 1.0, 100.0]),
        "same": np.array([7.0, 7.0, 7.0, 7.0]),
    }
    given = candidates([3.0, 2.0, 1.0, 0.0], groups=["g", "g", "g", "h"], contributions=parts)
    first = rank(given, rule=RULE).rows[0]
    assert "for it, compared with its group's mean: pass_at_64 (2)" in first.reasons
    assert "against it, compared with its group's mean: loss (1)" in first.reasons
    assert not any("mean:" in text for text in row_of(rank(given, rule=RULE), "c3").reasons)


def test_rank_in_group_counts_inside_the_group() -> None:
    ranking = rank(candidates([4.0, 3.0, 2.0, 1.0], groups=["a", "b", "a", "b"]), rule=RULE)
    assert [row.rank_in_group for row in ranking.rows] == [1, 1, 2, 2]


def test_ranking_is_json_and_the_same_twice() -> None:
    given = candidates([1.0, 2.0, 3.0], domain=["in", "out", "edge"])
    told = [json.dumps(rank(given, rule=RULE).to_dict(), allow_nan=False) for _ in range(2)]
    assert told[0] == told[1]
    assert json.loads(told[0])["rule_digest"] == RULE.digest
    assert json.loads(told[0])["rows"][0]["readiness"] == "READY"


def test_digest_of_the_rule_changes_with_every_field() -> None:
    changed = {
        "ready_from": 0.6,
        "not_ready_below": 0.2,
        "delta": 1.0,
        "delta_share": 0.4,
        "signal_level": 0.1,
        "n_draws": 10,
        "seed": 1,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(ReadyRule)}
    rules = [dataclasses.replace(ReadyRule(), **{name: value}) for name, value in changed.items()]  # type: ignore[arg-type]
    assert len({rule.digest for rule in [ReadyRule(), *rules]}) == len(rules) + 1
    assert ReadyRule().digest == ReadyRule(ready_from=0.5).digest


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="some id stands twice"):
        candidates([1.0, 2.0], ids=["a", "a"])
    with pytest.raises(ConfigError, match="1 domains"):
        candidates([1.0, 2.0], domain=["in"])
    with pytest.raises(ConfigError, match="candidate c1 has no prediction"):
        candidates([1.0, math.nan])
    with pytest.raises(ConfigError, match="there is none"):
        candidates([])
    with pytest.raises(ConfigError, match=r"READY from 0\.1 and NOT_READY below 0\.5"):
        ReadyRule(ready_from=0.1, not_ready_below=0.5)
    with pytest.raises(ConfigError, match="delta is -1"):
        ReadyRule(delta=-1.0)
