"""The ceiling of RL curves with a known one, of real ones, and when there is no answer."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from places import data_path
from rl_ceiling import Ceiling, CeilingRule, fit_ceiling

from rlready.predictors.rl_curve import Curve, CurvePoint
from rlready.registry.errors import ConfigError

RETU = data_path("retu")
BUDGETS = np.linspace(4.0, 240.0, 60)


def law(
    x: np.ndarray, *, ceiling: float = 77.0, half: float = 40.0, steep: float = 1.5
) -> np.ndarray:
    return np.asarray(70.0 + (ceiling - 70.0) / (1.0 + (x / half) ** -steep))


def curve(x: np.ndarray, y: np.ndarray) -> Curve:
    points = (CurvePoint(budget=float(a), value=float(b)) for a, b in zip(x, y, strict=True))
    return Curve(benchmark="x", points=tuple(points))


def noise(seed: int = 0, n: int = 60) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).standard_normal(n)


@pytest.mark.parametrize("start", [70.0, None])
def test_curve_without_noise_gives_its_own_parameters(start: float | None) -> None:
    found = fit_ceiling(curve(BUDGETS, law(BUDGETS)), start)
    # The grid of shapes resolves the ceiling to about 1 % of the gain.
    assert found.value == pytest.approx(77.0, abs=0.07)
    assert found.half_budget == pytest.approx(40.0, rel=0.04)
    assert found.steepness == pytest.approx(1.5, rel=0.04)
    assert found.start == pytest.approx(70.0, abs=0.2)


def test_interval_holds_the_ceiling_of_most_noisy_curves() -> None:
    found = [fit_ceiling(curve(BUDGETS, law(BUDGETS) + noise(seed)), 70.0) for seed in range(20)]
    assert sum(one.low <= 77.0 <= one.high for one in found) >= 15
    assert sum(one.value is not None for one in found) >= 18


def test_unit_of_scores_and_budgets_does_not_matter() -> None:
    y = law(BUDGETS) + noise()
    percent, share = (
        fit_ceiling(curve(BUDGETS, y), 70.0),
        fit_ceiling(curve(BUDGETS * 1e3, y / 100), 0.7),
    )
    assert percent.value is not None
    assert share.value == pytest.approx(percent.value / 100, abs=2e-4)
    assert share.low == pytest.approx(percent.low / 100, abs=2e-4)
    assert share.half_budget == pytest.approx(1e3 * percent.half_budget, rel=0.02)


def test_late_collapse_and_bad_evaluations_are_left_out() -> None:
    y = law(BUDGETS) + noise()
    whole = fit_ceiling(curve(BUDGETS, y), 70.0)
    spoilt = y.copy()
    spoilt[-8:] -= np.linspace(3.0, 20.0, 8)
    spoilt[[5, 17, 30]] -= 6.0
    found = fit_ceiling(curve(BUDGETS, spoilt), 70.0)
    assert found.value is not None
    assert whole.value is not None
    assert found.value == pytest.approx(whole.value, abs=0.3)
    assert 10 <= found.n_trimmed <= 13


def test_curve_that_still_rises_has_no_ceiling() -> None:
    found = fit_ceiling(curve(BUDGETS, law(BUDGETS, half=400.0) + noise()), 70.0, upper=100.0)
    assert found.value is None
    assert found.why_not


def test_short_flat_and_falling_curves_have_no_ceiling() -> None:
    short = fit_ceiling(curve(BUDGETS[:7], law(BUDGETS[:7])), 70.0)
    assert short.value is None
    assert short.why_not == "7 evaluations after the start; 8 are needed"
    flat = fit_ceiling(curve(BUDGETS, 70.0 + noise(1)), 70.0)
    assert flat.value is None
    falling = fit_ceiling(curve(BUDGETS, 70.0 - BUDGETS / 50 + noise()), 70.0)
    assert falling.value is None
    assert falling.why_not == "the scores do not rise above the start"


def test_constant_curve_is_answered_without_a_number() -> None:
    for start in (70.0, None):
        found = fit_ceiling(curve(BUDGETS, np.full(60, 70.0)), start)
        assert found.value is None


def test_start_that_rl_shifts_at_once_is_told_by_its_error() -> None:
    y = law(BUDGETS) + noise()
    fixed, loose = (fit_ceiling(curve(BUDGETS, y), 73.0, start_error=e) for e in (0.0, 3.0))
    assert fixed.start == pytest.approx(73.0, abs=1e-3)
    assert loose.start == pytest.approx(70.0, abs=1.0)
    assert loose.value == pytest.approx(77.0, abs=0.5)


def test_answer_is_json_with_no_infinity() -> None:
    rising = fit_ceiling(curve(BUDGETS, law(BUDGETS, half=400.0) + noise()), 70.0)
    for found in (rising, fit_ceiling(curve(BUDGETS[:3], law(BUDGETS[:3])))):
        told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert told["value"] is None
        assert told["why_not"]


def test_strict_rule_claims_less() -> None:
    data = curve(BUDGETS, law(BUDGETS) + noise())
    assert fit_ceiling(data, 70.0).value is not None
    strict = CeilingRule(widest=0.001, noise_width=0.001)
    assert fit_ceiling(data, 70.0, rule=strict).value is None


def test_wrong_numbers_are_refused() -> None:
    data = curve(BUDGETS, law(BUDGETS))
    with pytest.raises(ConfigError, match="above the largest possible one, 1"):
        fit_ceiling(data, upper=1.0)
    with pytest.raises(ConfigError, match="start of an RL curve is nan"):
        fit_ceiling(data, math.nan)
    with pytest.raises(ConfigError, match="error of the start is -1"):
        fit_ceiling(data, 70.0, start_error=-1.0)


@pytest.fixture(scope="module")
def retu() -> dict[tuple[str, str], tuple[Ceiling, float]]:
    """Our ceiling and the paper's of each RETU run, percent."""
    curves: dict[tuple[str, str], dict[float, float]] = {}
    with (RETU / "rl_curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            points = curves.setdefault((row["sft_data"], row["sft_step"]), {})
            points.setdefault(float(row["rl_exaflops"]), float(row["overall"]))
    found = {}
    with (RETU / "checkpoints.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["sft_data"], row["sft_step"])
            x = np.array(sorted(curves[key]))
            data = curve(x, np.array([curves[key][budget] for budget in x]))
            ceiling = fit_ceiling(data, float(row["paper_psft"]), upper=100.0)
            found[key] = (ceiling, float(row["paper_apost"]))
    return found


def test_real_curves_agree_with_the_paper_where_they_tell(
    retu: dict[tuple[str, str], tuple[Ceiling, float]],
) -> None:
    told = {key: pair for key, pair in retu.items() if pair[0].value is not None}
    assert len(told) >= 4
    for ceiling, paper in told.values():
        assert ceiling.value == pytest.approx(paper, abs=0.3)
        assert ceiling.low <= paper <= ceiling.high


def test_most_real_curves_do_not_tell_their_ceiling(
    retu: dict[tuple[str, str], tuple[Ceiling, float]],
) -> None:
    """The paper gives a number for all 17; the data support few of them."""
    untold = [ceiling for ceiling, _ in retu.values() if ceiling.value is None]
    assert len(untold) >= 9
    assert all(ceiling.why_not for ceiling in untold)
