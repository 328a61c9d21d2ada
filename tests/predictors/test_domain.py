"""Rows are in, at the edge or out of what the training rows say, and the reasons are in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from simulation import simulate

from rlready.predictors.calibration.domain import Place, domain_of
from rlready.predictors.training_table import GROUP, TrainingTable, training_table


def split(seed: int, n_groups: int = 8) -> tuple[TrainingTable, TrainingTable, TrainingTable]:
    """Training rows, further rows of their groups, and the rows of a new group."""
    table = simulate(n_groups + 1, 24, np.random.default_rng(seed)).table
    at = np.tile(np.arange(24), n_groups + 1)
    is_new = table.groups == f"g{n_groups:02d}"
    return (
        table.rows(~is_new & (at < 12)),
        table.rows(~is_new & (at >= 12)),
        table.rows(is_new & (at < 12)),
    )


def shifted(X: pd.DataFrame, train: TrainingTable, by: float) -> pd.DataFrame:
    """Every proxy moved by so many standard deviations inside groups, on its linear scale."""
    domain = domain_of(train)
    X = X.copy()
    for name, sd in zip(domain.names, domain.sd, strict=True):
        x = X[name].to_numpy()
        if "nll" in name or "tokens" in name:
            X[name] = x * np.exp(by * sd)
        elif "pass" in name or "share" in name:
            X[name] = 1 / (1 + (1 / x - 1) * np.exp(-by * sd))
        else:
            X[name] = x + by * sd
    return X


def share_flagged(places: tuple[Place, ...]) -> float:
    return float(np.mean([place is not Place.IN for place in places]))


def test_few_rows_like_the_training_rows_are_flagged_and_nearly_all_shifted_ones() -> None:
    """Means over 12 registries; the bench has the exact figures."""
    false, new, true = [], [], []
    for seed in range(12):
        train, more, fresh = split(seed)
        domain = domain_of(train)
        false.append(share_flagged(domain.place(more.X).places))
        new.append(share_flagged(domain.place(fresh.X).places))
        true.append(share_flagged(domain.place(shifted(more.X, train, 3.0)).places))
    assert np.mean(false) < 0.07
    assert np.mean(new) < 0.12
    assert np.mean(true) > 0.93


def test_a_group_of_another_level_is_flagged_as_a_group() -> None:
    train, _, fresh = split(0)
    placed = domain_of(train).place(shifted(fresh.X, train, 8.0))
    assert all(place is not Place.IN for place in placed.places)
    assert "level of group g08" in placed.reasons[0][0]


def test_another_level_of_a_known_proxy_is_no_reason_to_flag_a_known_group() -> None:
    """Groups of the training table are measured from their own level, however far apart."""
    train, more, _ = split(1)
    far = train.X.copy(), more.X.copy()
    for X in far:
        X.loc[X[GROUP] == "g00", "token_entropy@sim"] += 1000.0
    before = domain_of(train).place(more.X)
    after = domain_of(replace(train, X=far[0])).place(far[1])
    inside = (more.groups == "g00").nonzero()[0]
    assert [after.places[row] for row in inside] == [before.places[row] for row in inside]


def test_the_reason_names_the_proxy_and_how_far_it_is() -> None:
    train, more, _ = split(2)
    X = more.X.iloc[:1].copy()
    X["heldout_nll@sim"] *= 5.0
    placed = domain_of(train).place(X)
    assert placed.places[0] is Place.OUT
    assert any("heldout_nll@sim" in r and "standard deviations" in r for r in placed.reasons[0])


def test_an_unusual_combination_of_usual_numbers_is_flagged() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=100)
    frame = pd.DataFrame({"a": a, "b": a + 0.05 * rng.normal(size=100), "y": a})
    train = training_table(frame, target="y", features=["a", "b"])
    X = train.X.iloc[:1].copy()
    X["a"], X["b"] = 1.0, -1.0
    placed = domain_of(train).place(X)
    assert placed.places[0] is not Place.IN
    assert any("combination" in reason for reason in placed.reasons[0])


def test_unseen_category_missing_proxies_and_a_changed_constant_are_flagged() -> None:
    train, more, _ = split(3)
    X = train.X.assign(rl_recipe="grpo", fixed=1.0)
    columns = (*train.columns, replace(train.columns[-1], name="fixed", error=None))
    domain = domain_of(replace(train, X=X, columns=columns))
    row = more.X.iloc[[0]].assign(rl_recipe="grpo", fixed=1.0)
    usual = domain.place(row)
    dapo = domain.place(row.assign(rl_recipe="dapo"))
    assert dapo.places[0] is Place.OUT
    assert "rl_recipe 'dapo' was not among the training rows: grpo" in dapo.reasons[0]
    assert domain.place(row.assign(fixed=2.0)).score[0] > max(1.0, usual.score[0])
    empty = domain.place(row.assign(**dict.fromkeys(domain.names, np.nan)))
    assert empty.places[0] is Place.OUT
    assert "9 of 9 proxies are missing" in empty.reasons[0]


def test_models_that_disagree_put_a_row_at_the_edge() -> None:
    train, more, _ = split(4)
    n = len(more)
    placed = domain_of(train).place(more.X, disagreement=np.full(n, 5.0), cv_error=2.0)
    assert Place.IN not in placed.places
    assert "2.5 times the error" in placed.reasons[0][-1]
    calm = domain_of(train).place(more.X, disagreement=np.full(n, 3.0), cv_error=2.0)
    assert calm.places == domain_of(train).place(more.X).places


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_tiny_groups_give_an_answer(n_rows: int) -> None:
    table = simulate(4, n_rows, np.random.default_rng(5)).table
    placed = domain_of(table).place(table.X)
    assert np.isfinite(placed.score).all()
    told = [bool(reasons) for reasons in placed.reasons]
    assert told == [place is not Place.IN for place in placed.places]


def test_collinear_and_repeated_columns_give_an_answer() -> None:
    train, more, _ = split(6)
    columns = (*train.columns, replace(train.columns[0], name="again"))
    X = train.X.assign(again=train.X["pass_at_1@sim"])
    domain = domain_of(replace(train, X=X, columns=columns))
    placed = domain.place(more.X.assign(again=more.X["pass_at_1@sim"]))
    assert share_flagged(placed.places) < 0.2
