"""Coordinates of mixtures: there and back, floors and caps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.predictors.search.space_parts import Parametrisation, Simplex
from rlready.registry.errors import ConfigError

KINDS: tuple[Parametrisation, ...] = ("stick", "softmax", "sparse", "dirichlet")


def simplex(
    sources: Sequence[str],
    parametrisation: Parametrisation = "stick",
    floors: Sequence[float] | None = None,
    caps: Sequence[float] | None = None,
) -> Simplex:
    """Mixtures of the sources; by default, all floors are 0 and all caps are 1."""
    d = len(sources)
    return Simplex(
        sources=tuple(sources),
        floors=np.array(floors if floors is not None else [0.0] * d),
        caps=np.array(caps if caps is not None else [1.0] * d),
        parametrisation=parametrisation,
    )


@st.composite
def bounded(draw: st.DrawFn, kinds: tuple[Parametrisation, ...] = KINDS) -> Simplex:
    """A simplex of 1 to 7 sources with floors and caps that some mixture meets."""
    d = draw(st.integers(1, 7))
    share = st.floats(0.0, 1.0)
    floors = np.array([draw(share) for _ in range(d)]) * draw(share) / d
    caps = np.maximum(np.array([draw(st.floats(0.05, 1.0)) for _ in range(d)]), floors)
    if caps.sum() < 1.0:
        caps = np.ones(d)
    return simplex([f"s{i}" for i in range(d)], draw(st.sampled_from(kinds)), floors, caps)


def draws(space: Simplex, seed: int, n: int = 20) -> np.ndarray:
    low, high = space.bounds
    return low + (high - low) * np.random.default_rng(seed).random((n, len(space.names)))


@given(bounded(), st.integers(0, 10_000))
@settings(max_examples=150)
def test_any_coordinates_give_a_mixture_within_floors_and_caps(space: Simplex, seed: int) -> None:
    for weights in space.weights(draws(space, seed)):
        assert space.allows(weights)


@given(bounded(), st.integers(0, 10_000))
@settings(max_examples=150)
def test_mixtures_come_back_from_their_coordinates(space: Simplex, seed: int) -> None:
    weights = space.weights(draws(space, seed))
    coordinates = space.coordinates(weights)
    low, high = space.bounds
    assert ((coordinates >= low) & (coordinates <= high)).all()
    np.testing.assert_allclose(space.weights(coordinates), weights, atol=1e-6)


@given(bounded(("stick", "sparse", "dirichlet")), st.integers(0, 10_000))
@settings(max_examples=100)
def test_allowed_mixtures_with_zeros_survive(space: Simplex, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sparse = rng.dirichlet(np.full(len(space.sources), 0.05), 20)
    weights = space.project(np.where(sparse < 1e-3, 0.0, sparse))
    np.testing.assert_allclose(space.weights(space.coordinates(weights)), weights, atol=1e-6)


@given(bounded(), st.integers(0, 10_000))
@settings(max_examples=100)
def test_projecting_an_allowed_mixture_changes_nothing(space: Simplex, seed: int) -> None:
    weights = space.weights(draws(space, seed))
    np.testing.assert_allclose(space.project(weights), weights, atol=1e-9)


def test_softmax_lifts_a_zero_to_its_lowest_weight() -> None:
    space = simplex("abc", "softmax")
    found = space.weights(space.coordinates(np.array([[1.0, 0.0, 0.0]])))
    assert found[0, 1] == pytest.approx(np.exp(-8.0), rel=1e-2)


def test_stick_keeps_its_digits_near_a_vertex_of_many_sources() -> None:
    """With the Beta quantile's level itself as coordinate a weight of 0.95 came back as 1."""
    space = simplex([str(i) for i in range(17)], "stick")
    weights = np.full((1, 17), 0.05 / 16)
    weights[0, 0] = 0.95
    np.testing.assert_allclose(space.weights(space.coordinates(weights)), weights, rtol=1e-6)


def test_uniform_sticks_are_uniform_over_the_simplex() -> None:
    space = simplex("abcd", "stick")
    weights = space.weights(draws(space, 0, 20_000))
    np.testing.assert_allclose(weights.mean(axis=0), 0.25, atol=0.01)
    np.testing.assert_allclose(weights.std(axis=0), np.sqrt(0.25 * 0.75 / 5), atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_one_source_has_no_coordinates(kind: Parametrisation) -> None:
    space = simplex(["only"], kind)
    assert space.names == ()
    assert space.weights(np.empty((3, 0))).tolist() == [[1.0]] * 3
    assert space.coordinates(np.ones((3, 1))).shape == (3, 0)


@pytest.mark.parametrize(
    ("floors", "caps", "said"),
    [
        ([0.6, 0.5], [1.0, 1.0], "floors of the sources sum to 1.1"),
        ([0.0, 0.0], [0.4, 0.5], "caps of the sources sum to 0.9"),
        ([0.5, 0.0], [0.4, 1.0], "'a' has floor 0.5 and cap 0.4"),
    ],
)
def test_bounds_that_no_mixture_meets_are_refused(
    floors: list[float], caps: list[float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        simplex("ab", "stick", floors, caps)


def test_an_unknown_parametrisation_names_the_known() -> None:
    with pytest.raises(ConfigError, match="stick, softmax, sparse, dirichlet"):
        simplex("ab", "logit")  # type: ignore[arg-type]


def test_a_source_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        simplex("aba")
