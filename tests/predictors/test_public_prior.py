"""Public outcomes, the prior that is learned from them, and the order by 0 to many outcomes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT, SHARED
from scipy.stats import norm

from rlready.predictors.public.facts import cells, check_outcomes, public_rows, public_sources
from rlready.predictors.public.learn import learn
from rlready.predictors.public.order import _RESIDUALS, order_checkpoints
from rlready.predictors.public.prior import from_toml, shipped_prior, to_toml
from rlready.predictors.public.standing import standing
from rlready.predictors.training_table import GROUP, Column, Kind
from rlready.registry.errors import ConfigError

SCORE = Column(name="pass_at_1@math", kind=Kind.PROBABILITY, sign=1)
LOSS = Column(name="heldout_nll@own", kind=Kind.LOSS, sign=-1)
PLAIN = Column(name="other")
SEVEN = pd.DataFrame(
    {
        SCORE.name: [0.2, 0.5, 0.3, 0.6, 0.4, 0.35, 0.45],
        LOSS.name: [0.9, 0.7, 0.95, 0.65, 0.8, 0.85, 0.6],
        PLAIN.name: [3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0],
    },
    index=list("abcdefg"),
)
NONE = np.full(7, np.nan)


def outcomes(**values: float) -> np.ndarray:
    """(7,) outcomes of the rows a to g; the others have none."""
    return np.array([values.get(name, np.nan) for name in SEVEN.index])


# Facts.


def test_shipped_rows_are_the_shared_ones() -> None:
    if not (SHARED / "outcomes").is_dir():
        pytest.skip("needs shared/data/outcomes")
    shared = pd.read_csv(SHARED / "outcomes" / "starts.csv")
    rows = public_rows()
    assert len(rows) == len(shared) == 321
    for name in ("post", "pre_pass1", "probe", "pre_pass64"):
        np.testing.assert_array_equal(rows[name], shared[name])


def test_every_row_has_a_source_with_reference_trust_and_licence_note() -> None:
    sources = public_sources()
    assert set(public_rows()["source"]) == set(sources)
    assert all(s.reference and s.licence_note and s.trust in "ABC" for s in sources.values())
    assert sources["aesl"].excluded, "second-hand figures teach nothing"


def test_cells_are_of_one_base_and_have_an_order() -> None:
    for cell in cells(public_rows()):
        assert cell.frame["model"].nunique() == 1
        assert len(cell.frame) >= 3
        assert np.ptp(cell.outcome) > 0
    assert "simplerl_zoo" not in {cell.source for cell in cells(public_rows())}


@pytest.mark.parametrize(
    "mark",
    [
        {"source": "someone/adaptive_rl_forge@1 results.csv"},
        {"is_simulated": True},
        {"note": "synthetic outcome, noise added"},
        {"trust": "simulated"},
    ],
)
def test_a_table_of_simulated_outcomes_is_refused(mark: dict[str, object]) -> None:
    frame = pd.DataFrame({"group": ["a", "a"], "post": [0.1, 0.2]})
    check_outcomes(frame)
    with pytest.raises(ConfigError, match="simulated outcomes"):
        check_outcomes(frame.assign(**mark))


@pytest.mark.parametrize("column", ["post", "group"])
def test_a_table_without_outcome_or_group_is_refused(column: str) -> None:
    frame = pd.DataFrame({"group": ["a"], "post": [0.1]}).drop(columns=column)
    with pytest.raises(ConfigError, match=f"no column '{column}'"):
        check_outcomes(frame)


# The learned table.


def test_the_shipped_prior_is_what_the_script_learns() -> None:
    text = (ROOT / "predictors" / "public" / "prior.toml").read_text(encoding="utf-8")
    assert to_toml(learn(public_rows(), public_sources())) == text
    assert to_toml(from_toml(text)) == text


def test_learning_ignores_the_order_of_rows_and_excluded_sources() -> None:
    rows, sources = public_rows(), public_sources()
    learned = learn(rows, sources)
    assert to_toml(learn(rows.sample(frac=1, random_state=1), sources)) == to_toml(learned)
    used = [name for name, source in sources.items() if not source.excluded]
    assert to_toml(learn(rows[rows["source"].isin(used)], sources)) == to_toml(learned)


def _simulated_groups(slope: float, spread: float, n_groups: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frames = []
    for group in range(n_groups):
        x = rng.standard_normal(40)
        own = np.clip(slope + spread * rng.standard_normal(), -0.95, 0.95)
        y = own * x + np.sqrt(1 - own**2) * rng.standard_normal(40)
        frame = pd.DataFrame({"pre_pass1": 1 / (1 + np.exp(-x)), "post": 0.4 + 0.05 * y})
        frames.append(frame.assign(group=f"g{group}", checkpoint=[f"c{i}" for i in range(40)]))
    rows = pd.concat(frames).assign(source="octothinker", model="m", benchmark="b")
    return rows.assign(**{name: np.nan for name in public_rows() if name not in rows})


def test_known_slope_spread_and_residual_are_recovered() -> None:
    """60 groups of 40: the error of the mean slope is about .035, of the spread about .02."""
    rows = _simulated_groups(slope=0.5, spread=0.2, n_groups=60, seed=0)
    [slope] = learn(rows, public_sources()).measured
    assert slope.slope == pytest.approx(0.5, abs=0.08)
    assert slope.between_sd == pytest.approx(0.2, abs=0.06)
    assert slope.residual_sd == pytest.approx(np.sqrt(1 - 0.5**2 - 0.2**2), abs=0.06)


def test_a_standing_is_the_standardised_logit_of_a_share() -> None:
    values = np.array([0.2, 0.5, 0.8])
    np.testing.assert_allclose(standing(values, Kind.PROBABILITY), [-1.0, 0.0, 1.0], atol=1e-12)
    assert not standing(np.array([0.3, 0.3]), Kind.PROBABILITY).any()
    assert np.isnan(standing(np.array([0.2, np.nan, 0.4]), Kind.PROBABILITY)[1])


# The order.


def test_without_outcomes_score_and_chance_are_those_of_the_formula() -> None:
    """Two rows stand at -+ 1/sqrt(2), and their own residuals are independent."""
    X = pd.DataFrame({SCORE.name: [0.3, 0.6]})
    order = order_checkpoints(X, [SCORE])
    slope = shipped_prior().slope("pass_at_k")
    gap = np.sqrt(2.0)
    np.testing.assert_allclose(order.score, [-slope.slope / gap, slope.slope / gap])
    prior_of_factor = np.exp(-0.5 * (np.log(_RESIDUALS) / 0.35) ** 2)
    sds = np.sqrt((gap * slope.between_sd) ** 2 + 2 * (_RESIDUALS * slope.residual_sd) ** 2)
    expected = np.average(norm.cdf(gap * slope.slope / sds), weights=prior_of_factor)
    assert order.chances_better("all")[1, 0] == pytest.approx(expected, abs=1e-3)


def test_pass_at_1_and_own_loss_weigh_about_the_same() -> None:
    """With the slopes .58 and .65 that were measured on all public rows."""
    prior = shipped_prior()
    slopes = tuple(replace(s, slope=0.58) if s.kind == "pass_at_k" else s for s in prior.slopes)
    X = pd.DataFrame({SCORE.name: [0.3, 0.5, 0.7, 0.5], LOSS.name: [0.8, 0.7, 0.8, 0.9]})
    order = order_checkpoints(
        X, [SCORE, LOSS], own_style=[LOSS.name], prior=replace(prior, slopes=slopes)
    )
    steps = order.score[2] - order.score[0], order.score[1] - order.score[3]
    assert steps[0] / steps[1] == pytest.approx(1.0, abs=0.25)


@given(st.floats(-50, 50), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_units_of_proxies_change_nothing(shift: float, scale: float) -> None:
    columns = [SCORE, LOSS, PLAIN]
    y = outcomes(a=0.3, d=0.5, e=0.45)
    other = SEVEN.assign(
        **{
            SCORE.name: 100 * SEVEN[SCORE.name],
            LOSS.name: scale * SEVEN[LOSS.name],
            PLAIN.name: shift + scale * SEVEN[PLAIN.name],
        }
    )
    percent = replace(SCORE, kind=Kind.PERCENT)
    first = order_checkpoints(SEVEN, columns, y, own_style=[LOSS.name])
    second = order_checkpoints(other, [percent, LOSS, PLAIN], y, own_style=[LOSS.name])
    np.testing.assert_allclose(second.score, first.score, atol=1e-6)
    np.testing.assert_allclose(second.interval(), first.interval(), atol=1e-5)


def test_unit_and_level_of_outcomes_change_nothing_where_their_spread_is_known() -> None:
    y = outcomes(a=0.3, d=0.5, e=0.45)
    first = order_checkpoints(SEVEN, [SCORE], y, outcome_sd=0.1)
    second = order_checkpoints(SEVEN, [SCORE], 7 - 0.5 + 100 * y, outcome_sd=10.0)
    np.testing.assert_allclose(second.score, first.score, atol=1e-9)
    np.testing.assert_allclose(second.chances_better("all"), first.chances_better("all"), atol=1e-9)


@given(st.permutations(range(7)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    y = outcomes(b=0.5, c=0.3)
    X = SEVEN.assign(**{GROUP: list("uuuvvvv")})
    first = order_checkpoints(X, [SCORE, PLAIN], y)
    second = order_checkpoints(X.iloc[order], [SCORE, PLAIN], y[order])
    np.testing.assert_allclose(second.score, first.score[order], atol=1e-9)


@given(st.lists(st.floats(0.05, 0.95), min_size=7, max_size=7), st.permutations(range(7)))
@settings(max_examples=25, deadline=None)
def test_more_outcomes_never_widen(values: list[float], turn: list[int]) -> None:
    """Given the unit and the residual. What is unknown of these may grow by a surprise."""
    before = None
    y = NONE.copy()
    for row in turn[:5]:
        y[row] = values[row] + 0.001 * row
        order = order_checkpoints(SEVEN, [SCORE, LOSS, PLAIN], y, outcome_sd=0.1)
        spread = {c.residual: order._variance(c) for c in order.components}
        if before is not None:
            for residual in spread.keys() & before.keys():
                assert (spread[residual] <= before[residual] + 1e-6 * before[residual]).all()
        before = spread


def test_one_outcome_gives_a_level_and_no_order() -> None:
    alone = order_checkpoints(SEVEN, [SCORE])
    one = order_checkpoints(SEVEN, [SCORE], outcomes(d=0.5))
    np.testing.assert_allclose(one.score, alone.score, atol=1e-3)
    assert np.isnan(alone.predicted()[0]).all()
    assert one.predicted()[0][3] == pytest.approx(0.5, abs=1e-6)


def test_many_outcomes_overrule_the_prior() -> None:
    """Where more pass@1 is worse, 40 outcomes say so; the order of the rest is turned round."""
    rng = np.random.default_rng(0)
    score = rng.uniform(0.2, 0.8, 60)
    y = 0.7 - 0.5 * score + 0.01 * rng.standard_normal(60)
    recorded = np.where(np.arange(60) < 40, y, np.nan)
    order = order_checkpoints(pd.DataFrame({SCORE.name: score}), [SCORE], recorded)
    assert np.corrcoef(order.score[40:], y[40:])[0, 1] > 0.95
    low, high = order.interval(0.9)
    assert np.mean((y >= low) & (y <= high)) > 0.8
    assert np.median(high - low) < 0.12


def test_nothing_switches_when_outcomes_come_one_by_one() -> None:
    """Each further outcome that agrees with the line moves a chance by a little."""
    y = 0.2 + 0.5 * SEVEN[SCORE.name].to_numpy()
    chances = []
    for n in range(7):
        recorded = np.where(np.arange(7) < n, y, np.nan)
        order = order_checkpoints(SEVEN, [SCORE], recorded, outcome_sd=0.07)
        chances.append(order.chances_better("all")[6, 5])
    steps = np.diff(chances)
    assert np.abs(steps).max() < 0.15
    assert chances[-1] > chances[0]


def test_groups_learn_from_each_other() -> None:
    """A slope against the prior in one group lowers it in a group without outcomes."""
    X = pd.concat([SEVEN, SEVEN]).assign(**{GROUP: list("uuuuuuuvvvvvvv")})
    against = 0.8 - SEVEN[SCORE.name].to_numpy()
    y = np.concatenate([against, NONE])
    alone = order_checkpoints(X, [SCORE]).score[7:]
    told = order_checkpoints(X, [SCORE], y).score[7:]
    assert told[3] - told[0] < alone[3] - alone[0], "d has the highest score, a the lowest"


# Chances.


def test_chances_are_capped_without_outcomes_and_the_cap_opens_with_them() -> None:
    prior = shipped_prior()
    sure = replace(
        prior, slopes=tuple(replace(s, between_sd=0.01, residual_sd=0.05) for s in prior.slopes)
    )
    alone = order_checkpoints(SEVEN, [SCORE], prior=sure)
    assert alone.chances_better("all").max() == pytest.approx(0.85)
    assert alone.chances_top("all").max() == pytest.approx(0.85)
    with_loss = order_checkpoints(SEVEN, [SCORE, LOSS], own_style=[LOSS.name], prior=sure)
    assert with_loss.cap("all") == pytest.approx(0.95)
    caps = [
        order_checkpoints(SEVEN, [SCORE], outcomes(**dict(zip("abcde"[:n], y, strict=True))))
        for n, y in ((0, []), (1, [0.3]), (5, [0.3, 0.5, 0.35, 0.6, 0.4]))
    ]
    assert [order.cap("all") for order in caps] == pytest.approx([0.85, 0.875, 0.925])


def test_chances_of_a_pair_sum_to_one_and_of_the_best_too() -> None:
    order = order_checkpoints(SEVEN, [SCORE], outcomes(a=0.3, b=0.5))
    chances = order.chances_better("all")
    np.testing.assert_allclose(chances + chances.T, 1.0, atol=1e-9)
    assert chances[1, 0] == pytest.approx(1.0), "both were recorded"
    top = order.chances_top("all", 1)
    assert top.sum() == pytest.approx(1.0, abs=1e-9)
    assert order.chances_top("all", 3).sum() == pytest.approx(3.0, abs=1e-9)
    np.testing.assert_array_equal(top, order.chances_top("all", 1, seed=0))
    assert order.chances_top("all", 7).tolist() == [1.0] * 7


def test_draws_agree_with_the_closed_form() -> None:
    order = order_checkpoints(SEVEN.iloc[:2], [SCORE])
    best = order.chances_top("all", 1, n_draws=40_000)
    assert best[1] == pytest.approx(order.chances_better("all")[1, 0], abs=0.01)


def test_the_interval_holds_its_share_of_draws() -> None:
    order = order_checkpoints(SEVEN, [SCORE], outcomes(a=0.3, b=0.5))
    drawn = order.draw("all", 20_000, np.random.default_rng(0))
    assert drawn[:, 0] == pytest.approx(0.3), "a recorded outcome is what it is"
    low, high = (end[3] for end in order.interval(0.8))
    assert np.mean((drawn[:, 3] >= low) & (drawn[:, 3] <= high)) == pytest.approx(0.8, abs=0.015)


# Warnings and bad input.


def test_warnings_name_the_format_floor_the_missing_loss_and_a_lone_checkpoint() -> None:
    X = pd.DataFrame({SCORE.name: [0.0, 0.002, 0.001, 0.5], GROUP: ["u", "u", "u", "v"]})
    told = " ".join(order_checkpoints(X, [SCORE]).warnings)
    assert "near 0" in told
    assert "own style" in told
    assert "group v has one checkpoint" in told
    fine = order_checkpoints(SEVEN, [SCORE, LOSS], own_style=[LOSS.name])
    assert not fine.warnings


def test_the_basis_says_that_no_run_is_the_users_and_how_often_it_was_right() -> None:
    basis = order_checkpoints(SEVEN, [SCORE]).basis
    assert "from public outcomes, no RL run of yours yet" in basis
    assert "public groups" in basis
    assert "2 of your own" in order_checkpoints(SEVEN, [SCORE], outcomes(a=0.3, b=0.5)).basis


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="no column 'nope'"):
        order_checkpoints(SEVEN, [Column(name="nope")])
    with pytest.raises(ConfigError, match=r"all 3 outcomes are 0\.4"):
        order_checkpoints(SEVEN, [SCORE], outcomes(a=0.4, b=0.4, c=0.4))
    with pytest.raises(ConfigError, match="no checkpoint"):
        order_checkpoints(SEVEN.iloc[:0], [SCORE])
    with pytest.raises(ConfigError, match="no group 'w'"):
        order_checkpoints(SEVEN, [SCORE]).chances_better("w")


def test_a_larger_k_of_pass_at_k_has_no_weight_beside_pass_at_1() -> None:
    larger = Column(name="pass_at_64@math", kind=Kind.PROBABILITY, sign=1)
    X = SEVEN.assign(**{larger.name: SEVEN[SCORE.name].to_numpy()[::-1]})
    both = order_checkpoints(X, [SCORE, larger]).score
    np.testing.assert_allclose(both, order_checkpoints(SEVEN, [SCORE]).score)


def test_kinds_that_a_row_lacks_widen_it() -> None:
    X = SEVEN.copy()
    X.loc["a", SCORE.name] = np.nan
    residual = order_checkpoints(X, [SCORE]).rows.residual
    assert (residual[0] > residual[1:]).all()
    for i, j in itertools.combinations(range(1, 7), 2):
        assert residual[i] == residual[j]
