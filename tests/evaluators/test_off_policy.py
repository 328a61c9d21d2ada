"""Quantiles of the log ratio between a checkpoint and its base model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.metrics.off_policy import off_policy_proxies, quantiles
from rlready.registry.errors import EvaluationError

numbers = st.floats(-50, 50, allow_nan=False, width=32)
texts = st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=2, max_size=8)


@given(texts, st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_a_quantile_is_numpys(groups: list[list[float]], level: float) -> None:
    values = np.concatenate(groups).astype(np.float64)
    (found,) = quantiles(values, [len(own) for own in groups], [level])
    assert found.value == np.quantile(values, level, method="inverted_cdf")
    assert found.se is not None


def test_the_error_is_that_of_whole_examples() -> None:
    """Tokens of one example go together: copies of a token tell nothing new."""
    rng = np.random.default_rng(1)
    example_means = rng.normal(size=200)
    values = np.repeat(example_means, 50)
    (found,) = quantiles(values, [50] * 200, [0.5])
    # The median of 200 normal numbers: sqrt(pi / 2 / 200).
    assert found.se == pytest.approx(np.sqrt(np.pi / 2 / 200), rel=0.35)
    (naive,) = quantiles(values, [1] * 10_000, [0.5])
    assert naive.se is not None
    assert found.se is not None
    assert naive.se < found.se / 3


def test_it_is_the_log_of_the_checkpoints_probability_over_the_bases() -> None:
    sft = [np.array([1.0, 0.5], np.float32), np.array([2.0], np.float32)]
    base = [np.array([1.5, 2.5], np.float32), np.array([1.0], np.float32)]
    found = {proxy.name: proxy for proxy in off_policy_proxies(sft, base, "val", "d" * 32)}
    # ln sft - ln base = 0.5, 2.0 and -1.0.
    assert found["off_policy_q50"].value == pytest.approx(0.5)
    assert found["off_policy_q90"].value == pytest.approx(2.0)
    assert found["off_policy_q50"].n_samples == 3
    assert found["off_policy_q50"].unit == "nats/token"


def test_one_example_has_no_error() -> None:
    nlls = [np.ones(4, np.float32)]
    assert [proxy.se for proxy in off_policy_proxies(nlls, nlls, "val", "d" * 32)] == [None, None]


def test_other_tokens_are_told() -> None:
    with pytest.raises(EvaluationError, match="not scored on the same tokens"):
        off_policy_proxies([np.ones(2, np.float32)], [np.ones(3, np.float32)], "val", "d" * 32)
