"""The ladder's chances: they sum to N, follow the values, and know neither order nor unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.predictors.search.ladder import Climbs, Ladder, Rung, Standings, decide, standings
from rlready.predictors.search.ladder_file import parse_ladder
from rlready.predictors.search.ladder_model import fit_law
from rlready.predictors.search.space_file import parse_space
from rlready.predictors.training_table import FloatArray, Kind
from rlready.registry.errors import ConfigError

LADDER = Ladder(
    rungs=(
        Rung(name="loss", gpu_hours=1.0),
        Rung(name="pass_at_16", gpu_hours=2.0),
        Rung(name="rl", gpu_hours=20.0),
    )
)


def world(
    n: int, seed: int, *, informative: float = 0.9, ladder: Ladder = LADDER
) -> tuple[FloatArray, FloatArray]:
    """(n, 3) values of a loss, a pass@16 and the outcome, which share one strength; and it."""
    rng = np.random.default_rng(seed)
    strength = rng.standard_normal(n)
    own = np.sqrt(1.0 - informative**2)
    seen = informative * strength[:, None] + own * rng.standard_normal((n, 2))
    loss = 0.5 * np.exp(-0.2 * seen[:, 0])
    share = 1.0 / (1.0 + np.exp(-0.8 * seen[:, 1]))
    return np.column_stack([loss, share, 0.6 + 0.05 * strength]), strength


def climbs(values: FloatArray, reached: Any, errors: FloatArray | None = None) -> Climbs:
    """Trials that have their first `reached` values only."""
    hidden = np.arange(values.shape[1]) >= np.asarray(reached)[:, None]
    return Climbs(
        values=np.where(hidden, np.nan, values),
        errors=np.full(values.shape, np.nan) if errors is None else errors,
        is_open=np.ones(len(values), dtype=bool),
    )


def some(n: int = 20, seed: int = 0, **changes: Any) -> Climbs:
    """Ten trials at the end, five at each of the lower rungs."""
    values, _ = world(n, seed, **changes)
    return climbs(values, [3] * (n - 10) + [1] * 5 + [2] * 5)


@settings(max_examples=15)
@given(
    n=st.integers(1, 14),
    top=st.integers(1, 5),
    seed=st.integers(0, 99),
    noisy=st.booleans(),
    data=st.data(),
)
def test_the_chances_sum_to_the_number_of_places(
    n: int, top: int, seed: int, noisy: bool, data: st.DataObject
) -> None:
    values, _ = world(n, seed)
    reached = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    errors = np.full(values.shape, 0.02) if noisy else None
    found = standings(replace(LADDER, top=top), climbs(values, reached, errors), n_draws=128)
    assert found.p_top.sum() == pytest.approx(min(top, n))
    assert ((found.p_top >= 0) & (found.p_top <= 1)).all()
    assert (found.gain >= 0).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 99), n_known=st.integers(1, 2), better=st.floats(0.01, 4.0))
def test_a_better_value_never_lowers_an_end(seed: int, n_known: int, better: float) -> None:
    """Draw by draw, for rungs whose sense is known: so no chance to end in the top N falls."""
    z = np.random.default_rng(seed).standard_normal((12, 3))
    law = fit_law(z, np.full(z.shape, np.nan), (True, True, True), 128, np.random.default_rng(1))
    trial = np.full((1, 3), np.nan)
    trial[0, :n_known] = np.random.default_rng([seed, 1]).standard_normal(n_known)
    for rung in range(n_known):
        raised = trial.copy()
        raised[0, rung] += better
        before, after = (law.ends_of(x, np.random.default_rng(2)) for x in (trial, raised))
        assert (after >= before - 1e-12).all()


@settings(max_examples=10)
@given(seed=st.integers(0, 99))
def test_the_order_of_the_trials_is_nothing(seed: int) -> None:
    trials = some(seed=seed)
    order = np.random.default_rng(seed).permutation(20)
    here = standings(LADDER, trials, n_draws=128)
    there = standings(LADDER, trials.rows(order), n_draws=128)
    np.testing.assert_allclose(there.p_top, here.p_top[order])
    np.testing.assert_allclose(there.predicted, here.predicted[order])


def test_the_units_of_the_rungs_are_nothing() -> None:
    """Nats or bits, shares or percent, points or shares of the outcome."""
    trials = some()
    units = np.array([1.0 / np.log(2.0), 100.0, 100.0])
    other = Climbs(
        values=trials.values * units, errors=trials.errors * units, is_open=trials.is_open
    )
    here, there = standings(LADDER, trials), standings(LADDER, other)
    np.testing.assert_allclose(there.p_top, here.p_top, atol=2e-3)
    np.testing.assert_allclose(there.predicted, 100.0 * here.predicted, rtol=1e-3)


def test_informative_rungs_tell_who_ends_on_top() -> None:
    values, strength = world(60, 1, informative=0.95)
    found = standings(LADDER, climbs(values, [3] * 30 + [2] * 30))
    rest = strength[30:]
    assert np.corrcoef(found.predicted[30:], rest)[0, 1] > 0.85
    assert found.p_top[30:][np.argmax(rest)] > 5 * np.median(found.p_top[30:])


def test_a_rung_of_noise_promotes_all_alike() -> None:
    rng = np.random.default_rng(3)
    values, _ = world(60, 3)
    values[:, 0] = 0.5 * np.exp(0.2 * rng.standard_normal(60))
    found = standings(LADDER, climbs(values, [3] * 40 + [1] * 20))
    chances = found.p_top[40:]
    assert chances.max() < 3.5 * chances.min()
    informed = standings(LADDER, climbs(world(60, 3)[0], [3] * 40 + [1] * 20)).p_top[40:]
    assert informed.max() > 20 * informed.min()


def test_a_skipped_rung_is_drawn_with_the_rest() -> None:
    values, strength = world(60, 5)
    trials = climbs(values, [3] * 40 + [2] * 20)
    trials.values[::2, 0] = np.nan
    found = standings(LADDER, trials)
    assert np.corrcoef(found.predicted[40:], strength[40:])[0, 1] > 0.7


def test_a_value_with_a_large_error_says_less() -> None:
    values, _ = world(40, 6)
    best = int(np.argmax(values[30:, 1])) + 30
    reached = [3] * 30 + [2] * 10
    errors = np.full(values.shape, np.nan)
    exact = standings(LADDER, climbs(values, reached, errors)).predicted
    errors[best, :2] = 0.3
    noisy = standings(LADDER, climbs(values, reached, errors))
    middle = np.median(values[:30, 2])
    assert abs(noisy.predicted[best] - middle) < abs(exact[best] - middle)


def test_a_trial_that_ended_without_outcome_teaches_and_takes_no_place() -> None:
    trials = some()
    trials.is_open[-1] = False
    found = standings(LADDER, trials)
    assert found.p_top[-1] == 0.0
    assert found.p_top.sum() == pytest.approx(3.0)


def test_of_thousands_that_ended_some_are_enough() -> None:
    values, strength = world(3000, 7)
    found = standings(LADDER, climbs(values, [3] * 2980 + [2] * 20), n_draws=256)
    assert found.p_top.sum() == pytest.approx(3.0)
    assert np.corrcoef(found.predicted[2980:], strength[2980:])[0, 1] > 0.75


def standing(p_top: list[float], n_complete: int) -> Standings:
    zeros = np.zeros(len(p_top))
    return Standings(
        p_top=np.array(p_top),
        predicted=zeros,
        sd=zeros,
        gain=zeros,
        gain_per_hour=zeros,
        n_complete=np.full(3, n_complete),
    )


def test_all_go_on_while_too_few_have_an_outcome() -> None:
    trials = climbs(np.ones((4, 3)), [1, 1, 1, 1])
    decision = decide(LADDER, trials, standing([0.0] * 4, 5), 0)
    assert decision.goes_on
    assert "5 of 6 trials" in decision.reason
    assert decision.p_top is None


def test_what_costs_a_tenth_needs_a_tenth_of_the_chance() -> None:
    trials = climbs(np.ones((4, 3)), [1, 1, 2, 2])
    found = standing([0.011, 0.009, 0.11, 0.09], 9)
    none_kept = replace(LADDER, min_keep=0)
    kept = [decide(none_kept, trials, found, row) for row in range(4)]
    assert [one.goes_on for one in kept] == [True, False, True, False]
    assert "P(top 3) 0.009 < 0.01 at loss" in kept[1].reason


def test_a_small_chance_stops_a_trial_unless_too_few_went_on() -> None:
    trials = climbs(np.ones((6, 3)), [1, 1, 1, 2, 2, 2])
    found = standing([0.005, 0.2, 0.001, 0.9, 0.9, 0.9], 9)
    assert [decide(LADDER, trials, found, row).goes_on for row in range(3)] == [False, True, False]
    few = climbs(np.ones((6, 3)), [1, 1, 1, 2, 0, 0])
    kept = [decide(LADDER, few, found, row) for row in range(3)]
    assert [one.goes_on for one in kept] == [True, True, False]
    assert "3 go beyond each rung" in kept[0].reason
    assert "P(top 3) 0.001 < 0.01 at loss" in kept[2].reason


FILE: dict[str, Any] = {
    "top": 2,
    "rungs": [
        {"name": "quarter", "gpu_hours": 0.5, "kind": "loss", "better": "less"},
        {"name": "heldout", "gpu_hours": 1, "proxy": "heldout_nll@val"},
        {"name": "rl", "gpu_hours": 40},
    ],
}


def test_a_ladder_is_read_from_its_table() -> None:
    ladder = parse_ladder(FILE)
    assert (ladder.top, ladder.min_keep, ladder.promote_at) == (2, 2, pytest.approx(2 / 30))
    quarter, heldout, rl = ladder.rungs
    assert (quarter.kind, quarter.sign) == (Kind.LOSS, -1)
    assert heldout.column(np.array([1.2])).sign == -1
    assert rl.gpu_hours == 40.0
    assert ladder.hours_from(1) == 41.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tops": 3}, r"unknown key 'tops'.*Known: top, promote_at"),
        ({"top": 0}, r"ladder\.top is 0"),
        ({"promote_at": 1.5}, r"promote_at is 1\.5"),
        ({"min_complete": 1}, "at least 3"),
        ({"rungs": FILE["rungs"][:1]}, "at least two rungs"),
        ({"rungs": [{**FILE["rungs"][0], "hours": 1}, FILE["rungs"][2]]}, "Known: name, gpu_hours"),
        ({"rungs": [{"name": "a"}, FILE["rungs"][2]]}, "has no gpu_hours"),
        ({"rungs": [{"name": "a", "gpu_hours": -1}, FILE["rungs"][2]]}, "costs -1 GPU-hours"),
        ({"rungs": [{"name": "a b", "gpu_hours": 1}, FILE["rungs"][2]]}, "name is 'a b'"),
        ({"rungs": [FILE["rungs"][0], FILE["rungs"][0], FILE["rungs"][2]]}, "'quarter' twice"),
        ({"rungs": FILE["rungs"][::-1]}, "the last rung 'quarter' has"),
        ({"rungs": [FILE["rungs"][0], {"name": "rl", "gpu_hours": 0}]}, "costs nothing"),
        ({"rungs": [{**FILE["rungs"][1], "kind": "nats"}, FILE["rungs"][2]]}, "Known: loss, prob"),
        ({"rungs": [{**FILE["rungs"][1], "better": "up"}, FILE["rungs"][2]]}, "Known: more, less"),
    ],
)
def test_a_mistake_in_the_table_is_told(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_space({"sources": {"a": {}}, "ladder": {**FILE, **change}})
