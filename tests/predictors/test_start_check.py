"""What proxies say about GRPO before any step of it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.predictors.decisions.start_check import (
    Finding,
    Level,
    ProxyValue,
    StartRule,
    check_start,
    conflicts,
    mean_proxies,
    proxies_of,
    worst,
)
from rlready.registry.errors import ConfigError


def measured(**proxies: float | tuple[float, float]) -> dict[str, ProxyValue]:
    """Proxies on one benchmark, `x`; a pair is a value and its standard error."""
    return {
        f"{name}@x": ProxyValue(value=v[0], se=v[1])
        if isinstance(v, tuple)
        else ProxyValue(value=v)
        for name, v in proxies.items()
    }


def topic(findings: tuple[Finding, ...], name: str) -> Finding:
    (found,) = (finding for finding in findings if finding.topic == name)
    return found


def test_healthy_checkpoint_has_no_warning() -> None:
    found = check_start(
        measured(
            signal_share_8=0.7,
            pass_at_1=0.45,
            coverage_ratio_16=0.4,
            token_entropy=0.5,
            nll_ratio=1.01,
            truncated_share=0.01,
            unparsed_share=0.0,
            unscored_share=0.0,
        )
    )
    assert worst(found) is Level.OK
    assert {finding.topic for finding in found} == {
        "signal",
        "rate",
        "coverage",
        "entropy",
        "regime",
    }


@pytest.mark.parametrize(
    ("rate", "side"), [(0.001, "all wrong: easier"), (0.999, "all right: hard")]
)
def test_no_signal_stops_and_says_on_which_side(rate: float, side: str) -> None:
    found = check_start(measured(signal_share_8=(0.01, 0.005), pass_at_1=rate))
    assert found[0].level is Level.STOP
    assert "almost no gradient: 0.01 +- 0.005" in found[0].text
    assert side in found[0].text


def test_little_signal_that_errors_blur_only_warns() -> None:
    assert topic(check_start(measured(signal_share_8=(0.04, 0.02))), "signal").level is Level.WARN
    assert topic(check_start(measured(signal_share_8=(0.15, 0.01))), "signal").level is Level.WARN


def test_signal_of_another_group_size_is_a_bound() -> None:
    """The share rises with the group: 8 bounds 16 from below, 16 bounds 8 from above."""
    larger = StartRule(group_size=16)
    found = topic(check_start(measured(signal_share_8=0.01), rule=larger), "signal")
    assert found.level is Level.WARN
    assert (
        "it is too close to call whether GRPO has a gradient: "
        "0.01 of the groups of 8 (a lower bound for 16)" in (found.text)
    )
    found = topic(check_start(measured(signal_share_16=0.01)), "signal")
    assert found.level is Level.STOP
    assert "an upper bound for 8" in found.text
    assert topic(check_start(measured(signal_share_16=0.5)), "signal").level is Level.OK


@pytest.mark.parametrize(
    ("times", "level", "words"),
    [
        (0.5, Level.WARN, "more often all wrong than not"),
        (2.0, Level.WARN, "lost pass@10"),
        (3.0, Level.OK, "began at 4.2"),
        (6.0, Level.OK, "6.0 times p*(8)"),
    ],
)
def test_rate_is_held_against_p_star(times: float, level: Level, words: str) -> None:
    found = topic(check_start(measured(pass_at_1=times * math.log(2) / 8)), "rate")
    assert (found.level, words in found.text) == (level, True)


def test_p_star_is_where_half_of_the_groups_are_all_wrong() -> None:
    for group_size in (8, 16, 64):
        assert (1 - math.log(2) / group_size) ** group_size == pytest.approx(0.5, abs=0.02)


def test_coverage_warns_only_beyond_its_error() -> None:
    found = topic(check_start(measured(pass_at_1=0.5, coverage_ratio_16=(1.5, 0.1))), "coverage")
    assert found.level is Level.WARN
    assert "destroyed more" in found.text
    found = topic(check_start(measured(pass_at_1=0.5, coverage_ratio_16=(1.1, 0.1))), "coverage")
    assert found.level is Level.OK
    assert "less than twice its standard error" in found.text


def test_low_entropy_says_how_little_the_threshold_is_tested() -> None:
    found = topic(check_start(measured(token_entropy=0.1)), "entropy")
    assert found.level is Level.WARN
    assert "one ladder" in found.text


@pytest.mark.parametrize(
    ("ratio", "level", "regime"),
    [
        (1.0, Level.OK, "stable"),
        (1.02, Level.OK, "stable"),
        (1.05, Level.WARN, "mild overfitting"),
        (1.10, Level.WARN, "severe overfitting"),
    ],
)
def test_regime_follows_the_ratio(ratio: float, level: Level, regime: str) -> None:
    found = topic(check_start({"nll_ratio@heldout": ProxyValue(value=ratio)}), "regime")
    assert (found.level, regime in found.text) == (level, True)


def test_shares_of_lost_samples_warn() -> None:
    found = check_start(measured(truncated_share=0.3, unparsed_share=0.2, unscored_share=0.05))
    assert [finding.level for finding in found] == [Level.WARN] * 3
    assert "0.3 of the samples are cut at the token limit" in found[0].text


def test_a_start_that_fails_by_format_gets_other_advice_than_one_that_fails_by_skill() -> None:
    by_format = measured(lenient_pass_at_1=(0.4, 0.02), format_gap=(0.38, 0.02))
    found = topic(check_start(by_format), "format")
    assert (found.level, "fails by format" in found.text) == (Level.WARN, True)
    assert "--answer-format" in found.text
    by_skill = measured(lenient_pass_at_1=(0.02, 0.01), format_gap=(0.0, 0.0))
    found = topic(check_start(by_skill), "format")
    assert (found.level, "fails by skill, not by format" in found.text) == (Level.OK, True)
    able = topic(check_start(measured(lenient_pass_at_1=0.6, format_gap=0.01)), "format")
    assert "fails" not in able.text


def test_a_format_gap_within_its_error_does_not_warn() -> None:
    found = topic(check_start(measured(lenient_pass_at_1=0.5, format_gap=(0.15, 0.03))), "format")
    assert found.level is Level.OK


def test_conflict_is_named_with_its_size() -> None:
    ours = measured(pass_at_64=(0.70, 0.01), pass_at_16=(0.9, 0.01), heldout_nll=(0.50, 0.01))
    theirs = measured(pass_at_64=(0.80, 0.01), pass_at_16=(0.5, 0.01), heldout_nll=(0.60, 0.01))
    (found,) = conflicts(ours, theirs, "step 200")
    assert found.level is Level.WARN
    assert found.text == (
        "heldout_nll@x says better than step 200 (0.5 +- 0.01 against 0.6 +- 0.01, 7.1 standard "
        "errors), pass_at_64@x says worse (0.7 +- 0.01 against 0.8 +- 0.01, 7.1 standard errors)"
    )


@given(loss=st.floats(-3, 3), score=st.floats(-3, 3))
def test_conflict_needs_both_signals_beyond_two_errors(loss: float, score: float) -> None:
    ours = measured(pass_at_64=(score, 1.0), heldout_nll=(loss, 1.0))
    theirs = measured(pass_at_64=(0.0, 0.0), heldout_nll=(0.0, 0.0))
    found = conflicts(ours, theirs, "the other")
    assert bool(found) == (min(abs(loss), abs(score)) >= 2.0 and loss * score > 0)


def test_unknown_errors_name_no_conflict() -> None:
    ours = measured(pass_at_64=0.9, heldout_nll=0.9)
    assert conflicts(ours, measured(pass_at_64=0.1, heldout_nll=0.1), "the other") == ()
    assert conflicts(measured(pass_at_1=0.9), measured(), "the other") == ()


def test_mean_of_checkpoints_has_the_error_of_a_mean() -> None:
    mean = mean_proxies([measured(a=(1.0, 0.3), b=1.0), measured(a=(3.0, 0.4), c=1.0)])
    assert mean == {"a@x": ProxyValue(value=2.0, se=pytest.approx(0.25))}
    assert mean_proxies([]) == {}


def test_row_of_the_table_gives_its_proxies() -> None:
    row = {
        "checkpoint_id": "abc",
        "step": 3,
        "pass_at_1@x": 0.5,
        "pass_at_1_se@x": 0.1,
        "pass_at_1_n@x": 200,
        "heldout_nll@y": 1.5,
        "token_entropy@x": math.nan,
        "value_at_budget/60steps@x_after": 0.7,
    }
    assert proxies_of(row) == {
        "pass_at_1@x": ProxyValue(value=0.5, se=0.1),
        "heldout_nll@y": ProxyValue(value=1.5),
    }


def test_benchmark_has_to_be_named_among_several() -> None:
    proxies = {"pass_at_1@x": ProxyValue(value=0.5), "pass_at_1@y": ProxyValue(value=0.01)}
    with pytest.raises(ConfigError, match="samples were drawn on x, y"):
        check_start(proxies)
    with pytest.raises(ConfigError, match=r"samples of 'z'\. Sampled benchmarks: x, y"):
        check_start(proxies, "z")
    assert worst(check_start(proxies, "x")) is Level.OK
    assert worst(check_start(proxies, "y")) is Level.WARN


def test_nothing_measured_says_nothing() -> None:
    assert check_start({}) == ()
    assert worst(()) is Level.OK


def test_findings_are_json() -> None:
    found = check_start(measured(signal_share_8=0.01))
    assert json.loads(json.dumps([finding.to_dict() for finding in found]))[0]["level"] == "stop"


def test_group_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="group of 1 samples"):
        StartRule(group_size=1)
